"""The packaged demo: where it lies, its settings, and that its model and texts are whole."""

import pytest

from magic_pyramid import Classifier, demo_data, demo_model_path
from magic_pyramid.certify.certificate import stored_certificate
from magic_pyramid.data import Example
from magic_pyramid.demo import demo_rows
from magic_pyramid.engine.interface import DENSE, Setting

MEGABYTES_40 = 40 * 2**20
packaged = pytest.mark.skipif(not demo_model_path().is_dir(), reason="the demo model is not packaged yet")


def test_the_table_has_a_row_for_each_setting():
    calls = []

    class Recorder:
        def setting(self, *, exit_threshold=0.3, prune_scale=2.0, speed=None):
            if speed is not None:
                return speed
            return Setting(exit_threshold=exit_threshold, prune_scale=prune_scale)

        def compare(self, examples, *, settings, repeats, say):
            say("all measured")
            calls.append((len(examples), settings, repeats))
            return {name: {"accuracy": 0.5} for name in settings}

    steps = []
    table = demo_rows(Recorder(), [Example(text="a", label=0)] * 3, repeats=2, say=steps.append)
    settings = {
        "dense": DENSE,
        "tokens only": Setting(exit_threshold=None, prune_scale=2.0),
        "exits only": Setting(exit_threshold=0.3, prune_scale=0.0),
        "certified": "certified",
        "balanced": "balanced",
        "fastest": "fastest",
    }
    assert [row["setting"] for row in table["rows"]] == list(settings)
    assert all(row["accuracy"] == 0.5 for row in table["rows"])
    assert calls == [(3, settings, 2)]
    assert steps == ["all measured"]


@packaged
def test_the_model_is_small_enough_to_be_packaged():
    assert sum(path.stat().st_size for path in demo_model_path().rglob("*") if path.is_file()) <= MEGABYTES_40


@packaged
def test_the_model_has_a_card_with_its_attribution():
    card = (demo_model_path() / "README.md").read_text(encoding="utf-8")
    assert "CC BY 4.0" in card


@packaged
def test_there_are_short_and_long_texts_with_labels_of_the_model():
    data = demo_data()
    labels = Classifier.from_pretrained("demo").config.labels
    assert len(data) >= 2
    for name, examples in data.items():
        assert examples, name
        assert {example.label for example in examples} == set(range(len(labels))), name


@packaged
def test_the_model_prunes_exits_and_answers():
    classifier = Classifier.from_pretrained("demo")
    assert classifier.config.prune is not None
    assert classifier.config.exit is not None
    certificate = stored_certificate(classifier.info)
    assert certificate is not None
    assert certificate.is_certified
    assert certificate.provenance["overlap_with_training"] in (0, None)
    found = classifier.predict(["A quiet, lovely film.", "Dull and far too long."])
    assert len(set(found.labels)) == 2
