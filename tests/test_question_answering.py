"""What people hold: questions in, answers with their receipts out."""

import json

import numpy as np
import pytest

import qa
import tiny
from magic_pyramid import Classifier, InputError, QuestionAnswering, calibration
from magic_pyramid.checkpoint import load_model, save_model, to_huggingface
from magic_pyramid.config import ExitConfig, ModelConfig, PruneConfig, SpanConfig
from magic_pyramid.cost import CostModel
from magic_pyramid.engine.interface import DENSE
from magic_pyramid.engine.torch_engine import TorchEngine
from magic_pyramid.errors import CheckpointError, ConfigError
from magic_pyramid.evaluation import BUCKETS
from magic_pyramid.export import export_native, export_onnx, export_single_graph, native_engine
from magic_pyramid.labelled_rows import label_rows
from magic_pyramid.metrics import examples_of
from magic_pyramid.reproduce.measure import Measured, Split
from magic_pyramid.spans import f1_score
from magic_pyramid.tokenization import TextEncoder

QUESTION = "was the actor good"


@pytest.fixture(scope="module")
def answering():
    return qa.answering()


def test_an_answer_is_the_part_of_the_context_that_it_says(answering):
    found = answering(question=QUESTION, context=qa.CONTEXT)
    assert found["answer"] == qa.CONTEXT[found["start"] : found["end"]]
    assert found["answer"]
    assert 0 <= found["score"] <= 1
    json.dumps(found)


def test_the_receipt_adds_up_the_windows(answering):
    found = answering(question=QUESTION, context=qa.CONTEXT)
    rows = label_rows(answering._runner.encoder, [qa.EXAMPLES[0]], answering.config)
    # 32 places less question, [CLS] and two [SEP] hold 25 of 19 words: one window; a third of them, three.
    assert found["num_windows"] == len(rows) == 1
    assert found["num_tokens"][0] == sum(rows.encoded.lengths)
    assert found["num_tokens"] == sorted(found["num_tokens"], reverse=True)
    dense = answering(question=QUESTION, context=qa.CONTEXT, prune_scale=0.0)
    assert dense["num_tokens"] == [dense["num_tokens"][0]] * 4
    assert (
        dense["gflops"]
        == CostModel(answering.config).dense_flops(np.array([dense["num_tokens"][0]]))[0] / 1e9
    )
    assert found["gflops"] < dense["gflops"]


def test_windows_of_a_long_context_answer_together():
    narrow = qa.answering(qa.CONFIG.replace(max_length=16))
    found = narrow(question=QUESTION, context=qa.CONTEXT)
    rows = label_rows(narrow._runner.encoder, [qa.EXAMPLES[0]], narrow.config)
    assert found["num_windows"] == len(rows) > 1
    assert found["num_tokens"][0] == sum(rows.encoded.lengths)


def test_many_questions_are_answered_as_one_by_one(answering):
    pairs = [(example.text, example.text_pair) for example in qa.EXAMPLES]
    together = answering(question=[pair[0] for pair in pairs], context=[pair[1] for pair in pairs])
    alone = [answering(question=question, context=context) for question, context in pairs]
    for one, other in zip(together, alone, strict=True):
        assert one["answer"] == other["answer"]
        assert one["num_tokens"] == other["num_tokens"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)
    shared = answering(question=[pairs[0][0], pairs[1][0]], context=qa.CONTEXT)
    assert [found["answer"] for found in shared] == [found["answer"] for found in together[:2]]


def test_more_answers_come_in_their_order(answering):
    ((*found,),) = answering.answer([(QUESTION, qa.CONTEXT)], count=5)
    assert len({(answer["start"], answer["end"]) for answer in found}) == 5
    assert found[0] == answering(question=QUESTION, context=qa.CONTEXT)


def test_a_question_may_have_no_answer(answering):
    found = answering(question=QUESTION, context=qa.CONTEXT, no_answer_threshold=-1e6)
    assert (found["answer"], found["start"], found["end"]) == ("", 0, 0)
    always = answering(question=QUESTION, context=qa.CONTEXT, no_answer_threshold=1e6)
    assert always["answer"]
    stored = qa.answering(qa.CONFIG.replace(span=SpanConfig(no_answer_threshold=-1e6)))
    assert stored(question=QUESTION, context=qa.CONTEXT)["answer"] == ""
    assert stored(question=QUESTION, context=qa.CONTEXT, no_answer_threshold=None)["answer"]


def test_nothing_asked_is_nothing_answered(answering):
    assert answering.answer([]) == []


@pytest.mark.parametrize("max_length", [32, 16])
def test_evaluation_judges_questions_and_charges_all_windows(max_length):
    answering = qa.answering(qa.CONFIG.replace(max_length=max_length))
    row = answering.evaluate(qa.EXAMPLES, repeats=0)
    found = [answering(question=example.text, context=example.text_pair) for example in qa.EXAMPLES]
    f1 = [
        f1_score(answer["answer"], [right.text for right in example.label])
        for answer, example in zip(found, qa.EXAMPLES, strict=True)
    ]
    assert row["num_examples"] == 4
    assert row["metric"] == "F1"
    assert row["accuracy"] == pytest.approx(np.mean(f1))
    assert row["exact_match"] <= row["accuracy"]
    assert row["gflops"] == pytest.approx(np.mean([answer["gflops"] for answer in found]))
    assert row["flops_speedup"] > 1
    buckets = row["by_length"].values()
    assert sum(bucket["num_examples"] for bucket in buckets) == 4


def test_a_calibration_takes_questions_with_all_their_windows(monkeypatch):
    rows = label_rows(TextEncoder(tiny.tokenizer()), qa.EXAMPLES, qa.CONFIG.replace(max_length=16))
    config = qa.CONFIG.replace(max_length=16, prune=PruneConfig())
    monkeypatch.setattr(calibration, "MAX_ROWS", 2)
    engine = TorchEngine(tiny.build(config))
    found = calibration.calibrate(engine, config, rows.encoded, rows.labels, max_drop=100.0)
    first_and_last = [label for label in rows.labels if label.question in (0, len(qa.EXAMPLES) - 1)]
    assert found.num_examples == len(first_and_last) > 2


def test_a_suite_judges_questions_and_charges_all_windows():
    config = qa.CONFIG.replace(max_length=16)
    model = Classifier(qa.build(config), TextEncoder(tiny.tokenizer()))
    split = Split.of(model, qa.EXAMPLES, teacher=config)
    row = model.evaluate(qa.EXAMPLES, repeats=0)
    assert len(split.lengths) == len(split.dense_flops) == len(qa.EXAMPLES) < len(split.encoded)
    assert split.dense_flops.mean() / 1e9 == pytest.approx(row["dense_gflops"])
    found = Measured(model, split).row(DENSE, BUCKETS)
    assert found["num_examples"] == len(qa.EXAMPLES)
    assert found["gflops"] == pytest.approx(row["dense_gflops"])
    assert found["quality"] == pytest.approx(row["dense_accuracy"])
    by_length = {name: part["num_examples"] for name, part in found["by_length"].items()}
    assert by_length == {name: part["num_examples"] for name, part in row["by_length"].items()}


def test_windows_know_their_questions():
    rows = label_rows(TextEncoder(tiny.tokenizer()), qa.EXAMPLES, qa.CONFIG.replace(max_length=16))
    assert examples_of(rows.labels).tolist() == [window.question for window in rows.labels]
    assert examples_of(rows.labels[3:]).min() == 0
    assert examples_of([1, 0, 2]).tolist() == [0, 1, 2]


def test_a_folder_answers_as_before(answering, tmp_path):
    answering.save_pretrained(tmp_path / "qa")
    loaded = QuestionAnswering.from_pretrained(tmp_path / "qa")
    assert loaded.config == answering.config
    before, after = (side(question=QUESTION, context=qa.CONTEXT) for side in (answering, loaded))
    assert before == after
    assert loaded.info["new_parameters"] == []


def test_a_hugging_face_checkpoint_answers(answering, tmp_path):
    dense = qa.answering(qa.CONFIG.replace(prune=None))
    dense.to_huggingface(tmp_path)
    loaded = QuestionAnswering.from_pretrained(tmp_path)
    assert loaded.config.prune is None
    ours = dense(question="the film", context=qa.FILM)
    theirs = loaded(question="the film", context=qa.FILM)
    assert theirs["answer"] == ours["answer"]


def test_other_models_are_refused(tmp_path):
    save_model(tiny.build(), tmp_path, encoder=TextEncoder(tiny.tokenizer()), info={}, readme=None)
    with pytest.raises(CheckpointError, match="is a single_label model and answers no questions"):
        QuestionAnswering.from_pretrained(tmp_path)


def test_an_encoder_for_another_task_keeps_its_layers_only(tmp_path):
    from magic_pyramid.checkpoint import with_config

    taken = with_config(qa.build(), tiny.PLAIN)
    assert {name.partition(".")[0] for name in taken.fresh} == {"final_head"}
    to_huggingface(qa.build(), tmp_path, encoder=None)
    assert load_model(tmp_path).model.config.problem_type == "span"


@pytest.mark.parametrize(
    ("ask", "error", "message"),
    [
        (lambda model: model(question=["a", "b"], context=["a"]), InputError, "2 questions and 1 contexts"),
        (lambda model: model(question="a", context=["a"]), InputError, "one question and a list of contexts"),
        (lambda model: model(question="a", context=" "), InputError, "no token in the context"),
        (lambda model: model.answer(["a"]), InputError, "give a question and its context"),
        (lambda model: model.answer([("a", "film")], count=0), ConfigError, "count is 0"),
        (lambda model: model(question="a", context="film", prune_scale=-1), ConfigError, "prune_scale is -1"),
    ],
)
def test_wrong_calls_are_refused(ask, error, message, answering):
    with pytest.raises(error, match=message):
        ask(answering)


def test_a_classifier_sends_questions_on(answering):
    classifier = Classifier(qa.build(), TextEncoder(tiny.tokenizer()))
    for ask in (classifier.predict, lambda texts: classifier.explain(texts[0])):
        with pytest.raises(ConfigError, match=r"Classifier is for classifiers, .*use QuestionAnswering"):
            ask([("a", "film")])


def test_only_pytorch_runs_it(tmp_path):
    qa.answering().save_pretrained(tmp_path)
    assert Classifier.from_pretrained(tmp_path).engine.name == "torch"
    with pytest.raises(ConfigError, match="the native engine is for classifiers"):
        native_engine(qa.build())


@pytest.mark.parametrize("export", [export_native, export_onnx, export_single_graph])
@pytest.mark.parametrize("name", ["thresholds", "no pruner"])
def test_exports_refuse_it(export, name, tmp_path):
    with pytest.raises(ConfigError, match="is for classifiers, and this model answers questions"):
        export(qa.build(qa.CASES[name]), tmp_path / "out", encoder=TextEncoder(tiny.tokenizer()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exit": ExitConfig(head_size=8)}, "runs every layer; use a preset without exits, such as ltp"),
        ({"span": None}, "problem_type is 'span' and model.span is None"),
        ({"labels": ("a", "b")}, r"labels is \('a', 'b'\)"),
        ({"problem_type": "single_label"}, "the problem type 'span' needs it, and no other has it"),
    ],
)
def test_a_config_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        qa.CONFIG.replace(**changes)


def test_the_config_survives_json():
    assert ModelConfig.from_dict(json.loads(json.dumps(qa.CONFIG.to_dict()))) == qa.CONFIG
