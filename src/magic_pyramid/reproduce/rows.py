"""The rows of a dataset: what trains, what chooses settings and what is tested, the same for every method."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from magic_pyramid.data import Example, LabelledData, load_data
from magic_pyramid.data.sampling import hold_out, subset
from magic_pyramid.errors import ConfigError, InputError
from magic_pyramid.evaluation import BUCKETS, Buckets
from magic_pyramid.reproduce.suite import MEDIAN, Dataset
from magic_pyramid.tokenization import TextEncoder

HELD_OUT_SHARE = 0.1
"""Share of train that chooses settings where no number of rows is given and no split is left for it."""
_SEED = 0
"""Of the choice of rows: all seeds of a suite train, choose and test on the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteRows:
    """The rows of one dataset."""

    data: LabelledData
    """`train` and `validation`."""
    test: Sequence[Example]
    tested: str
    """What the tested rows are: a split that the data has, or a part of train."""
    buckets: Buckets
    """Lengths by which the test is split, in tokens."""


def read_rows(spec: Dataset, encoder: TextEncoder, *, folder: Path | None, longest: int) -> SuiteRows:
    """Load a dataset, and take its train, validation and test rows.

    Args:
        spec: what to load.
        encoder: counts tokens, where `train_max_tokens` asks for it.
        folder: where a relative path is looked for first; otherwise the working directory, then the hub.
        longest: texts are counted up to so many tokens.

    Raises:
        InputError: the data cannot be used, or has fewer rows than are asked for.
        ConfigError: an option is impossible.
    """
    try:
        return _rows(spec, encoder, folder=folder, longest=longest)
    except (InputError, ConfigError) as error:
        raise type(error)(f"dataset {spec.name}: {error}") from None


def _rows(spec: Dataset, encoder: TextEncoder, *, folder: Path | None, longest: int) -> SuiteRows:
    loaded = load_data(
        _source(spec.data, folder),
        columns=spec.columns,
        where={column: str(value) for column, value in spec.where.items()},
        validation_share=0.0,
        test_share=spec.test_share,
        problem_type=spec.problem_type,
    )
    splits = dict(loaded.splits)
    for split in ("train", spec.test):
        if not splits.get(split):
            raise InputError(_missing(split, splits))
    test = splits[spec.test]
    held_out = spec.test == "validation" or not splits.get("validation")
    if held_out:
        splits["train"], splits["validation"] = _held_out(
            splits["train"], spec.validation_rows, loaded.labels
        )
    elif spec.validation_rows is not None:
        splits["validation"] = _some(
            splits["validation"], spec.validation_rows, "validation_rows", "validation"
        )
    buckets = BUCKETS
    if spec.train_max_tokens is not None:
        lengths = _lengths(splits["train"], encoder, longest=longest)
        most = float(np.median(lengths)) if spec.train_max_tokens == MEDIAN else float(spec.train_max_tokens)
        buckets = _quarters(lengths)
        for split in ("train", "validation"):
            splits[split] = _short(splits[split], encoder, most=most, longest=longest, split=split)
    if spec.train_rows is not None:
        splits["train"] = _some(splits["train"], spec.train_rows, "train_rows", "train")
    if spec.test_rows is not None:
        test = _some(test, spec.test_rows, "test_rows", spec.test)
    used = {"train": splits["train"], "validation": splits["validation"]}
    return SuiteRows(
        data=replace(loaded, splits=used, held_out=held_out),
        test=test,
        tested="held out of train" if spec.test_share else f"the data's own {spec.test} split",
        buckets=buckets,
    )


def _source(data: str, folder: Path | None) -> str:
    return str(folder / data) if folder is not None and (folder / data).exists() else data


def _missing(split: str, splits: dict[str, list[Example]]) -> str:
    advice = (
        "; with test: validation that split is tested" if split == "test" and "validation" in splits else ""
    )
    return f"there is no labelled {split} split, only {', '.join(splits)}{advice}"


def _held_out(
    train: list[Example], rows: int | None, labels: Sequence[str]
) -> tuple[list[Example], list[Example]]:
    if rows is not None and rows >= len(train):
        raise InputError(f"validation_rows is {rows}, but train has {len(train)} rows; ask for fewer")
    share = HELD_OUT_SHARE if rows is None else rows / len(train)
    return hold_out(train, share=share, seed=_SEED, labels=labels)


def _some(examples: list[Example], rows: int, option: str, split: str) -> list[Example]:
    if rows > len(examples):
        raise InputError(f"{option} is {rows}, but {split} has {len(examples)} rows; ask for fewer")
    return subset(examples, rows=rows, seed=_SEED, option=option)


def _lengths(examples: Sequence[Example], encoder: TextEncoder, *, longest: int) -> np.ndarray:
    return np.asarray(encoder.encode([row.inputs for row in examples], max_length=longest).lengths)


def _short(
    examples: list[Example], encoder: TextEncoder, *, most: float, longest: int, split: str
) -> list[Example]:
    lengths = _lengths(examples, encoder, longest=longest)
    kept = [row for row, length in zip(examples, lengths, strict=True) if length <= most]
    if not kept:
        raise InputError(f"no {split} text has at most {most:g} tokens; raise train_max_tokens")
    return kept


def _quarters(lengths: np.ndarray) -> Buckets:
    """Up to the median, up to the third quartile, and longer (LTP section 5.3)."""
    median, third = (int(value) for value in np.quantile(lengths, (0.5, 0.75)))
    return {
        f"1-{median}": (1, median),
        f"{median + 1}-{third}": (median + 1, third),
        f">{third}": (third + 1, float("inf")),
    }


def commonest_share(examples: Sequence[Example]) -> float | None:
    """What always giving the commonest label scores; None where a label is no single one."""
    labels = [example.label for example in examples]
    if not all(isinstance(label, int) for label in labels):
        return None
    return max(Counter(labels).values()) / len(labels)
