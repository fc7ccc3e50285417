"""What a setting costs and keeps: the keys people rely on, and the arithmetic behind them."""

import numpy as np
import pytest

import tiny
from magic_pyramid.config import ExitConfig, PruneConfig
from magic_pyramid.cost import CostModel
from magic_pyramid.engine.interface import DENSE, EngineOutput, Setting, flops_of
from magic_pyramid.engine.torch_engine import TorchEngine
from magic_pyramid.evaluation import TIMED_ROWS, compare, evaluate
from magic_pyramid.tokenization import EncodedTexts

ISSUE_KEYS = {
    *("accuracy", "dense_accuracy", "gflops", "dense_gflops", "flops_speedup", "flops_speedup_padded"),
    *("wall_clock_speedup", "mean_layers", "mean_kept_tokens", "by_length", "num_examples"),
}
BOTH = Setting(prune_scale=1.0, exit_threshold=0.6)
# Three texts of 4, 40 and 80 tokens: one leaves after the first layer, one after the second, one runs all.
LENGTHS = (4, 40, 80)
CONFIG = tiny.CONFIG.replace(backbone=tiny.BACKBONE.replace(max_position_embeddings=128), max_length=100)
OURS = EngineOutput(
    logits=np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0]], dtype=np.float32),
    exit_layer=np.array([0, 1, 2]),
    num_tokens=np.array([[4, 2, 0, 0], [40, 20, 10, 0], [80, 60, 30, 15]]),
)
LABELS = [0, 1, 2]


class ScriptedEngine:
    """Answers from a script: the dense run is always right, ours as written above."""

    name = "scripted"

    def __init__(self):
        self.settings = []

    def run(self, encoded, *, setting, batch_size=None):
        self.settings.append((setting, len(encoded), batch_size))
        if setting != DENSE:
            return OURS
        return EngineOutput(
            logits=np.eye(3, dtype=np.float32),
            exit_layer=np.full(3, 2),
            num_tokens=np.repeat(np.array(LENGTHS)[:, None], 4, axis=1),
        )


def encoded(lengths=LENGTHS):
    return EncodedTexts([[2] * n for n in lengths], [[0] * n for n in lengths])


@pytest.fixture
def scripted():
    return evaluate(ScriptedEngine(), CONFIG, encoded(), LABELS, setting=BOTH, repeats=2)


def test_the_promised_keys_are_there():
    row = evaluate(
        TorchEngine(tiny.build()), tiny.CONFIG, tiny.encoded(4, 9), [0, 1], setting=BOTH, repeats=1
    )
    assert row.keys() >= ISSUE_KEYS
    assert list(row["by_length"]) == ["1-35", "36-70", ">70"]
    assert row["wall_clock_speedup"] > 0


def test_accuracy_is_ours_and_the_dense_twins(scripted):
    assert scripted["accuracy"] == pytest.approx(2 / 3)
    assert scripted["dense_accuracy"] == 1.0
    assert scripted["num_examples"] == 3
    assert scripted["metric"] == "accuracy"


def test_gflops_are_means_and_their_ratio_is_the_speedup(scripted):
    cost = CostModel(CONFIG)
    ours, dense = cost.flops(OURS.num_tokens, OURS.exit_layer), cost.dense_flops(np.array(LENGTHS))
    padded = cost.dense_flops(np.array([100] * 3))
    assert scripted["gflops"] == pytest.approx(ours.mean() / 1e9)
    assert scripted["dense_gflops"] == pytest.approx(dense.mean() / 1e9)
    assert scripted["flops_speedup"] == pytest.approx(dense.sum() / ours.sum())
    assert scripted["flops_speedup_padded"] == pytest.approx(padded.sum() / ours.sum())


def test_depth_and_width_are_means_over_the_layers_that_ran(scripted):
    assert scripted["mean_layers"] == 2.0
    assert scripted["mean_kept_tokens"] == pytest.approx((2 + 20 + 10 + 60 + 30 + 15) / 6)
    assert scripted["mean_input_tokens"] == pytest.approx(124 / 3)
    assert scripted["kept_tokens_per_layer"] == pytest.approx([82 / 3, 20.0, 15.0])
    assert scripted["exit_distribution"] == [1, 1, 1]


def test_each_length_bucket_has_its_own_numbers(scripted):
    buckets = scripted["by_length"]
    assert [bucket["num_examples"] for bucket in buckets.values()] == [1, 1, 1]
    assert [bucket["accuracy"] for bucket in buckets.values()] == [1.0, 1.0, 0.0]
    total = sum(bucket["gflops"] for bucket in buckets.values())
    assert total / 3 == pytest.approx(scripted["gflops"])


def test_the_buckets_are_those_of_the_paper():
    engine = TorchEngine(tiny.build(CONFIG))
    row = evaluate(engine, CONFIG, encoded((35, 36, 70, 71)), [0] * 4, setting=DENSE, repeats=0)
    assert [bucket["num_examples"] for bucket in row["by_length"].values()] == [1, 2, 1]


def test_an_empty_bucket_says_so():
    row = evaluate(TorchEngine(tiny.build()), tiny.CONFIG, tiny.encoded(4), [0], setting=BOTH, repeats=0)
    keys = ("accuracy", "dense_accuracy", "gflops", "dense_gflops", "flops_speedup")
    assert row["by_length"][">70"] == {"num_examples": 0, **dict.fromkeys(keys)}


def test_a_layer_that_nobody_reached_keeps_nothing():
    engine = TorchEngine(tiny.build())
    row = evaluate(
        engine, tiny.CONFIG, tiny.encoded(4, 9), [0, 0], setting=Setting(exit_threshold=1.0), repeats=0
    )
    assert row["kept_tokens_per_layer"][1:] == [None, None]
    assert row["exit_distribution"] == [2, 0, 0]
    assert row["mean_layers"] == 1.0


def test_the_dense_setting_gains_nothing():
    row = evaluate(
        TorchEngine(tiny.build()), tiny.CONFIG, tiny.encoded(4, 9), [0, 1], setting=DENSE, repeats=0
    )
    assert row["flops_speedup"] == 1.0
    assert row["gflops"] == row["dense_gflops"]
    assert row["accuracy"] == row["dense_accuracy"]


def test_timing_alternates_between_the_dense_run_and_ours():
    engine = ScriptedEngine()
    row = evaluate(engine, CONFIG, encoded(), LABELS, setting=BOTH, batch_size=7, repeats=3)
    timed = [setting for setting, _, _ in engine.settings[1:-1]]
    assert len(timed) >= 6
    assert timed == [DENSE, BOTH] * (len(timed) // 2)
    assert {size for _, _, size in engine.settings} == {7}
    assert row["repeats"] == 3
    assert row["timed_examples"] == 3
    assert row["wall_clock_speedup"] == pytest.approx(row["dense_latency_ms"] / row["latency_ms"])
    assert row["throughput"] == pytest.approx(1000 / row["latency_ms"])


def test_settings_compared_together_share_the_dense_run_and_take_turns():
    engine, pruned = ScriptedEngine(), Setting(prune_scale=1.0)
    settings = {"bert": DENSE, "ltp": pruned, "magic_pyramid": BOTH}
    steps = []
    rows = compare(engine, CONFIG, encoded(), LABELS, settings=settings, repeats=2, say=steps.append)
    assert list(rows) == list(settings)
    assert steps == [
        "the dense model has answered",
        "all settings are timed",
        *("bert: measured, 1 of 3", "ltp: measured, 2 of 3", "magic_pyramid: measured, 3 of 3"),
    ]
    ran = [setting for setting, _, _ in engine.settings]
    assert (ran[0], ran[-2:]) == (DENSE, [pruned, BOTH])
    assert ran[1:-2] == [DENSE, pruned, BOTH] * ((len(ran) - 3) // 3)
    assert rows["bert"]["flops_speedup"] == rows["bert"]["wall_clock_speedup"] == 1.0
    assert {row["dense_latency_ms"] for row in rows.values()} == {rows["bert"]["latency_ms"]}


def test_nothing_is_timed_with_zero_repeats():
    engine = ScriptedEngine()
    row = evaluate(engine, CONFIG, encoded(), LABELS, setting=BOTH, repeats=0)
    assert len(engine.settings) == 2
    assert row["wall_clock_speedup"] is None


def test_a_large_set_is_timed_on_a_sample_of_all_lengths():
    seen = []

    class Recorder:
        name = "recorder"

        def run(self, encoded, *, setting, batch_size=None):
            seen.append(encoded.lengths)
            n = len(encoded)
            return EngineOutput(
                logits=np.zeros((n, 3), dtype=np.float32),
                exit_layer=np.full(n, 2),
                num_tokens=np.repeat(np.array(encoded.lengths)[:, None], 4, axis=1),
            )

    lengths = [1 + row % 90 for row in range(3 * TIMED_ROWS)]
    row = evaluate(Recorder(), CONFIG, encoded(lengths), [0] * len(lengths), setting=BOTH, repeats=1)
    sample = max((found for found in seen if len(found) < len(lengths)), key=len)
    assert row["timed_examples"] == len(sample) == TIMED_ROWS
    assert (min(sample), max(sample)) == (1, 90)
    assert np.mean(sample) == pytest.approx(np.mean(lengths), rel=0.02)


def test_exit_heads_are_charged_when_exits_are_on():
    charged = flops_of(CONFIG, OURS, BOTH)
    free = flops_of(CONFIG, OURS, Setting(exit_threshold=None))
    assert (charged > free).all()


def test_the_row_names_its_setting(scripted):
    assert (scripted["exit_threshold"], scripted["prune_scale"], scripted["batch_size"]) == (0.6, 1.0, 32)
    plain = evaluate(
        TorchEngine(tiny.build(tiny.PLAIN)), tiny.PLAIN, tiny.encoded(4), [0], setting=BOTH, repeats=0
    )
    assert (plain["exit_threshold"], plain["prune_scale"]) == (None, 0.0)


def test_a_student_is_compared_with_the_whole_encoder_whatever_is_said_layer_by_layer():
    config = CONFIG.replace(
        prune=PruneConfig(manual_thresholds=(0.1, 0.2, 0.3)),
        exit=ExitConfig(threshold=(0.2, 0.4), layers=(0, 1), tested_layers=(0,)),
    )
    rows = compare(
        ScriptedEngine(), config, encoded(), LABELS, settings={"ours": BOTH}, repeats=0, base_layers=6
    )
    whole = CostModel(
        config.replace(backbone=config.backbone.replace(num_hidden_layers=6), prune=None, exit=None)
    )
    expected = whole.dense_flops(np.array(LENGTHS)).mean() / 1e9
    assert rows["ours"]["flops_speedup_base"] == pytest.approx(expected / rows["ours"]["gflops"])


@pytest.mark.parametrize(
    ("config", "labels", "metric"),
    [
        (tiny.MULTI_LABEL, [(0,), (), (1, 2)], "exact match"),
        (tiny.REGRESSION, [0.1, 0.7, -1.0], "Pearson correlation"),
    ],
    ids=["multi-label", "regression"],
)
def test_other_problems_are_measured_in_their_own_way(config, labels, metric):
    row = evaluate(
        TorchEngine(tiny.build(config)), config, tiny.encoded(4, 9, 6), labels, setting=BOTH, repeats=0
    )
    assert row["metric"] == metric
    assert -1.0 <= row["accuracy"] <= 1.0
