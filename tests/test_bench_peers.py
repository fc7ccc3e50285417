"""Peers on a tiny model, as far as they are installed: their answers are the model's."""

import numpy as np
import pytest

import tiny
from magic_pyramid.bench.contender import Material
from magic_pyramid.bench.roster import CONTENDERS
from magic_pyramid.bench.texts import BenchTexts
from magic_pyramid.bench.verdict import judge
from magic_pyramid.engine.interface import DENSE
from magic_pyramid.engine.torch_engine import TorchEngine

PEERS = {
    "onnxruntime": "onnxruntime",
    "onnxruntime_int8": "onnxruntime",
    "openvino": "openvino",
    "openvino_int8": "nncf",
    "ctranslate2": "ctranslate2",
    "ctranslate2_int8": "ctranslate2",
    "sentence_transformers": "sentence_transformers",
}
RAW = [
    ("a quiet lovely film", "good"),
    ("bad", "dull"),
    ("the plot is dull", "not a bad film"),
    ("good", "a"),
]


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    classifier = tiny.classifier(tiny.PLAIN)
    material = Material(tmp_path_factory.mktemp("material"), classifier.config)
    classifier.save_pretrained(material.model)
    classifier.to_huggingface(material.huggingface)
    texts = BenchTexts(classifier.encoder.encode(RAW, max_length=32), list(RAW))
    texts.write(material.folder / "texts.json")
    reference = TorchEngine(classifier.model).run(texts.encoded, setting=DENSE).logits
    return material, texts, reference


# The libraries warn about themselves and about each other.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PEERS)
def test_a_peer_gives_the_answers_of_the_model(material, name):
    pytest.importorskip(PEERS[name])
    material, texts, reference = material
    peer = CONTENDERS[name]
    assert peer.obstacle(material.config, texts) is None
    peer.prepare(material)
    logits = peer.load(material, 1)(texts, 2).logits
    verdict = judge(peer, logits, reference, material.config.problem_type)
    assert verdict.reason is None
    assert np.isfinite(logits).all()
