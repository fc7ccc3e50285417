"""Made-up results of a suite, as measured ones would be stored: for tables, pictures and pages."""

import random
from typing import Any

from magic_pyramid.reproduce.suite import Suite, suite_of
from magic_pyramid.reproduce.summary import Results

DATASETS = ("MRPC", "AG News", "STS-B")
METHODS = ("bert", "ltp", "fastbert", "magic_pyramid", "top", "pyramid")
LAYERS = 6
FACTS = {
    "command": "magic-pyramid reproduce s.yaml", "commit": "abc123", "train_commit": "abc122", "threads": 1,
    "machine": "Test CPU", "dtype": "fp32", "engine": "native", "backbone": "encoder", "train_rows": 100,
    "validation_rows": 20, "validation": "the data's own split", "test_rows": 40,
    "tested": "the data's own test split",
    "commonest_label": 0.525,
    "timed_against": "bert, dense, in the engine native", "timed_machine": "Test CPU", "timed_threads": 1,
    "timed_batch_size": 32, "timed_repeats": 5, "timed_rows": 128, "timed_commit": "abc123",
}  # fmt: skip


def made_up_suite(datasets=DATASETS, methods=METHODS, seeds=(0, 1)) -> Suite:
    return suite_of({
        "name": "made up",
        "about": "Numbers from a random generator.",
        "backbone": "encoder",
        "datasets": [{"name": name, "data": name} for name in datasets],
        "methods": [m if isinstance(m, dict) else {"name": m, "preset": m} for m in methods],
        "seeds": list(seeds),
    })  # fmt: skip


def made_up(suite: Suite | None = None) -> tuple[Results, dict[tuple[str, str, int], list[dict[str, Any]]]]:
    """Results and curves; methods are faster the later they stand."""
    suite = suite or made_up_suite()
    generator = random.Random(0)
    rows, curves = [], {}
    for dataset in suite.datasets:
        for place, method in enumerate(suite.methods):
            for seed in suite.seeds:
                base = 0.88 + 0.01 * generator.random()
                power = 1.0 + 0.35 * place
                curves[dataset.name, method.name, seed] = _curve(generator, base, power)
                for setting, speedup in _settings(suite, place, power).items():
                    row = _row(generator, base, speedup, place)
                    key = {"dataset": dataset.name, "method": method.name, "seed": seed, "setting": setting}
                    rows.append(
                        {"suite": suite.name, "metric": "accuracy", "preset": method.preset, **key, **row}
                    )
    return Results(suite, rows), curves


def _settings(suite, place, power):
    named = {"dense": 1.0}
    if place:
        named |= {f"tau={tau:g}": 1.0 + power * tau for tau in suite.thresholds}
        named["calibrated"] = 1.0 + 0.4 * power
    return named | {f"within {drop:g}": 1.0 + power * drop * bool(place) for drop in suite.max_drops}


def _row(generator, base, speedup, place):
    quality = base - 0.004 * speedup + 0.004 * generator.random()
    bucket = {"num_examples": 20, "quality": quality, "flops_speedup": speedup}
    left = [generator.random() * (speedup - 1) for _ in range(LAYERS - 1)]
    return {
        "quality": quality,
        "scores": {"accuracy": quality},
        "teacher_quality": base,
        "gflops": 2.0 / speedup,
        "dense_gflops": 2.0,
        "flops_speedup": speedup,
        "flops_speedup_padded": 2 * speedup,
        "wall_clock_speedup": 0.8 * speedup,
        "latency_ms": 2.0 / speedup,
        "exit_threshold": 0.1 if place > 1 else None,
        "prune_scale": 1.0,
        "tokens_alive": [40.0 / (1 + 0.2 * layer * (speedup - 1)) for layer in range(LAYERS + 1)],
        "exit_distribution": [*(round(10 * share) for share in left), 20],
        "by_length": {
            "1-35": bucket,
            "36-70": {**bucket, "flops_speedup": 1.2 * speedup},
            ">70": {**bucket, "flops_speedup": 1.6 * speedup},
        },
        "training": {
            "epochs": {"finetune": 3.0, "hard_prune": 0.5},
            "teacher_share": 0.5,
            "target_speedup": 2.0,
        },
        "provenance": FACTS,
    }


def _curve(generator, base, power):
    points = []
    for step in range(12):
        speedup = 1.0 + 0.25 * step * power
        quality = base - 0.0008 * step**2 + 0.004 * generator.random()
        test = {"quality": quality - 0.005 * generator.random(), "flops_speedup": 0.98 * speedup}
        validation = {"quality": quality, "flops_speedup": speedup}
        points.append(
            {"prune_scale": step / 8, "exit_threshold": None, "validation": validation, "test": test}
        )
    return points
