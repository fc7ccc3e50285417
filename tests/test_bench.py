import shutil

import numpy as np
import pytest

import tiny
from magic_pyramid.bench import contender as contenders
from magic_pyramid.bench.contender import Answers, Contender, Material, in_batches
from magic_pyramid.bench.cross_encoder import CONTENDERS as CROSS_ENCODERS
from magic_pyramid.bench.ctranslate2_encoder import CONTENDERS as CTRANSLATE2
from magic_pyramid.bench.huggingface import CONTENDERS as HUGGINGFACE
from magic_pyramid.bench.ours import CONTENDERS as OURS
from magic_pyramid.bench.peak import measured_peak
from magic_pyramid.bench.roster import CONTENDERS, chosen
from magic_pyramid.bench.rows import Measured, gflops_of, growth_of, rows_of
from magic_pyramid.bench.run import BenchOptions, run_bench
from magic_pyramid.bench.texts import BenchTexts, padded, random_texts
from magic_pyramid.bench.turns import LATENCY, Task, Timings, in_turns, percentiles, quartiles
from magic_pyramid.bench.verdict import Verdict, judge
from magic_pyramid.bench.worker import Worker, peak_memory_mb
from magic_pyramid.cost import CostModel
from magic_pyramid.data import Example
from magic_pyramid.engine.interface import DENSE
from magic_pyramid.engine.torch_engine import TorchEngine
from magic_pyramid.errors import ConfigError, InputError
from magic_pyramid.tokenization import EncodedTexts

TEXTS = BenchTexts(tiny.encoded(3, 9, 5, 4), ["a", "b", "c", "d"])
PAIRS = BenchTexts(tiny.encoded(4), [("a", "b")])
AGREES = Verdict(logit_difference=0.0, agreement=1.0, reason=None)


def fake(engine="peer", **options):
    return Contender(engine=engine, load=lambda _, __: None, **options)


class FakeSeat:
    """Writes down when it was asked; fails on the call of this number."""

    def __init__(self, name, journal, *, fails_at=None):
        self.name, self.journal, self.calls, self.fails_at = name, journal, 0, fails_at

    def ask(self, **request):
        self.calls += 1
        if self.calls == self.fails_at:
            raise ChildProcessError("it fell over")
        self.journal.append((self.name, request["texts"], request["batch_size"]))
        return {"seconds": [0.5, 1.5] if request["batch_size"] == 1 else [2.0]}


def test_contenders_take_turns_pass_by_pass():
    journal = []
    seats = {name: FakeSeat(name, journal) for name in "ABC"}
    timings, failures = in_turns(seats, [LATENCY, Task("texts", 8)], repeats=2)
    assert [name for name, _, _ in journal] == list("ABC" * 4)
    assert [size for _, _, size in journal] == ([1] * 3 + [8] * 3) * 2
    assert failures == {}
    assert timings["B"].calls == [0.5, 1.5, 0.5, 1.5]
    assert timings["B"].passes == {("texts", 1): [2.0, 2.0], ("texts", 8): [2.0, 2.0]}


def test_a_contender_that_fails_drops_out_and_the_others_go_on():
    journal = []
    seats = {"A": FakeSeat("A", journal, fails_at=2), "B": FakeSeat("B", journal)}
    timings, failures = in_turns(seats, [Task("texts", 8)], repeats=3)
    assert "".join(name for name, _, _ in journal) == "ABBB"
    assert failures == {"A": "it fell over"}
    assert set(timings) == {"B"}


def test_a_task_that_a_contender_cannot_do_is_left_out():
    journal = []
    seats = {name: FakeSeat(name, journal) for name in "AB"}
    in_turns(
        seats,
        [LATENCY, Task("length_8", 1)],
        repeats=1,
        can_do=lambda name, task: name == "A" or task == LATENCY,
    )
    assert journal == [("A", "texts", 1), ("B", "texts", 1), ("A", "length_8", 1)]


def test_quartiles_and_percentiles_interpolate():
    assert quartiles([4.0, 1.0, 2.0, 3.0]) == {"q1": 1.75, "median": 2.5, "q3": 3.25}
    assert percentiles(range(101)) == {"p50": 50.0, "p95": 95.0, "p99": 99.0}


def test_padding_is_the_share_of_positions_without_a_token():
    # Sorted by length: 3 and 4, then 5 and 9.
    assert TEXTS.batches(2) == [[0, 3], [2, 1]]
    assert TEXTS.padding_share(2) == pytest.approx(1 - 21 / (2 * 4 + 2 * 9))
    assert TEXTS.padding_share(1) == 0.0


def test_a_padded_batch_is_as_long_as_its_longest_text():
    batch = padded(TEXTS, [0, 2], pad_id=7)
    assert batch["input_ids"].shape == (2, 5)
    assert batch["input_ids"][0, 3:].tolist() == [7, 7]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1] * 5]


def test_logits_come_back_in_input_order(tmp_path):
    material = Material(tmp_path, tiny.REGRESSION)
    answer = in_batches(material, lambda _, rows: np.array(rows, dtype=np.float32)[:, None])
    answers = answer(TEXTS, 2)
    assert answers.logits[:, 0].tolist() == [0, 1, 2, 3]


def test_texts_are_read_as_they_were_written(tmp_path):
    for texts in (TEXTS, PAIRS, BenchTexts(TEXTS.encoded, None)):
        texts.write(tmp_path / "texts.json")
        assert BenchTexts.read(tmp_path / "texts.json") == texts


def test_random_sequences_are_seeded_and_keep_the_ends():
    texts = random_texts(TEXTS.encoded, length=6, seed=1)
    assert texts == random_texts(TEXTS.encoded, length=6, seed=1)
    assert texts != random_texts(TEXTS.encoded, length=6, seed=2)
    assert len(texts) == 32
    assert {(len(ids), ids[0], ids[-1]) for ids in texts.encoded.token_ids} == {(6, 2, tiny.SEP)}
    assert len(random_texts(TEXTS.encoded, length=512, seed=1)) == 2


def test_a_sample_reaches_from_the_shortest_to_the_longest():
    assert TEXTS.sample(2).encoded.lengths == [3, 9]
    assert len(TEXTS.sample(9)) == 4


@pytest.mark.parametrize(
    ("contender", "logits", "reason"),
    [
        (fake(), [[2.0, 1.0], [0.0, 4.0]], None),
        (fake(), [[2.0, 1.0], [0.0, 4.01]], "differ by 0.01"),
        (fake(), [[2.0, 1.0], [0.0, float("nan")]], "finite numbers"),
        (fake(), [[2.0, 1.0]], r"the shape \(1, 2\)"),
        (fake(precision="int8"), [[1.5, 1.0], [0.0, 3.5]], None),
        (fake(precision="int8"), [[0.5, 1.0], [0.0, 4.0]], "only 50% of its answers"),
        (fake(adaptive=True), [[2.0, 1.0], [5.0, 4.0]], "only 50% of its answers"),
    ],
)
def test_wrong_answers_are_refused(contender, logits, reason):
    reference = np.array([[2.0, 1.0], [0.0, 4.0]], dtype=np.float32)
    verdict = judge(contender, np.array(logits, dtype=np.float32), reference, "single_label")
    if reason is None:
        assert verdict.reason is None
    else:
        with pytest.raises(AssertionError, match=reason):
            raise AssertionError(verdict.reason)


@pytest.mark.parametrize(("problem_type", "agreement"), [("multi_label", 0.5), ("regression", 1.0)])
def test_agreement_follows_the_kind_of_problem(problem_type, agreement):
    logits = np.array([[0.1, -1.0], [3.0, 1.0]], dtype=np.float32)
    verdict = judge(fake(precision="int8"), logits - 0.15, logits, problem_type)
    assert verdict.agreement == agreement


def test_names_are_unique_and_say_what_they_are():
    assert len(CONTENDERS) == 20
    kinds = [
        f"magic_pyramid_{kind}{adaptive}"
        for adaptive in ("", "_adaptive")
        for kind in ("torch", "onnx", "onnx_int8", "native", "native_int8")
    ]
    assert [name for name, one in CONTENDERS.items() if one.is_ours] == kinds
    assert all(not one.adaptive for one in CONTENDERS.values() if not one.is_ours)


def test_contenders_are_chosen_by_name_or_engine():
    assert [one.name for one in chosen(["openvino", "ctranslate2_int8"])] == [
        "openvino",
        "openvino_int8",
        "ctranslate2_int8",
    ]
    assert len(chosen([])) == len(CONTENDERS)
    with pytest.raises(ConfigError, match="there is no contender 'opnvino'; did you mean 'openvino'"):
        chosen(["opnvino"])


@pytest.mark.parametrize(
    ("contender", "config", "texts", "reason"),
    [
        (
            fake(libraries=("no_such_library",)),
            tiny.CONFIG,
            TEXTS,
            r"no_such_library not installed: pip install",
        ),
        (OURS[-1], tiny.PLAIN, TEXTS, "neither pruning nor exits"),
        (
            HUGGINGFACE[0],
            tiny.CONFIG.replace(final_head="fastbert"),
            TEXTS,
            "an ordinary checkpoint cannot hold",
        ),
        (CROSS_ENCODERS[0], tiny.CONFIG, TEXTS, "these are single texts"),
        (
            CTRANSLATE2[0],
            tiny.CONFIG.replace(backbone=tiny.FAMILIES["mpnet"]),
            TEXTS,
            "no converter for mpnet",
        ),
        (CTRANSLATE2[0], tiny.changed(backbone={"head_act": "silu"}), TEXTS, "has no silu"),
    ],
)
def test_what_does_not_apply_is_skipped_with_the_reason(monkeypatch, contender, config, texts, reason):
    if contender.libraries != ("no_such_library",):
        monkeypatch.setattr(contenders, "find_spec", lambda _: object())
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(contender.obstacle(config, texts))


def test_what_applies_has_no_obstacle(monkeypatch):
    monkeypatch.setattr(contenders, "find_spec", lambda _: object())
    assert CROSS_ENCODERS[0].obstacle(tiny.CONFIG, PAIRS) is None
    assert OURS[-1].obstacle(tiny.CONFIG, TEXTS) is None


def test_a_compiler_is_asked_for(monkeypatch):
    monkeypatch.setattr(contenders, "find_spec", lambda _: object())
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert "needs a C++ compiler" in CONTENDERS["torch_compile"].obstacle(tiny.CONFIG, TEXTS)


def test_dense_flops_need_no_receipts_and_exits_are_charged():
    model = tiny.build(seed=3)
    cost = CostModel(model.config)
    dense = gflops_of(model.config, fake(), TEXTS, exit_layer=None, num_tokens=None)
    assert dense == cost.dense_flops(np.array(TEXTS.encoded.lengths), convention="actual").mean() / 1e9
    output = TorchEngine(model).run(TEXTS.encoded, setting=DENSE)
    receipts = {"exit_layer": output.exit_layer.tolist(), "num_tokens": output.num_tokens.tolist()}
    assert gflops_of(model.config, OURS[0], TEXTS, **receipts) == pytest.approx(dense)
    assert gflops_of(model.config, OURS[-1], TEXTS, **receipts) > dense


def measured(contender, seconds, call_s):
    passes = {("texts", 1): [4 * call_s], ("texts", 32): seconds, ("length_8", 1): [2.0]}
    return Measured(
        contender=contender,
        accuracy=0.75,
        verdict=AGREES,
        gflops=2.0,
        cold_start_s=1.5,
        peak_memory_mb=300.0,
        timings=Timings(passes, [call_s] * 4),
    )


FOUND = [
    measured(fake("magic_pyramid_x"), [2.0], 0.5),
    measured(fake("magic_pyramid_x", adaptive=True), [1.0, 2.0, 0.5], 0.25),
    measured(fake("slow"), [8.0], 0.4),
    measured(fake("fast", precision="int8"), [4.0], 1.0),
]


def result_of(found=FOUND):
    rows = rows_of(found, TEXTS, batch_sizes=(1, 32), threads=1, peak_gflops=100.0)
    provenance = {
        "command": "magic-pyramid bench demo",
        "commit": "abc",
        "machine": "a machine",
        "cores": 1,
        "versions": {"numpy": "2"},
        "seed": 0,
        "repeats": 3,
        "threads": [1],
        "batch_sizes": [1, 32],
        "lengths": [8],
        "num_texts": 4,
        "mean_tokens": 5.25,
        "longest_tokens": 9,
        "metric": "accuracy",
        "exit_threshold": 0.2,
        "prune_scale": 1.0,
        "peak": {"1": {"gflops_per_s": 100.0, "library": "numpy", "size": 1024}},
        "warm_up": "one pass",
    }
    return {
        "provenance": provenance,
        "rows": rows,
        "growth": growth_of(found, {8: 4}, threads=1),
        "skipped": [{"name": "absent", "reason": "not installed"}],
        "refused": [{"name": "liar", "reason": "its logits differ"}],
    }


def test_rows_have_the_promised_keys():
    rows = result_of()["rows"]
    assert len(rows) == 8
    for row in rows:
        assert {
            "engine", "adaptive", "precision", "threads", "batch_size", "throughput", "latency_ms",
            "accuracy",
            "peak_memory_mb", "cold_start_s", "gflops", "share_of_peak", "padding_share",
        } <= set(row)  # fmt: skip
        assert set(row["latency_ms"]) == {"p50", "p95", "p99"}


def test_the_numbers_of_a_row():
    row = next(row for row in result_of()["rows"] if row["adaptive"] and row["batch_size"] == 32)
    assert row["throughput"] == 4.0
    assert row["throughput_quartiles"] == [4 / 1.5, 4 / 0.75]
    assert row["latency_ms"]["p50"] == 250.0
    assert row["share_of_peak"] == pytest.approx(0.08)


def test_speedups_name_their_baselines():
    row = next(row for row in result_of()["rows"] if row["adaptive"] and row["batch_size"] == 32)
    assert row["speedup_own_dense"] == 2.0
    assert (row["speedup_best_dense_peer"], row["best_dense_peer"]) == (4.0, "fast_int8")
    assert (row["latency_speedup_best_dense_peer"], row["best_dense_peer_latency"]) == (1.6, "slow")
    peer = next(row for row in result_of()["rows"] if row["engine"] == "slow")
    assert peer["speedup_own_dense"] is None
    alone = rows_of(FOUND[1:2], TEXTS, batch_sizes=(32,), threads=1, peak_gflops=100.0)[0]
    assert alone["speedup_own_dense"] is alone["best_dense_peer"] is None


def test_growth_is_sequences_a_second_by_length():
    assert result_of()["growth"][0] == {"name": "magic_pyramid_x", "threads": 1, "throughput": {"8": 2.0}}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": (0,)}, "threads is"),
        ({"batch_sizes": (2, 2)}, "batch_sizes is"),
        ({"repeats": 0}, "at least one of each"),
        ({"lengths": (2,)}, "at least 3 tokens"),
        ({"only": ("nobody",)}, "there is no contender"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        BenchOptions(**options)


def test_unusable_data_is_refused(tiny_model):
    classifier = tiny.classifier()
    with pytest.raises(InputError, match="1 of 1 examples have no label"):
        run_bench(classifier, [Example(text="good")], options=BenchOptions())
    with pytest.raises(ConfigError, match="lengths contains 99; the model takes at most 32"):
        run_bench(classifier, [Example(text="good", label=0)], options=BenchOptions(lengths=(99,)))


def test_a_worker_answers_and_times(tmp_path):
    material = Material(tmp_path, tiny.CONFIG)
    material.write()
    assert Material.read(tmp_path) == material
    TEXTS.write(tmp_path / "texts.json")
    calls = []

    def answer(texts, batch_size):
        calls.append((len(texts), batch_size))
        return Answers(np.zeros((len(texts), 2), dtype=np.float32), np.zeros(4, dtype=np.int64))

    worker = Worker(material, answer)
    assert len(worker.reply({"do": "time", "texts": "texts", "batch_size": 2})["seconds"]) == 1
    assert len(worker.reply({"do": "time", "texts": "texts", "batch_size": 1})["seconds"]) == 4
    reply = worker.reply({"do": "answer", "texts": "texts", "batch_size": 3})
    assert reply == {"logits": [[0.0, 0.0]] * 4, "exit_layer": [0] * 4, "num_tokens": None}
    assert calls == [(4, 2), *[(1, 1)] * 4, (4, 3)]
    assert worker.reply({"do": "memory"})["peak_memory_mb"] <= peak_memory_mb()


def test_the_peak_is_a_matrix_product(monkeypatch):
    monkeypatch.setattr("magic_pyramid.bench.peak.SIZES", (16,))
    found = measured_peak(1)
    assert found["gflops_per_s"] > 0
    assert found["library"] in ("numpy", "torch")


def test_our_engine_answers_through_its_row(tmp_path):
    classifier = tiny.classifier()
    material = Material(tmp_path, classifier.config)
    classifier.save_pretrained(material.model)
    dense = TorchEngine(classifier.model).run(TEXTS.encoded, setting=DENSE).logits
    answers = CONTENDERS["magic_pyramid_torch"].load(material, 1)(TEXTS, 2)
    assert np.abs(answers.logits - dense).max() < 1e-5
    onnx = CONTENDERS["magic_pyramid_onnx"]
    onnx.prepare(material)
    assert np.abs(onnx.load(material, 1)(TEXTS, 2).logits - dense).max() < 1e-4


@pytest.mark.parametrize("name", ["huggingface", "huggingface_pipeline"])
def test_transformers_gives_the_same_logits(tmp_path, name):
    classifier = tiny.classifier()
    raw = ["a quiet lovely film", "bad", ("good", "not a bad film")]
    texts = BenchTexts(classifier.encoder.encode(raw, max_length=32), raw)
    material = Material(tmp_path, classifier.config)
    classifier.to_huggingface(material.huggingface)
    dense = TorchEngine(classifier.model).run(texts.encoded, setting=DENSE).logits
    logits = CONTENDERS[name].load(material, 1)(texts, 2).logits
    assert np.abs(logits - dense).max() < 1e-4


def test_random_texts_have_no_words():
    assert random_texts(EncodedTexts([[2, 5, 3]], [[0] * 3]), length=4, seed=0).raw is None
