"""Fitting a folder to a machine: costs by differences, a plan in the folder, and what is refused."""

import json
import shutil

import numpy as np
import pytest

import tiny
from exported import write
from magic_pyramid.certify import Goal
from magic_pyramid.checkpoint.folder import DECIDED
from magic_pyramid.classifier import Classifier
from magic_pyramid.config import ExitConfig
from magic_pyramid.data import Example
from magic_pyramid.engine.interface import DENSE, EngineOutput, layers_tested
from magic_pyramid.engine.native_folder import NativePlan
from magic_pyramid.engine.torch_engine import TorchEngine
from magic_pyramid.errors import CheckpointError, ConfigError, InputError
from magic_pyramid.export import export_onnx
from magic_pyramid.export.native import export_native
from magic_pyramid.export.single_folder import export_single_graph
from magic_pyramid.export.verify import accept_export
from magic_pyramid.folder_info import read_info
from magic_pyramid.planning import ExitStatistics
from magic_pyramid.sweep import exit_statistics
from magic_pyramid.tuning import certify_folder, tune, undo
from magic_pyramid.tuning import costs as costs_module
from magic_pyramid.tuning.costs import measure_costs
from magic_pyramid.tuning.folder import rewrite_config

EXAMPLES = [Example(text=text, label=place % 3) for place, text in enumerate(tiny.TEXTS * 4)]
STATISTICS = ExitStatistics(
    exit_threshold=0.5, prune_scale=1.0, exit_layers=(0, 1), patterns={"00": 1}, mean_tokens=(8.0,) * 4
)


@pytest.fixture
def folder(tmp_path):
    """A calibrated model whose exits are on."""
    found = tiny.classifier(seed=3)
    found.calibrate(EXAMPLES, max_drop=100)
    assert found.config.exit.threshold is not None
    found.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def exported(folder, tmp_path):
    source = Classifier.from_pretrained(folder)
    export_onnx(source.model, tmp_path / "export", encoder=source.encoder, info=source.info)
    return tmp_path / "export"


def tuned(folder, **options):
    return tune(folder, budget_s=0.0, **options)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# Costs


class ClockedEngine:
    """Takes known seconds on a clock of its own: so much for a token in a layer, so much for a head."""

    def __init__(self, config, *, layer_s, head_s):
        self.config, self.layer_s, self.head_s, self.now_s = config, layer_s, head_s, 0.0

    def run(self, encoded, *, setting, batch_size=None):
        last, asked = self.config.backbone.num_hidden_layers - 1, layers_tested(self.config, setting)
        end = asked[0] if asked and setting.exit_threshold == 1.0 else last
        layers, heads = end + 1, sum(layer <= end for layer in asked)
        self.now_s += 0.25 + sum(encoded.lengths) * layers * self.layer_s + heads * self.head_s
        return EngineOutput(
            logits=np.zeros((len(encoded), 3), np.float32),
            exit_layer=np.full(len(encoded), end),
            num_tokens=np.ones((len(encoded), last + 2), np.int64),
        )


@pytest.mark.parametrize("layers", [None, (0,), (1,)], ids=["both heads", "the first", "the second"])
def test_the_costs_are_those_of_the_engine_without_its_overhead(layers, monkeypatch):
    config = tiny.changed(exit={"layers": layers})
    engine = ClockedEngine(config, layer_s=0.002, head_s=0.5)
    monkeypatch.setattr(costs_module.time, "perf_counter", lambda: engine.now_s)
    table = measure_costs(engine, config, STATISTICS, batch_size=6, budget_s=1e3)
    assert [(row.rows, row.tokens) for row in table.rows] == [
        (1, 2),
        (1, 4),
        (1, 8),
        (2, 16),
        (4, 32),
        (6, 48),
    ]
    assert [row.head_s for row in table.rows] == pytest.approx([0.5] * 6)
    spared = [row.layer_s / row.tokens for row in table.rows]
    assert spared == pytest.approx([0.002] * 6)


def test_a_slow_batch_is_the_largest_that_is_measured(monkeypatch):
    engine = ClockedEngine(tiny.CONFIG, layer_s=1.0, head_s=0.0)
    monkeypatch.setattr(costs_module.time, "perf_counter", lambda: engine.now_s)
    table = measure_costs(engine, tiny.CONFIG, STATISTICS, batch_size=64, budget_s=500.0)
    assert table.rows[-1].tokens == 16


def test_heads_that_are_sure_of_everything_cannot_be_measured():
    config = tiny.CONFIG.replace(labels=("only",))
    with pytest.raises(
        ConfigError, match=r"wholly sure of 20 random texts.*choose exit.tested_layers yourself"
    ):
        measure_costs(TorchEngine(tiny.build(config)), config, STATISTICS, batch_size=1)


# Statistics


def test_the_statistics_say_what_the_engine_does_with_any_choice_of_heads():
    model, encoded = tiny.build(seed=3), tiny.encoded(9, 2, 14, 9, 1, 5, 20, 7)
    setting = tiny.classifier(seed=3).setting()
    found = exit_statistics(model.config, TorchEngine(model).answer_all_heads(encoded, scale=1.0), setting)
    assert found.num_texts == 8
    for layer, sign in ((0, 0), (1, 1)):
        alone = Classifier(model, None).setting(exit_layers=(layer,))
        output = TorchEngine(model).run(encoded, setting=alone)
        leaving = sum(count for pattern, count in found.patterns.items() if pattern[sign] == "1")
        assert (output.exit_layer == layer).sum() == leaving
    everything = TorchEngine(model).run(encoded, setting=Classifier(model, None).setting(exit_threshold=None))
    assert found.mean_tokens == tuple(everything.num_tokens.mean(axis=0).round(2))


def test_calibration_stores_the_statistics_of_the_setting_it_chose(folder):
    found = Classifier.from_pretrained(folder)
    stored = ExitStatistics.from_dict(found.info["calibration"]["exit_statistics"])
    assert stored.exit_threshold == found.setting().exit_threshold
    assert stored.prune_scale == found.setting().prune_scale
    assert stored.num_texts == len(EXAMPLES)
    patient = tiny.classifier(tiny.changed(exit={"criterion": "patience", "patience": 1}), seed=3)
    assert patient.calibrate(EXAMPLES, max_drop=100).exit_statistics is None


# The folder


def test_a_tuned_folder_asks_the_planned_heads_by_default(folder):
    before = files(folder)
    found = tuned(folder, command="magic-pyramid tune-engine model")
    after = files(folder)
    assert {name for name in after if after[name] != before[name]} == {"config.json"}
    again = Classifier.from_pretrained(folder)
    assert again.setting().exit_layers == found.plan.tested_layers
    assert again.info["tuning"]["tested_layers"] == list(found.plan.tested_layers)
    assert again.info["tuning"]["command"] == "magic-pyramid tune-engine model"
    assert {"machine", "threads", "engine", "versions", "batch_size", "date"} < set(again.info["tuning"])
    texts = list(tiny.TEXTS)
    explicit = again.predict(texts, exit_layers=found.plan.tested_layers)
    assert again.predict(texts).exit_layer.tolist() == explicit.exit_layer.tolist()


def test_undo_leaves_the_folder_as_it_was(folder):
    before = files(folder)
    tuned(folder)
    undo(folder)
    assert files(folder) == before


def test_undo_gives_back_the_heads_that_a_certificate_asks(tmp_path):
    source = tiny.classifier(seed=3)
    source.save_pretrained(tmp_path / "model")
    rows = [Example(text=text, label=place % 3) for place, text in enumerate(tiny.TEXTS * 60)]
    certify_folder(tmp_path / "model", rows, goal=Goal(value=60.0, per_layer=True, confidence=0.5))
    asked = Classifier.from_pretrained(tmp_path / "model").setting()
    assert not undo(tmp_path / "model")
    tuned = Classifier.from_pretrained(tmp_path / "model")
    info = {**tuned.info, "tuning": {"engine": "torch"}}
    everyone = tuned.config.exit.replace(tested_layers=None)
    rewrite_config(tmp_path / "model", tuned.config.replace(exit=everyone), info=info)
    assert undo(tmp_path / "model")
    assert Classifier.from_pretrained(tmp_path / "model").setting() == asked


def test_costs_are_measured_once_for_each_way_to_run(folder):
    assert not tuned(folder).costs_were_stored
    stored = tuned(folder)
    assert stored.costs_were_stored
    assert not tuned(folder, again=True).costs_were_stored
    assert not tuned(folder, batch_size=4).costs_were_stored


def test_a_new_calibration_forgets_the_plan(folder):
    tuned(folder)
    found = Classifier.from_pretrained(folder)
    found.calibrate(EXAMPLES, max_drop=100)
    assert found.setting().exit_layers is None
    assert found.info["tuning"] == {}


def test_an_exported_folder_is_tuned_and_stays_whole(exported):
    before = files(exported)
    found = tuned(exported, engine="onnx")
    after = files(exported)
    assert {name for name in after if after[name] != before[name]} == {"config.json", "plan.json"}
    assert found.provenance["engine"] == "onnx"
    again = Classifier.from_pretrained(exported)
    assert again.setting().exit_layers == found.plan.tested_layers
    assert tuned(exported).costs_were_stored
    undo(exported)
    assert files(exported) == before


def test_a_tuning_that_was_cut_short_is_finished_by_whoever_opens_the_folder(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "other")
    found = tuned(tmp_path / "other")
    (exported / DECIDED).mkdir()
    shutil.copy(tmp_path / "other" / "plan.json", exported / DECIDED)
    shutil.copy(tmp_path / "other" / "config.json", exported)
    assert Classifier.from_pretrained(exported).setting().exit_layers == found.plan.tested_layers


def test_an_export_of_a_tuned_model_asks_the_same_heads(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    config["magic_pyramid"]["exit"]["tested_layers"] = [1]
    (folder / "config.json").write_text(json.dumps(config))
    source = Classifier.from_pretrained(folder)
    export_onnx(source.model, tmp_path / "export", encoder=source.encoder, info=source.info)
    assert Classifier.from_pretrained(tmp_path / "export").setting() == source.setting()
    assert source.setting().exit_layers == (1,)


def test_the_folder_of_the_native_engine_stays_whole(tmp_path):
    source = tiny.classifier(tiny.CONFIG)
    export_native(source.model, tmp_path / "native", encoder=source.encoder)
    config = tiny.changed(exit={"tested_layers": (1,)})
    rewrite_config(tmp_path / "native", config, info={"tuning": {"threads": 1}})
    assert NativePlan.read(tmp_path / "native").config == config
    assert read_info(tmp_path / "native")["tuning"] == {"threads": 1}


def test_one_graph_holds_and_asks_the_tested_heads_alone(tmp_path):
    source = tiny.classifier(tiny.changed(exit={"tested_layers": (1,)}), seed=3)
    export_single_graph(
        source.model,
        tmp_path / "single",
        encoder=source.encoder,
        accept=lambda folder: accept_export(source.model, folder),
    )
    found = Classifier.from_pretrained(tmp_path / "single")
    assert found.config.exit_layers == (1,)
    texts = list(tiny.TEXTS)
    assert found.predict(texts).exit_layer.tolist() == source.predict(texts).exit_layer.tolist()
    assert set(found.predict(texts, exit_layers=()).exit_layer) == {2}
    with pytest.raises(InputError, match="one graph holds the heads it asks; tune the folder it came from"):
        tuned(tmp_path / "single")


def test_one_graph_keeps_the_thresholds_of_the_heads_that_it_keeps(tmp_path):
    source = tiny.classifier(tiny.changed(exit={"tested_layers": (1,), "threshold": (0.1, 0.7)}), seed=3)
    export_single_graph(source.model, tmp_path / "single", encoder=source.encoder)
    found = Classifier.from_pretrained(tmp_path / "single")
    assert found.setting().exit_threshold == (0.7,)
    texts = list(tiny.TEXTS)
    assert found.predict(texts).exit_layer.tolist() == source.predict(texts).exit_layer.tolist()


def test_no_head_and_no_pruning_is_the_dense_run():
    config = tiny.changed(exit={"tested_layers": ()}, prune={"scale": 0.0})
    found = tiny.classifier(config)
    assert layers_tested(config, found.setting()) == ()
    one, other = (found.engine.run(tiny.encoded(9, 3), setting=s) for s in (found.setting(), DENSE))
    assert np.array_equal(one.logits, other.logits)


# Refusals


def untuned(tmp_path, config):
    tiny.classifier(config).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (tiny.PLAIN, "the model has no exits, so there is nothing to tune; a preset with exits adds them"),
        (tiny.changed(exit={"threshold": None}), r"exits are off in this model \(exit.threshold is None\)"),
        (
            tiny.CONFIG.replace(exit=ExitConfig(head_size=8, criterion="patience")),
            "exit.criterion is 'patience', which counts heads in a row: every head is asked",
        ),
    ],
    ids=["no exits", "exits off", "patience"],
)
def test_a_model_without_a_choice_of_heads_is_refused(tmp_path, config, message):
    with pytest.raises(ConfigError, match=message):
        tuned(untuned(tmp_path, config))


def test_what_is_no_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"demo is no folder; .* save or copy the model first"):
        tuned("demo")
    with pytest.raises(InputError, match=r"nothing is no folder"):
        undo(tmp_path / "nothing")


def test_an_engine_that_the_folder_is_not_made_for_is_refused(folder):
    with pytest.raises(CheckpointError, match="is no exported folder"):
        tuned(folder, engine="onnx")


def test_a_model_without_statistics_needs_texts_once(tmp_path):
    folder = untuned(tmp_path, tiny.CONFIG)
    with pytest.raises(
        InputError, match="holds no exit statistics of its setting; give held-out texts with --data"
    ):
        tuned(folder)
    assert tuned(folder, examples=EXAMPLES).statistics.num_texts == len(EXAMPLES)
    assert tuned(folder).statistics.num_texts == len(EXAMPLES)


def test_an_export_without_statistics_is_sent_back(tmp_path):
    with pytest.raises(InputError, match="tune the folder it came from with --data, and export it again"):
        tuned(write(tmp_path / "export"), examples=EXAMPLES)
