"""What the papers print, to stand beside what is measured here; nothing of it was measured by us."""

from collections.abc import Sequence
from dataclasses import dataclass

MAGIC_PYRAMID = "Magic Pyramid (2021), BERT-base-uncased"
LTP = "LTP (KDD 2022), RoBERTa-base"
FASTBERT = "FastBERT (ACL 2020), BERT-base; FLOPs of linear layers, inputs padded to 128"
TOP = "ToP (KDD 2023, repository), BERT-base"
POWER_BERT = "PoWER-BERT (ICML 2020), BERT-base; wall-clock on a K80, against padded batches"


@dataclass(frozen=True, slots=True, kw_only=True)
class Printed:
    """One result as a paper states it."""

    source: str
    """Paper and backbone."""
    preset: str
    """The method, by the name of our preset."""
    dataset: str
    metric: str = "accuracy"
    quality: float | None = None
    """In per cent."""
    dense_quality: float | None = None
    """Of the paper's own dense model, in per cent."""
    gflops: float | None = None
    speedup: float
    """Against the dense model; of FLOPs without padding unless the source says otherwise."""
    threshold: float | None = None
    """Exit threshold, where the paper states it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrintedLengths:
    """Speed-ups by length of the text: 1 to 35, 36 to 70 and more tokens (Magic Pyramid, figure 1)."""

    source: str
    preset: str
    dataset: str
    speedups: tuple[float, float, float]


def _main_table() -> tuple[Printed, ...]:
    """Accuracy, GFLOPs and speed-up of the main table; settings were chosen on the rows that are reported."""
    table = {
        "AG News": (
            (94.3, 9.0, 1.0), (94.4, 4.5, 2.0), (94.3, 5.3, 1.72), (94.3, 2.3, 3.97), (94.3, 1.8, 4.95)
        ),
        "Yelp polarity": (
            (95.8, 17.2, 1.0), (95.7, 8.6, 2.0), (94.7, 7.4, 2.32), (94.8, 2.8, 6.18), (94.5, 2.1, 8.25)
        ),
        "QQP": ((91.3, 5.1, 1.0), (90.4, 2.6, 2.0), (90.6, 3.2, 1.60), (90.7, 1.6, 3.20), (90.4, 1.3, 4.03)),
        "MRPC": ((85.3, 9.2, 1.0), (84.6, 4.6, 2.0), (84.8, 6.2, 1.48), (84.3, 4.3, 2.13), (83.8, 3.3, 2.77)),
        "RTE": ((68.6, 11.2, 1.0), (58.8, 5.6, 2.0), (67.8, 7.5, 1.50), (67.6, 8.4, 1.33), (67.5, 6.5, 1.72)),
    }  # fmt: skip
    presets = ("bert", "distilbert", "ltp", "fastbert", "magic_pyramid")
    return tuple(
        Printed(
            source=MAGIC_PYRAMID,
            preset=preset,
            dataset=dataset,
            quality=quality,
            dense_quality=cells[0][0],
            gflops=gflops,
            speedup=speedup,
        )
        for dataset, cells in table.items()
        for preset, (quality, gflops, speedup) in zip(presets, cells, strict=True)
    )


def _by_threshold() -> tuple[Printed, ...]:
    table = {
        ("fastbert", "AG News"): (3.97, 10.30, 11.95),
        ("magic_pyramid", "AG News"): (4.95, 10.53, 11.95),
        ("fastbert", "Yelp polarity"): (3.15, 6.18, 8.84),
        ("magic_pyramid", "Yelp polarity"): (5.35, 8.25, 10.10),
    }
    return tuple(
        Printed(source=MAGIC_PYRAMID, preset=preset, dataset=dataset, speedup=speedup, threshold=threshold)
        for (preset, dataset), speedups in table.items()
        for threshold, speedup in zip((0.1, 0.5, 0.8), speedups, strict=True)
    )


def _fastbert() -> tuple[Printed, ...]:
    table = {
        "AG News": (94.47, ((94.38, 6.013, 3.62), (93.14, 2.108, 10.33), (92.53, 1.858, 11.72))),
        "Yelp polarity": (96.04, ((95.99, 6.668, 3.26), (95.32, 3.456, 6.30), (94.31, 2.460, 8.85))),
    }
    return tuple(
        Printed(
            source=FASTBERT, preset="fastbert", dataset=dataset, quality=quality, dense_quality=dense,
            gflops=gflops, speedup=speedup, threshold=threshold,
        )
        for dataset, (dense, cells) in table.items()
        for threshold, (quality, gflops, speedup) in zip((0.1, 0.5, 0.8), cells, strict=True)
    )  # fmt: skip


def _ltp() -> tuple[Printed, ...]:
    """Fewest FLOPs within one point; the metric of MRPC is probably F1, that of STS-B a correlation."""
    table = {
        "MNLI": ("accuracy", 87.53, 86.53, 3.64, 1.88),
        "QQP": ("accuracy", 90.39, 89.69, 2.53, 2.10),
        "QNLI": ("accuracy", 92.86, 91.98, 4.77, 1.87),
        "SST-2": ("accuracy", 94.27, 93.46, 2.13, 2.09),
        "STS-B": ("correlation", 90.89, 90.03, 2.84, 1.95),
        "MRPC": ("F1", 92.14, 91.59, 4.44, 2.10),
        "RTE": ("accuracy", 77.98, 77.98, 6.30, 1.81),
    }
    return tuple(
        Printed(
            source=LTP, preset="ltp", dataset=dataset, metric=metric, dense_quality=dense, quality=quality,
            gflops=gflops, speedup=speedup,
        )
        for dataset, (metric, dense, quality, gflops, speedup) in table.items()
    )  # fmt: skip


def _top() -> tuple[Printed, ...]:
    """Speed-ups without padding, 1 / (1 - sparsity); the paper's 8x is against fully padded inputs."""
    table = {
        "CoLA": ("Matthews correlation", 60.3, 1.75),
        "RTE": ("accuracy", 68.3, 2.44),
        "QQP": ("accuracy", 90.9, 2.86),
        "MRPC": ("F1", 89.1, 3.03),
        "SST-2": ("accuracy", 93.4, 1.67),
        "MNLI": ("accuracy", 83.4, 2.00),
        "QNLI": ("accuracy", 89.0, 2.38),
        "STS-B": ("Pearson correlation", 86.6, 3.33),
    }
    return tuple(
        Printed(source=TOP, preset="top", dataset=dataset, metric=metric, quality=quality, speedup=speedup)
        for dataset, (metric, quality, speedup) in table.items()
    )


def _power_bert() -> tuple[Printed, ...]:
    table = {
        "CoLA": ("Matthews correlation", 52.5, 52.3, 4.5),
        "RTE": ("accuracy", 68.1, 67.4, 3.4),
        "QQP": ("F1", 71.2, 70.2, 4.5),
        "MRPC": ("F1", 88.7, 88.1, 2.7),
        "SST-2": ("accuracy", 93.0, 92.1, 2.4),
        "MNLI": ("accuracy", 84.6, 83.8, 2.6),
        "QNLI": ("accuracy", 91.0, 90.1, 2.0),
        "STS-B": ("Spearman correlation", 85.8, 85.1, 2.0),
    }
    return tuple(
        Printed(
            source=POWER_BERT, preset="power_bert", dataset=dataset, metric=metric, dense_quality=dense,
            quality=quality, speedup=speedup,
        )
        for dataset, (metric, dense, quality, speedup) in table.items()
    )  # fmt: skip


PRINTED: tuple[Printed, ...] = (
    *_main_table(), *_by_threshold(), *_fastbert(), *_ltp(), *_top(), *_power_bert()
)  # fmt: skip
"""Every printed result."""

PRINTED_LENGTHS: tuple[PrintedLengths, ...] = tuple(
    PrintedLengths(source=MAGIC_PYRAMID, preset=preset, dataset=dataset, speedups=speedups)
    for dataset, preset, speedups in (
        ("Yelp polarity", "ltp", (1.07, 1.33, 2.83)),
        ("Yelp polarity", "fastbert", (4.78, 4.91, 3.03)),
        ("Yelp polarity", "magic_pyramid", (4.98, 5.90, 5.59)),
        ("AG News", "ltp", (1.20, 1.58, 2.45)),
        ("AG News", "fastbert", (9.55, 10.46, 9.60)),
        ("AG News", "magic_pyramid", (9.59, 10.63, 10.36)),
    )
)
"""Figure 1 as far as its bars can be read."""


def printed_for(datasets: Sequence[str], presets: Sequence[str]) -> list[Printed]:
    """The results on datasets of these names by these methods."""
    names = {_plain(name) for name in datasets}
    return [row for row in PRINTED if _plain(row.dataset) in names and row.preset in presets]


def is_same_dataset(left: str, right: str) -> bool:
    """Whether two names differ only in case and signs."""
    return _plain(left) == _plain(right)


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())
