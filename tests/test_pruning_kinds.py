"""Several ways to prune side by side: told apart in JSON, each with its pruner, refused where unknown."""

import json

import pytest

import tiny
from magic_pyramid.classifier import Classifier
from magic_pyramid.config import PRUNE_KINDS, ModelConfig
from magic_pyramid.engine.native_engine import NativeEngine
from magic_pyramid.engine.torch_engine import TorchEngine
from magic_pyramid.errors import CheckpointError, ConfigError
from magic_pyramid.export import export_native, export_onnx, export_single_graph
from magic_pyramid.native.library import is_built
from magic_pyramid.pruning import PRUNERS, build_pruner

KINDS = dict(PRUNE_KINDS)
OTHERS = [kind for kind in KINDS if kind != "threshold"]


def model_config(kind):
    return tiny.CONFIG.replace(prune=KINDS[kind]())


def test_every_kind_has_a_pruner_and_nothing_else_has():
    assert set(PRUNERS) == set(KINDS.values())
    assert build_pruner(tiny.PLAIN) is None


@pytest.mark.parametrize("kind", KINDS)
def test_json_tells_the_kinds_apart(kind):
    config = model_config(kind)
    data = json.loads(json.dumps(config.to_dict()))
    assert data["prune"]["kind"] == kind
    assert ModelConfig.from_dict(data) == config
    assert isinstance(build_pruner(config), PRUNERS[KINDS[kind]])


def test_a_config_without_a_kind_prunes_by_thresholds():
    data = tiny.CONFIG.to_dict()
    assert data["prune"].pop("kind") == "threshold"
    assert ModelConfig.from_dict(data) == tiny.CONFIG


def test_an_unknown_kind_is_refused_with_the_nearest():
    data = tiny.CONFIG.to_dict() | {"prune": {"kind": "rank_bin"}}
    with pytest.raises(ConfigError, match=r"kind is 'rank_bin'; did you mean 'rank_bins'"):
        ModelConfig.from_dict(data)
    with pytest.raises(ConfigError, match=r"prune\.kind is 'rank_bins'; known: threshold"):
        tiny.CONFIG.prune.replace(kind="rank_bins")


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_pruner_removes_nothing_at_scale_zero(kind):
    pruner = build_pruner(model_config(kind))
    assert not any(pruner.prunes_at(layer, scale=0.0) for layer in range(3))
    assert all(len(values) == 3 for values in pruner.learned().values())


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("export", [export_onnx, export_single_graph, export_native])
def test_exports_refuse_what_they_cannot_prune(kind, export, tmp_path):
    with pytest.raises(
        ConfigError, match=f"prunes by token thresholds, and this model by {kind}; use engine"
    ):
        export(tiny.build(model_config(kind)), tmp_path / "out", encoder=None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", OTHERS)
def test_the_native_engine_refuses_what_it_cannot_prune_and_the_choice_falls_on_torch(kind, tmp_path):
    tiny.classifier(model_config(kind)).save_pretrained(tmp_path)
    with pytest.raises(
        ConfigError, match=f"native engine prunes by token thresholds, and this model by {kind}"
    ):
        NativeEngine(model_config(kind), {"exit_heads.0.": 0, "exit_heads.1.": 0})
    assert isinstance(Classifier.from_pretrained(tmp_path).engine, TorchEngine)
    if is_built():
        with pytest.raises(ConfigError, match=f"this model by {kind}; use engine='torch'"):
            Classifier.from_pretrained(tmp_path, engine="native")


def test_relative_thresholds_are_no_thresholds_for_our_own_engines(tmp_path):
    config = tiny.changed(prune={"score_norm": "max"})
    tiny.classifier(config).save_pretrained(tmp_path / "folder")
    assert isinstance(Classifier.from_pretrained(tmp_path / "folder").engine, TorchEngine)
    for export in (export_onnx, export_single_graph, export_native):
        with pytest.raises(
            ConfigError, match=r"this model by relative ones \(score_norm 'max'\); use engine"
        ):
            export(tiny.build(config), tmp_path / "out", encoder=None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_is_followed_whatever_prunes(kind):
    trace = tiny.classifier(model_config(kind)).explain(tiny.TEXTS[0], exit_threshold=None)
    assert len(trace.layers) == 3
    assert (trace.layers[1].token_threshold_mass is not None) == (kind == "threshold")


def test_a_folder_of_an_unknown_kind_is_refused_by_name(tmp_path):
    tiny.classifier().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    data = json.loads(file.read_text())
    data["magic_pyramid"]["prune"]["kind"] = "tresholds"
    file.write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match=r"prune\.kind is 'tresholds'; did you mean 'threshold'"):
        Classifier.from_pretrained(tmp_path)
