"""Question answering from end to end: SQuAD's file, training, measuring and answering by command."""

import json

import pytest

import qa
import tiny
from cli_models import read_rows, write_rows
from magic_pyramid import QuestionAnswering, TrainConfig, fit, load_data
from magic_pyramid.checkpoint import to_huggingface
from magic_pyramid.tokenization import TextEncoder

FAST = TrainConfig(
    epochs={"finetune": 6, "soft_prune": 1, "hard_prune": 1},
    min_steps=0,
    learning_rate=3e-3,
    learning_rate_final_head=1e-2,
    max_sequences_per_batch=8,
    max_drop=5.0,
    dropout=0.0,
)
OPTIONS = (
    *("--preset", "ltp", "--epochs", "finetune=1,soft_prune=1,hard_prune=1", "--max-length", "24"),
    *("--device", "cpu", "--threads", "1"),
)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    small = tiny.PLAIN.replace(backbone=tiny.BACKBONE.replace(num_hidden_layers=2))
    to_huggingface(tiny.build(small, spread=0.02), folder, encoder=TextEncoder(tiny.tokenizer()))
    return str(folder)


@pytest.mark.parametrize(
    ("preset", "changes", "config"),
    [
        ("bert", {}, FAST),
        ("ltp", {"prune.final_threshold": 0.12}, FAST),
        (
            "top",
            {"prune.num_bins": 10, "prune.layers": (0, 1)},
            FAST.replace(
                epochs={"finetune": 6, "soft_prune": 4, "hard_prune": 1},
                target_speedup=1.2,
                budget_exact=True,
                rank_weight=0.01,
                distill_weight=1.0,
                learning_rate_thresholds=0.3,
                learning_rate_budget=0.5,
            ),
        ),
    ],
)
def test_it_learns_to_answer(preset, changes, config, encoder, tmp_path):
    data = load_data(qa.squad(tmp_path / "train.json", articles=24, seed=0))
    output = tmp_path / "model"

    report = fit(
        model=encoder,
        data=data,
        output=output,
        preset=preset,
        config=config,
        model_changes=changes,
        device="cpu",
    )

    answering = QuestionAnswering.from_pretrained(output)
    test = load_data(qa.squad(tmp_path / "test.json", articles=6, seed=1), split="test").splits["test"]
    row = answering.evaluate(test, repeats=0)
    assert row["accuracy"] > 0.9
    assert row["exact_match"] > 0.9
    assert report["validation"]["metric"] == "F1"
    assert (row["flops_speedup"] > 1) == (preset != "bert")
    found = answering(question="the film is", context="the plot was lovely and the actor")
    assert (found["answer"], found["start"], found["end"]) == ("lovely", 13, 19)
    card = (output / "README.md").read_text(encoding="utf-8")
    assert "QuestionAnswering.from_pretrained" in card
    assert 'pipeline_tag: "question-answering"' in card


def test_it_learns_when_there_is_no_answer(encoder, tmp_path):
    data = load_data(qa.squad(tmp_path / "train.json", articles=24, seed=0, impossible=0.4))
    output = tmp_path / "model"
    fit(model=encoder, data=data, output=output, preset="bert", config=FAST, device="cpu")

    answering = QuestionAnswering.from_pretrained(output)
    assert answering.config.span.no_answer_threshold is not None
    assert answering(question="the film is", context="the plot was loud and the actor")["answer"] == ""
    assert answering(question="the film is", context="the plot was good and the actor")["answer"] == "good"


def test_train_evaluate_and_predict_know_the_task(run, encoder, tmp_path):
    file, output = qa.squad(tmp_path / "all.json", articles=6, seed=0), str(tmp_path / "model")
    shared = ("--data", file, "--test-share", "0.34")

    code, out, err = run("train", "--model", encoder, *shared, "--output", output, *OPTIONS, "--json")
    assert code == 0, err
    assert "24 train, 8 validation, 16 test (validation held out of train); question answering" in err
    assert json.loads(out)["validation"]["metric"] == "F1"

    code, out, err = run("evaluate", output, *shared, "--repeats", "0", "--json")
    assert code == 0, err
    row = json.loads(out)
    assert row["num_examples"] == 16
    assert {"accuracy", "exact_match", "flops_speedup"} <= set(row)

    answers = tmp_path / "answers.jsonl"
    code, _, err = run("predict", output, "--input", file, "--output", answers)
    assert code == 0, err
    rows = read_rows(answers)
    assert len(rows) == 48
    for found in rows:
        assert found["answer"] == found["context"][found["start"] : found["end"]]
        assert found["tokens"] == found["num_tokens"][0]
        assert found["num_layers_run"] == 2
    lines = answers.read_bytes().splitlines(keepends=True)
    answers.write_bytes(b"".join(lines[:20]))
    code, _, err = run("predict", output, "--input", file, "--output", answers, "--resume")
    assert code == 0, err
    assert answers.read_bytes().splitlines(keepends=True) == lines

    code, out, _ = run("info", output)
    assert code == 0
    assert "span" in out


@pytest.fixture(scope="module")
def answering(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "qa"
    qa.answering().save_pretrained(folder)
    return str(folder)


def test_a_question_is_answered_as_a_table(run, answering):
    code, out, _ = run("predict", answering, "the actor", "--text-pair", qa.CONTEXT)
    assert code == 0
    assert "answer" in out
    assert "3 of 3" in out


def test_answers_are_written_as_a_table_with_their_own_columns(run, answering, tmp_path):
    rows = [{"question": "the actor", "context": qa.CONTEXT, "answers": "mine"}]
    code, out, err = run(
        "predict", answering, "--input", write_rows(tmp_path / "in.jsonl", rows), "--output-format", "csv"
    )
    assert code == 0, err
    assert out.splitlines()[0] == (
        "question,context,answers,answer,score,start,end,num_windows,num_layers_run,tokens,num_tokens,gflops,error"
    )


def test_a_row_without_a_context_is_one_bad_row(run, answering, tmp_path):
    rows = [{"question": "the actor", "context": qa.CONTEXT}, {"question": "the actor", "context": ""}]
    code, out, err = run("predict", answering, "--input", write_rows(tmp_path / "in.jsonl", rows))
    assert code == 1
    assert "'context' is empty" in err
    assert "error" in json.loads(out.splitlines()[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("predict", "MODEL", "a", "--text-pair", "film", "--exit-threshold", "0.3"), "--exit-threshold"),
        (("predict", "MODEL", "a", "--text-pair", "film", "--speed", "fastest"), "--speed does nothing"),
        (("explain", "MODEL", "the actor"), "use QuestionAnswering"),
        (("bench", "MODEL", "--data", "DATA"), "bench is for classifiers"),
        (("calibrate", "MODEL", "--data", "DATA", "--split", "train"), "calibrate is for classifiers"),
        (("export", "MODEL", "--output", "OUT", "--to", "onnx"), "an exported graph is for classifiers"),
        (("export", "MODEL", "--output", "OUT", "--to", "native"), "the native engine is for classifiers"),
    ],
)  # fmt: skip
def test_what_does_not_go_with_questions_is_refused_in_a_sentence(
    arguments, message, run, answering, tmp_path
):
    data = qa.squad(tmp_path / "train.json", articles=2, seed=0)
    places = {"MODEL": answering, "DATA": data, "OUT": tmp_path / "out"}
    code, _, err = run(*(places.get(argument, argument) for argument in arguments))
    assert code in (1, 2)
    assert message in err


def test_a_preset_with_exits_is_refused_before_training(run, encoder, tmp_path):
    data = qa.squad(tmp_path / "train.json", articles=2, seed=0)
    code, _, err = run("train", "--model", encoder, "--data", data, "--output", tmp_path / "out")
    assert code == 2
    assert "use a preset without exits, such as ltp, top or bert" in err


def test_data_of_another_task_is_refused(run, answering, tmp_path):
    rows = [{"text": "a film", "text_pair": "the plot", "label": 1}]
    code, _, err = run("evaluate", answering, "--data", write_rows(tmp_path / "rows.jsonl", rows))
    assert code == 2
    assert "the answers are 1; write them as" in err
