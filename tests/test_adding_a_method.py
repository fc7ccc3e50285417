"""The example of docs/architecture.md is a whole method: one file and one row of presets."""

import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import tiny
from magic_pyramid.classifier import Classifier
from magic_pyramid.config import PRUNE_KINDS, AnyPruneConfig, ModelConfig, RankBinsConfig
from magic_pyramid.engine.interface import DENSE, Setting
from magic_pyramid.engine.torch_engine import TorchEngine
from magic_pyramid.errors import ConfigError
from magic_pyramid.presets import PRESETS, apply_preset
from magic_pyramid.pruning import PRUNERS, register_pruner
from magic_pyramid.pruning.rank_bins import RankBinsPruner
from training_toy import BACKBONE, FAST, PYRAMID, toy_model, train_toy

DOCUMENT = Path(__file__).parents[1] / "docs" / "architecture.md"


@pytest.fixture(scope="module")
def method():
    """The example, run as a module of its own and forgotten afterwards."""
    known = [(table, dict(table)) for table in (PRUNE_KINDS, PRUNERS, PRESETS)]
    (source,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), flags=re.DOTALL)
    module = ModuleType("one_cut")
    sys.modules["one_cut"] = module
    exec(compile(source, str(DOCUMENT), "exec"), module.__dict__)
    yield module
    del sys.modules["one_cut"]
    for table, before in known:
        table.clear()
        table.update(before)


def test_it_is_short(method):
    (source,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(source.splitlines()) < 45


def test_json_knows_it(method):
    config = apply_preset(tiny.PLAIN, PRESETS["one_cut"])
    assert isinstance(config.prune, method.OneCutConfig)
    assert ModelConfig.from_dict(config.to_dict()) == config


def test_it_prunes_where_and_as_much_as_it_says(method):
    config = tiny.CONFIG.replace(prune=method.OneCutConfig(layer=1), exit=None)
    engine, inputs = TorchEngine(tiny.build(config)), tiny.encoded(9, 2, 1, 14)
    output = engine.run(inputs, setting=Setting())
    assert output.num_tokens.tolist() == [[9, 9, 5, 5], [2, 2, 2, 2], [1, 1, 1, 1], [14, 14, 8, 8]]
    assert engine.run(inputs, setting=DENSE).num_tokens[:, -1].tolist() == [9, 2, 1, 14]


def test_it_is_trained_saved_loaded_and_followed(method, tmp_path):
    prune = method.OneCutConfig(layer=0)
    trained = toy_model(PYRAMID.replace(prune=prune, exit=None, backbone=BACKBONE))
    report = train_toy(trained, tmp_path / "training", config=FAST)
    assert [stage.name for stage in report.stages] == ["finetune", "hard_prune"]

    classifier = tiny.classifier(tiny.CONFIG.replace(prune=prune))
    classifier.save_pretrained(tmp_path / "folder")
    again = Classifier.from_pretrained(tmp_path / "folder")
    assert again.config.prune == prune
    ours, theirs = (one.predict(list(tiny.TEXTS)) for one in (classifier, again))
    assert np.array_equal(ours.probabilities, theirs.probabilities)
    assert len(again.explain(tiny.TEXTS[0]).layers[0].kept) < len(tiny.TEXTS[0].split())


def test_training_softly_changes_nothing_of_it(method):
    model = tiny.build(tiny.CONFIG.replace(prune=method.OneCutConfig(), exit=None))
    batch = tiny.packed(9, 5)
    with torch.no_grad():
        soft, none = (model(batch, masking=masking) for masking in ("soft", "none"))
    torch.testing.assert_close(soft.logits, none.logits)
    assert not soft.penalty.any()


def test_a_kind_that_is_taken_is_refused():
    class RankBins(RankBinsConfig):
        pass

    with pytest.raises(ConfigError, match=r"'rank_bins' belongs to RankBinsConfig; choose another for RankB"):
        register_pruner(RankBins, RankBinsPruner)
    assert PRUNE_KINDS["rank_bins"] is RankBinsConfig


def test_what_is_no_object_is_no_way_to_prune():
    with pytest.raises(ConfigError, match="prune is 'threshold'; it must be an object"):
        AnyPruneConfig.variant_of("threshold")
