"""From an encoder to a folder: what is derived from the data, what is refused, what is written down."""

import dataclasses
import subprocess

import pytest
from transformers import AutoConfig, AutoModel

import tiny
from magic_pyramid import Classifier, fitting
from magic_pyramid.checkpoint import to_huggingface
from magic_pyramid.config import TrainConfig
from magic_pyramid.data import Example, LabelledData
from magic_pyramid.errors import ConfigError, InputError
from magic_pyramid.fitting import commit, fit, machine, plan_fit
from magic_pyramid.tokenization import TextEncoder
from magic_pyramid.training import StageReport, TrainReport

STAGES = ("finetune", "soft_prune", "hard_prune", "distill_exits")
ENCODER = TextEncoder(tiny.tokenizer())
TINY_BERT = {
    "vocab_size": len(tiny.WORDS),
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 64,
}


def data(*, words=4, rows=8, validation=4, held_out=True, labels=("no", "yes")):
    train = [Example(text="film " * words, label=row % 2) for row in range(rows)]
    splits = {"train": train, "validation": train[:validation]}
    return LabelledData(
        name="toy",
        splits={name: split for name, split in splits.items() if split},
        labels=labels,
        problem_type="single_label",
        held_out=held_out,
    )


@pytest.fixture
def encoder_folder(tmp_path):
    folder = tmp_path / "encoder"
    to_huggingface(tiny.build(tiny.PLAIN), folder, encoder=ENCODER)
    return str(folder)


@pytest.fixture
def untrained(monkeypatch):
    """Stands for training: notes what it was given and reports one stage of one step."""
    given = {}

    def train(**options):
        given.update(options)
        stage = StageReport(
            name="finetune", seconds=1.23, num_steps=1, losses=(), validation=(), kept=None,
            pruner=None,
        )  # fmt: skip
        return TrainReport(stages=(stage,))

    monkeypatch.setattr(fitting, "train", train)
    return given


def test_the_model_fits_the_task(encoder_folder, untrained, tmp_path):
    fit(model=encoder_folder, data=data(), output=tmp_path / "out")
    config = untrained["model"].config
    assert config.labels == ("no", "yes")
    assert config.prune is not None
    assert config.exit is not None
    assert config.backbone.sep_token_id == tiny.SEP
    assert config.backbone.num_hidden_layers == 3


@pytest.mark.parametrize(("words", "expected"), [(4, 16), (14, 16), (15, 24), (38, 40), (400, 64)])
def test_the_default_length_covers_the_texts_and_fits_the_encoder(
    words, expected, encoder_folder, untrained, tmp_path
):
    fit(model=encoder_folder, data=data(words=words), output=tmp_path / "out")
    assert untrained["model"].config.max_length == expected


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, 0.01),
        ({"prune.final_threshold": 0.3}, 0.3),
        ({"prune.score_norm": "fixed"}, 0.01),
    ],
)
def test_a_ramp_of_thresholds_ends_where_it_is_told_or_by_the_length_of_the_texts(
    changes, wanted, monkeypatch
):
    def planned():
        return plan_fit(tiny.PLAIN, ENCODER, data(), preset="ltp", model_changes=changes)

    assert planned().model.prune.final_threshold == wanted
    monkeypatch.setattr(fitting, "FINAL_SHARE", 0.005 * planned().lengths.mean())
    assert planned().model.prune.final_threshold == (wanted if changes else 0.005)


def test_settings_of_the_model_are_taken(encoder_folder, untrained, tmp_path):
    changes = {
        "max_length": 20,
        "prune.temperature": 0.01,
        "exit.head": "cls",
        "backbone.hidden_dropout": 0.2,
    }
    fit(model=encoder_folder, data=data(), output=tmp_path / "out", model_changes=changes)
    config = untrained["model"].config
    assert config.max_length == 20
    assert config.prune.temperature == 0.01
    assert config.exit.head == "cls"
    assert config.backbone.hidden_dropout == 0.2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "magic"}, r"unknown preset 'magic'; did you mean 'magic_pyramid'\?"),
        (
            {"model_changes": {"prun.scale": 1.0}},
            r"there is no part 'prun' of a model; did you mean 'prune'\?",
        ),
        (
            {"model_changes": {"exit.head": "cls"}, "preset": "ltp"},
            r"exit\.head is set, but this preset has no exit; choose a preset that has it",
        ),
        ({"model_changes": {"prune.scal": 1.0}}, r"PruneConfig has no field 'scal'; did you mean 'scale'\?"),
        ({"model_changes": {"max_length": 999}}, r"model\.max_length is 999; it must lie in \[2, 64\]"),
    ],
    ids=["preset", "part", "missing part", "field", "value"],
)
def test_impossible_settings_are_refused_before_training(
    options, message, encoder_folder, untrained, tmp_path
):
    with pytest.raises(ConfigError, match=message):
        fit(model=encoder_folder, data=data(), output=tmp_path / "out", **options)
    assert not untrained


@pytest.mark.parametrize("splits", [{}, {"train": []}, {"test": [Example(text="a", label=0)]}])
def test_data_without_training_rows_is_refused(splits, encoder_folder, untrained, tmp_path):
    with pytest.raises(InputError, match="toy has no training rows; give a train split"):
        fit(model=encoder_folder, data=dataclasses.replace(data(), splits=splits), output=tmp_path / "out")


def test_provenance_is_written_down(encoder_folder, untrained, tmp_path):
    report = fit(
        model=encoder_folder, data=data(), output=tmp_path / "out", command="magic-pyramid train",
        preset="ltp", config=TrainConfig(seed=5, min_steps=0),
    )  # fmt: skip
    saved = Classifier.from_pretrained(tmp_path / "out")
    found = saved.info["provenance"]
    assert found["command"] == "magic-pyramid train"
    assert (found["preset"], found["base_model"], found["data"], found["seed"]) == (
        "ltp",
        "encoder",
        "toy",
        5,
    )
    assert found["train_rows"] == 8
    assert found["fingerprints"].keys() == {"train", "validation"}
    assert found["train_config"] == untrained["config"].to_dict()
    assert found["stages"] == [{"stage": "finetune", "steps": 1, "seconds": 1.2}]
    assert report["preset"] == "ltp"
    assert report["output"] == str(tmp_path / "out")
    assert report["training"]["stages"][0]["name"] == "finetune"
    assert "magic-pyramid train" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("held_out", "words"), [(True, "held out of train"), (False, "validation")])
def test_calibration_says_on_which_texts(held_out, words, encoder_folder, untrained, tmp_path):
    report = fit(model=encoder_folder, data=data(held_out=held_out), output=tmp_path / "out")
    assert report["calibration"]["split"] == words
    assert report["validation"]["num_examples"] == 4
    assert Classifier.from_pretrained(tmp_path / "out").info["calibration"] == report["calibration"]


def test_without_validation_texts_nothing_is_calibrated(encoder_folder, untrained, tmp_path):
    report = fit(model=encoder_folder, data=data(validation=0), output=tmp_path / "out")
    assert report["calibration"] == {}
    assert report["validation"] is None


def test_a_plain_model_needs_no_calibration(encoder_folder, untrained, tmp_path):
    report = fit(model=encoder_folder, data=data(), output=tmp_path / "out", preset="bert")
    assert report["calibration"] == {}
    assert report["validation"]["flops_speedup"] == 1.0


@pytest.mark.parametrize(
    ("rows", "config", "expected"),
    [
        (1_000, TrainConfig(max_sequences_per_batch=1), (3, 1, 1, 2)),
        (100, TrainConfig(max_sequences_per_batch=1), (3, 3, 3, 3)),
        (8, TrainConfig(), (10, 10, 10, 10)),
        (8, TrainConfig(min_steps=0), (3, 1, 1, 2)),
        (8, TrainConfig(epochs={"finetune": 20.0, "soft_prune": 0.0}), (20, 0, 0, 0)),
        (100, TrainConfig(max_sequences_per_batch=1, gradient_accumulation=2), (6, 6, 6, 6)),
    ],
    ids=["large", "medium", "small", "never", "as given", "accumulated"],
)
def test_small_splits_are_repeated(rows, config, expected, encoder_folder, untrained, tmp_path):
    fit(
        model=encoder_folder,
        data=data(rows=rows, words=1, validation=0),
        output=tmp_path / "o",
        config=config,
    )
    assert tuple(untrained["config"].epochs_of(stage) for stage in STAGES) == expected


def test_a_token_budget_makes_more_steps_of_long_texts(encoder_folder, untrained, tmp_path):
    config = TrainConfig(tokens_per_batch=64, min_steps=300)
    fit(
        model=encoder_folder,
        data=data(rows=100, words=400, validation=0),
        output=tmp_path / "o",
        config=config,
    )
    assert [untrained["config"].epochs_of(stage) for stage in STAGES] == [3, 3, 3, 3]


def test_the_numbers_that_a_stage_kept_go_into_its_row():
    kept = {"quality": 0.9, "loss": 0.3, "gflops": 0.1, "kept_tokens": [4.0], "exit_quality": {"0": 0.5}}
    row = fitting._stage_row({"name": "hard_prune", "num_steps": 7, "seconds": 2.04, "kept": kept})
    assert row == {
        "stage": "hard_prune", "steps": 7, "seconds": 2.0,
        "quality": 0.9, "loss": 0.3, "gflops": 0.1, "kept_tokens": [4.0],
    }  # fmt: skip


def test_the_machine_is_named():
    name, _, system = machine().rpartition(", ")
    assert name
    assert system


def test_the_machine_is_named_without_a_list_of_processors(monkeypatch):
    monkeypatch.setattr(fitting.Path, "exists", lambda _: False)
    assert machine().rpartition(", ")[0]


def test_only_the_main_process_saves(encoder_folder, untrained, tmp_path, monkeypatch):
    class Second:
        is_main = False

        @classmethod
        def join(cls, *, use_cpu):
            return cls()

    monkeypatch.setattr(fitting, "Processes", Second)
    assert fit(model=encoder_folder, data=data(), output=tmp_path / "out") == {}
    assert untrained
    assert not (tmp_path / "out").exists()


def test_the_separator_comes_from_the_tokenizer_where_the_encoder_names_none(untrained, tmp_path):
    silent = tiny.PLAIN.replace(backbone=tiny.BACKBONE.replace(sep_token_id=None))
    to_huggingface(tiny.build(silent), tmp_path / "encoder", encoder=ENCODER)
    fit(model=str(tmp_path / "encoder"), data=data(), output=tmp_path / "out")
    assert untrained["model"].config.backbone.sep_token_id == tiny.SEP


@pytest.mark.parametrize(
    "error", [OSError(), subprocess.CalledProcessError(128, "git")], ids=["no git", "no repo"]
)
def test_an_installed_library_has_no_commit(error, monkeypatch):
    def run(*_, **__):
        raise error

    monkeypatch.setattr(fitting.subprocess, "run", run)
    assert commit.__wrapped__() is None


def test_a_source_tree_has_a_commit(monkeypatch):
    done = subprocess.CompletedProcess([], 0, stdout="0123456789ab-dirty\n")
    monkeypatch.setattr(fitting.subprocess, "run", lambda *_, **__: done)
    assert commit.__wrapped__() == "0123456789ab-dirty"


def test_numbers_agree_by_the_range_of_the_labels(encoder_folder, untrained, tmp_path):
    scores = [Example(text="film", label=score) for score in (0.5, 5.0, 3.0, 1.0)]
    stars = LabelledData(
        name="stars", splits={"train": scores}, labels=("score",), problem_type="regression", held_out=False
    )
    options = {"model": encoder_folder, "data": stars, "output": tmp_path / "out", "preset": "pabee"}
    fit(**options)
    assert untrained["model"].config.exit.patience_tolerance == pytest.approx(0.05 * 4.5)
    fit(**options, model_changes={"exit.patience_tolerance": 0.3})
    assert untrained["model"].config.exit.patience_tolerance == 0.3
    fit(**{**options, "preset": "bert"})
    assert untrained["model"].config.exit is None


def test_a_student_needs_a_teacher_that_knows_the_task(encoder_folder, untrained, tmp_path):
    config = TrainConfig(epochs={"distill_student": 1.0}, student_keeps="alternate")
    options = {"model": encoder_folder, "data": data(), "output": tmp_path / "out", "preset": "distilbert"}
    with pytest.raises(
        ConfigError, match="distill_student would learn from a final head that starts at rand"
    ):
        fit(config=config, **options)
    fit(config=config.replace(distill_weight=0.0), **options)
    assert untrained["config"].distill_weight == 0.0


@pytest.mark.parametrize(
    ("labels", "changes", "message"),
    [
        (
            ("no", "yes"),
            {},
            r"ends in a 'cls' head for the labels no, yes, while a 'fastbert' head for no, yes",
        ),
        (
            ("yes", "no"),
            {"final_head": "cls"},
            r"for the labels no, yes, while a 'cls' head for yes, no is needed",
        ),
    ],
    ids=["another head", "other labels"],
)
def test_a_final_head_must_not_stay_at_random(labels, changes, message, untrained, tmp_path):
    to_huggingface(tiny.build(tiny.PLAIN.replace(labels=("no", "yes"))), tmp_path / "mine", encoder=ENCODER)
    config = TrainConfig(epochs={"distill_exits": 1.0})
    options = {
        "model": str(tmp_path / "mine"),
        "output": tmp_path / "out",
        "preset": "fastbert",
        "config": config,
    }
    with pytest.raises(ConfigError, match=f"the final head would stay at random.*{message}"):
        fit(data=data(labels=labels), model_changes=changes, **options)
    assert not untrained
    fit(data=data(), model_changes={"final_head": "cls"}, **options)
    assert untrained["config"].distill_weight == config.distill_weight


def test_an_encoder_without_a_classifier_has_no_final_head_to_keep(untrained, tmp_path):
    AutoModel.from_config(AutoConfig.for_model("bert", **TINY_BERT)).save_pretrained(tmp_path / "encoder")
    tiny.tokenizer().save_pretrained(tmp_path / "encoder")
    labels = ("LABEL_0", "LABEL_1")
    options = {"model": str(tmp_path / "encoder"), "data": data(labels=labels), "output": tmp_path / "out"}
    skips = {name: 1.0 for name in STAGES if name != "finetune"}
    with pytest.raises(
        ConfigError, match="the model given has no classifier, while a 'cls' head for LABEL_0"
    ):
        fit(preset="bert", config=TrainConfig(epochs=skips), **options)
    # The stages that prune train it from labels, and nobody teaches.
    fit(config=TrainConfig(epochs=skips), **options)
    assert untrained["config"].distill_weight == 0.0
