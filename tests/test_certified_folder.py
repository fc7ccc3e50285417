"""From a folder and texts to a certified folder: what is written, and what is refused."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

import tiny
from magic_pyramid.certify import SPEEDS, Goal
from magic_pyramid.certify.certificate import stored_certificate
from magic_pyramid.checkpoint import (
    fold_temperatures,
    load_model,
    read_seen_rows,
    read_tensors,
    write_seen_rows,
)
from magic_pyramid.classifier import Classifier
from magic_pyramid.data import Example, row_fingerprints
from magic_pyramid.drift import DriftMonitor
from magic_pyramid.engine.interface import DENSE, Setting
from magic_pyramid.errors import CheckpointError, ConfigError, InputError
from magic_pyramid.export import export_native, export_onnx
from magic_pyramid.hub import MagicPyramidForSequenceClassification
from magic_pyramid.report.card import with_calibration
from magic_pyramid.tuning import certify_folder, tune

ROWS = 600
WIDE = Goal(value=30.0)
"""What even a random model can promise."""
CARD = "# Tiny\n\n## Calibration\n\nOld.\n\n## Training\n\nNone.\n"


def rows_for(classifier, *, rows=ROWS, wrong=0.05, seed=0):
    """Random sentences, labelled by the dense model, a few wrongly."""
    random = np.random.default_rng(seed)
    words = tiny.WORDS[len(tiny.SPECIAL) :]
    texts = [" ".join(random.choice(words, size=random.integers(3, 16))) for _ in range(rows)]
    answers = classifier.predict(texts, exit_threshold=None, prune_scale=0.0).probabilities.argmax(axis=1)
    labels = np.where(random.random(rows) < wrong, (answers + 1) % 3, answers)
    return [Example(text=text, label=int(label)) for text, label in zip(texts, labels, strict=True)]


def temperatures(folder):
    """By layer, what a folder says is in its weights."""
    stored = json.loads((folder / "config.json").read_text(encoding="utf-8"))["temperatures"]
    return {int(layer): value for layer, value in stored.items()}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A model folder, and rows that it has not seen."""
    folder = tmp_path_factory.mktemp("source") / "model"
    classifier = tiny.classifier(seed=3)
    classifier.save_pretrained(folder, readme=CARD)
    return folder, rows_for(classifier)


@pytest.fixture(scope="module")
def certified(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("certified") / "model"
    shutil.copytree(source[0], folder)
    found = certify_folder(folder, source[1], goal=WIDE, provenance={"data": "toy", "fingerprint": "ab12"})
    return folder, found


@pytest.fixture
def folder(source, tmp_path):
    return shutil.copytree(source[0], tmp_path / "model")


def test_the_folder_answers_as_certified_by_default_and_by_name(certified, source):
    folder, found = certified
    assert found.is_certified
    classifier, texts = Classifier.from_pretrained(folder), [row.text for row in source[1]]
    speed = found.speed("certified")
    assert classifier.setting() == classifier.setting(speed="certified") == speed.setting(classifier.config)
    answers = classifier.predict(texts)
    counts = np.bincount(answers.exit_layer, minlength=3).tolist()
    assert counts == list(speed.exit_counts) == answers.summary()["exit_distribution"]
    dense = classifier.predict(texts, exit_threshold=None, prune_scale=0.0)
    assert dense.gflops.sum() / answers.gflops.sum() == pytest.approx(speed.flops_speedup, abs=1e-3)
    right = np.array([row.label for row in source[1]])
    lost = (dense.probabilities.argmax(1) == right).mean() - (answers.probabilities.argmax(1) == right).mean()
    assert 100 * lost == pytest.approx(speed.drop, abs=1e-3)


def test_temperatures_change_no_answer_and_are_folded_into_the_weights(certified, source):
    folder, _ = certified
    before, after = load_model(source[0]).model, load_model(folder).model
    assert set(temperatures(folder)) == {0, 1, 2}
    fold_temperatures(before, temperatures(folder))
    for name, tensor in before.state_dict().items():
        torch.testing.assert_close(after.state_dict()[name], tensor)
    texts = [row.text for row in source[1]]
    one, other = (Classifier.from_pretrained(place) for place in (source[0], folder))
    dense = {"exit_threshold": None, "prune_scale": 0.0}
    assert one.predict(texts, **dense).labels == other.predict(texts, **dense).labels


@pytest.mark.parametrize("storage", ["fp16", "int8"])
def test_temperatures_fit_every_storage(storage, source, tmp_path):
    classifier = Classifier.from_pretrained(source[0])
    classifier.save_pretrained(tmp_path / "model", storage=storage)
    stored = Classifier.from_pretrained(tmp_path / "model")
    certify_folder(tmp_path / "model", source[1], goal=WIDE)
    fold_temperatures(stored.model, temperatures(tmp_path / "model"))
    expected = stored.model.state_dict()
    for name, tensor in load_model(tmp_path / "model").model.state_dict().items():
        torch.testing.assert_close(tensor, expected[name])


def test_the_card_and_the_config_say_what_is_promised(certified):
    folder, found = certified
    card = (folder / "README.md").read_text()
    assert found.sentence() in card
    assert "Old." not in card
    assert card.endswith("## Training\n\nNone.\n")
    stored = json.loads((folder / "config.json").read_text())["calibration"]
    assert stored["kind"] == "certified"
    assert stored_certificate({"calibration": stored}) == found
    assert found.provenance["fingerprint"] == "ab12"
    assert found.provenance["overlap_with_training"] is None


def test_a_card_without_the_section_gains_it():
    assert with_calibration("# Tiny\n", {"exit_threshold": None}).endswith(
        "# Tiny\n\n## Calibration\n\nExits are off by default: every layer runs.\n"
    )


def test_texts_of_one_call_may_run_at_speeds_of_their_own(certified, source):
    classifier = Classifier.from_pretrained(certified[0])
    texts = [row.text for row in source[1][:30]]
    speeds = [(*SPEEDS, None)[row % 4] for row in range(30)]
    mixed = classifier.predict(texts, speed=speeds)
    for name in (*SPEEDS, None):
        alone = classifier.predict(texts, speed=name)
        for row in (row for row, own in enumerate(speeds) if own == name):
            assert mixed.labels[row] == alone.labels[row]
            assert mixed.num_tokens[row].tolist() == alone.num_tokens[row].tolist()
            assert mixed.gflops[row] == alone.gflops[row]


def test_a_speed_goes_alone_and_fits_the_texts(certified):
    classifier = Classifier.from_pretrained(certified[0])
    with pytest.raises(
        ConfigError, match="speed is 'fastest', and exit_threshold, prune_scale or exit_layers"
    ):
        classifier.predict(["film"], speed="fastest", prune_scale=1.0)
    with pytest.raises(InputError, match="there are 2 speeds for 1 texts; give one each"):
        classifier.predict(["film"], speed=["fastest", "certified"])
    assert classifier.predict([], speed="fastest").labels == []
    assert classifier.predict([], speed=[]).labels == []
    with pytest.raises(InputError, match="there are 1 speeds for 0 texts; give one each"):
        classifier.predict([], speed=["fastest"])


def test_thresholds_of_their_own_are_stored_and_run(folder, source):
    found = certify_folder(folder, source[1], goal=Goal(value=30.0, per_layer=True))
    classifier = Classifier.from_pretrained(folder)
    assert classifier.setting() == found.speed("certified").setting(classifier.config)
    counts = np.bincount(classifier.predict([row.text for row in source[1]]).exit_layer, minlength=3)
    assert tuple(counts.tolist()) == found.speed("certified").exit_counts


def test_without_labels_the_dense_model_is_agreed_with(folder, source):
    unlabelled = [Example(text=row.text) for row in source[1]]
    found = certify_folder(folder, unlabelled, goal=Goal(value=40.0, is_labelled=False))
    assert set(temperatures(folder)) == {0, 1}
    classifier, texts = Classifier.from_pretrained(folder), [row.text for row in source[1]]
    dense = classifier.engine.run(classifier.encode(texts), setting=DENSE).logits.argmax(axis=1)
    fast = classifier.predict(texts).probabilities.argmax(axis=1)
    assert 100 * (dense != fast).mean() == pytest.approx(found.speed("certified").drop, abs=1e-3)
    assert "differs from the dense model in at most 40 % of texts" in found.sentence()


def test_a_latency_is_measured_here(folder, source):
    found = certify_folder(folder, source[1], goal=Goal(kind="target_latency_ms", value=10_000.0))
    assert 0 < found.latency_ms < 10_000
    assert not found.is_certified
    assert found.sentence().startswith(f"The dense model answers a text in {found.latency_ms:.2f} ms")
    with pytest.raises(ConfigError, match=r"no setting answers a text in 1e-06 ms here; the fastest takes"):
        certify_folder(folder, source[1], goal=Goal(kind="target_latency_ms", value=1e-6))


def test_an_export_for_the_native_engine_is_certified_with_its_own_weights(source, tmp_path):
    pytest.importorskip("magic_pyramid.native.library")
    classifier = Classifier.from_pretrained(source[0])
    export_native(classifier.model, tmp_path / "native", encoder=classifier.encoder, precision="int8")
    found = certify_folder(tmp_path / "native", source[1], goal=WIDE)
    assert temperatures(tmp_path / "native") == {}
    assert (found.provenance["engine"], found.provenance["precision"]) == ("native", "int8")
    opened = Classifier.from_pretrained(tmp_path / "native")
    assert opened.setting() == found.speed("certified").setting(opened.config)


def test_a_second_calibration_undoes_the_temperatures_of_the_first(folder, source):
    """They were fitted to labels of rows that the second may test."""
    name = "exit_heads.0.output.weight"
    plain = read_tensors(folder / "model.safetensors")[name]
    for seed in (0, 1):
        certify_folder(folder, source[1], goal=Goal(value=30.0, seed=seed))
        folded = read_tensors(folder / "model.safetensors")[name]
        torch.testing.assert_close(folded * temperatures(folder)[0], plain)


def test_what_happened_to_a_folder_meanwhile_keeps_no_temperature(folder, source, tmp_path):
    """A plain calibration and rounded weights drop the certificate, and the weights stay divided."""
    name = "exit_heads.0.output.weight"
    plain = read_tensors(folder / "model.safetensors")[name]
    certify_folder(folder, source[1], goal=Goal(value=30.0))
    classifier = Classifier.from_pretrained(folder)
    classifier.calibrate(source[1], max_drop=1.0)
    classifier.save_pretrained(tmp_path / "half", storage="fp16")
    certify_folder(tmp_path / "half", source[1], goal=Goal(value=30.0, seed=1))
    folded = read_tensors(tmp_path / "half" / "model.safetensors")[name]
    torch.testing.assert_close(folded * temperatures(tmp_path / "half")[0], plain, atol=1e-3, rtol=1e-3)


def test_rows_that_repeat_are_counted_and_said(folder, source):
    said = []
    found = certify_folder(folder, [*source[1], source[1][0]], goal=Goal(value=30.0), say=said.append)
    assert found.provenance["repeated_rows"] == 1 + len(source[1]) - len({row.text for row in source[1]})
    assert any("rows repeat another" in line for line in said)


@pytest.mark.parametrize("storage", ["fp32", "int8"])
def test_weights_that_are_stored_otherwise_carry_no_certificate(storage, certified, tmp_path):
    Classifier.from_pretrained(certified[0]).save_pretrained(tmp_path / "copy", storage=storage)
    kept = stored_certificate(Classifier.from_pretrained(tmp_path / "copy").info)
    assert (kept is not None) == (storage == "fp32")


def test_a_model_that_another_library_may_have_trained_carries_no_certificate(certified, tmp_path):
    MagicPyramidForSequenceClassification.from_pretrained(certified[0]).save_pretrained(tmp_path / "copy")
    found = load_model(tmp_path / "copy").info
    assert stored_certificate(found) is None
    assert "prune_scale" in found["calibration"]
    assert "quality" not in found["calibration"]


def test_a_monitor_knows_the_traffic_of_the_calibration(certified, source):
    classifier = Classifier.from_pretrained(certified[0])
    monitor = DriftMonitor.of(classifier, window=200)
    usual = monitor.add(classifier.predict([row.text for row in rows_for(classifier, rows=200, seed=7)]))
    changed = monitor.add(classifier.predict(["film"] * 200))
    assert [report.has_drifted for report in (*usual, *changed)] == [False, True]


def test_the_rows_of_a_training_stay_with_the_model(folder, source, tmp_path):
    seen = row_fingerprints(source[1])
    write_seen_rows(folder, {"train": seen[:5]}, earlier={"validation": seen[3:9]})
    found = read_seen_rows(folder)
    assert {split: len(rows) for split, rows in found.items()} == {"train": 5, "validation": 6}
    Classifier.from_pretrained(folder).save_pretrained(tmp_path / "copy")
    assert read_seen_rows(tmp_path / "copy").keys() == found.keys()
    Classifier.from_pretrained(source[0]).save_pretrained(tmp_path / "copy")
    assert read_seen_rows(tmp_path / "copy") is None
    (folder / "seen_rows.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"seen_rows\.safetensors is damaged"):
        read_seen_rows(folder)


def test_white_space_and_labels_do_not_hide_a_row():
    one, other, third = row_fingerprints(
        [Example(text="a  film ", label=1), Example(text="a film"), Example(text="a", text_pair="film")]
    )
    assert one == other != third


def test_rows_that_were_seen_in_training_are_refused(folder, source):
    write_seen_rows(folder, {"train": row_fingerprints(source[1][7:9])}, earlier=None)
    message = (
        r"2 of 600 calibration rows were seen in training \(2 in its train rows, 0 in its validation rows\)"
    )
    with pytest.raises(InputError, match=message + r", for example row 8: "):
        certify_folder(folder, source[1], goal=WIDE)
    found = certify_folder(folder, source[1], goal=WIDE, allow_overlap=True)
    assert found.provenance["overlap_with_training"] == 2
    assert "rows of the calibration were seen in training" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows: [Example(text=r.text, label=1) for r in rows],
            "every calibration row has the label 'so-so'",
        ),
        (lambda rows: [Example(text=r.text, label=(r.label + 1) % 3) for r in rows], "which guessing beats"),
        (
            lambda rows: [*rows, Example(text="film")],
            "1 of 601 calibration rows have no label; label them, or",
        ),
        (lambda rows: rows[:9], "9 rows cannot certify a drop of at most 30 points"),
    ],
    ids=["one class", "other labels", "no label", "too few"],
)
def test_rows_that_prove_nothing_are_refused_and_nothing_is_written(change, message, folder, source):
    before, told = (folder / "config.json").read_bytes(), []
    with pytest.raises(InputError, match=message):
        certify_folder(folder, change(source[1]), goal=WIDE, say=told.append)
    assert (folder / "config.json").read_bytes() == before
    assert sum("prune scale" in line for line in told) <= 1, "nobody waits for all scales"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (tiny.REGRESSION, "a regression has no answers that are right or wrong"),
        (tiny.PLAIN, "the model has neither pruning nor exits, so there is nothing to calibrate"),
    ],
)
def test_models_with_nothing_to_certify_are_refused(config, message, tmp_path):
    tiny.classifier(config).save_pretrained(tmp_path / "model")
    with pytest.raises(ConfigError, match=message):
        certify_folder(tmp_path / "model", [Example(text="film", label=0)], goal=WIDE)


def test_patience_has_no_thresholds_by_layer_to_certify(tmp_path):
    tiny.classifier(tiny.changed(exit={"criterion": "patience"})).save_pretrained(tmp_path / "model")
    with pytest.raises(ConfigError, match="which counts heads in a row: one threshold holds for all of them"):
        certify_folder(
            tmp_path / "model",
            [Example(text="film", label=0)],
            goal=dataclasses.replace(WIDE, per_layer=True),
        )


def test_folders_that_cannot_be_written_or_asked_are_refused(source, tmp_path):
    with pytest.raises(InputError, match="demo is no folder; calibrate writes into a model folder"):
        certify_folder("demo", source[1], goal=WIDE)
    classifier = Classifier.from_pretrained(source[0])
    export_onnx(classifier.model, tmp_path / "onnx", encoder=classifier.encoder)
    with pytest.raises(
        InputError, match="an export to ONNX cannot ask all its heads; use the folder it came from"
    ):
        certify_folder(tmp_path / "onnx", source[1], goal=WIDE)


def test_tuning_refuses_thresholds_of_their_own(tmp_path):
    tiny.classifier(tiny.changed(exit={"threshold": (0.2, 0.5)})).save_pretrained(tmp_path / "model")
    with pytest.raises(ConfigError, match="each exit head has a threshold of its own"):
        tune(tmp_path / "model")


def test_a_setting_needs_a_threshold_for_each_head():
    with pytest.raises(ConfigError, match="exit_threshold has 3 values; give one, or 2: one an exit head"):
        tiny.classifier().predict(["film"], exit_threshold=(0.1, 0.2, 0.3))
    with pytest.raises(ConfigError, match=r"exit_threshold is 1\.5; it must lie in \[0, 1\]"):
        Setting(exit_threshold=(0.1, 1.5))
