"""A model exported as one graph answers in onnxruntime-web as it does in PyTorch."""

import numpy as np
import pytest

import tiny
from browser import require_browser, run_in_browser
from cases import SETTINGS, assert_same
from exported import single_folder_of
from magic_pyramid import Classifier, demo_data
from magic_pyramid.engine.interface import DENSE, Setting, default_setting
from magic_pyramid.engine.torch_engine import TorchEngine
from magic_pyramid.export import export_single_graph
from test_engine import CRITERIA

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _browser():
    require_browser()


@pytest.mark.parametrize(
    "config",
    [
        tiny.CONFIG,
        tiny.changed(exit={"head": "block", "criterion": "margin"}).replace(backbone=tiny.FAMILIES["mpnet"]),
        tiny.changed(exit={"head": "cls"}).replace(backbone=tiny.FAMILIES["electra"]),
        tiny.CONFIG.replace(backbone=tiny.FAMILIES["distilbert"].replace(hidden_act="gelu_new")),
        CRITERIA["multi-label patience"],
        CRITERIA["regression patience"],
    ],
    ids=["fastbert", "block", "cls", "distilbert", "multi-label", "regression"],
)
def test_every_kind_of_head_and_criterion_runs_in_a_browser(config):
    model, folder = single_folder_of(config)
    encoded = tiny.encoded(9, 2, 14, 1, 30)
    for setting in (DENSE, SETTINGS["both"]):
        found = run_in_browser(folder, encoded, setting=setting)
        assert_same(found, TorchEngine(model).run(encoded, setting=setting))


@pytest.fixture(scope="module")
def demo():
    return Classifier.from_pretrained("demo", engine="torch")


@pytest.fixture(scope="module")
def sentences(demo):
    """Real ones, and one whole review."""
    sets = demo_data()
    examples = [*sets["sentence_polarity"][:12], sets["movie_reviews"][0]]
    return demo.encoder.encode([example.inputs for example in examples], max_length=demo.config.max_length)


def test_real_sentences_get_the_same_answers_in_a_browser(demo, sentences, tmp_path):
    export_single_graph(demo.model, tmp_path / "demo", encoder=demo.encoder)
    stored = default_setting(demo.config)
    for setting in (stored, Setting(prune_scale=0.0, exit_threshold=0.4)):
        found = run_in_browser(tmp_path / "demo", sentences, setting=setting)
        assert_same(found, TorchEngine(demo.model).run(sentences, setting=setting))
        assert len(set(found.exit_layer.tolist())) > 1


def test_int8_gives_the_same_labels_in_a_browser(demo, sentences, tmp_path):
    """Rounding of fp32 may move a value across the border of two codes, so numbers are near, not equal."""
    export_single_graph(demo.model, tmp_path / "demo", encoder=demo.encoder, precision="int8")
    found = run_in_browser(tmp_path / "demo", sentences, setting=default_setting(demo.config))
    native = Classifier.from_pretrained(tmp_path / "demo").engine.run(
        sentences, setting=default_setting(demo.config)
    )
    assert found.logits.argmax(1).tolist() == native.logits.argmax(1).tolist()
    np.testing.assert_allclose(found.logits, native.logits, atol=0.25)
