"""Seeded choice of rows: a held-out part, and a smaller train set, each with every label in proportion.

Rows of one group, such as the questions about one article, are held out together.
"""

import random
from collections.abc import Sequence

from magic_pyramid.data.examples import Example
from magic_pyramid.errors import ConfigError, InputError

_MOST_NAMED = 20


def hold_out(
    examples: Sequence[Example], *, share: float, seed: int | str, labels: Sequence[str]
) -> tuple[list[Example], list[Example]]:
    """What stays in train, and the part held out of it; both keep the order of the file.

    Raises:
        InputError: there are fewer than two rows or groups, or a label has one row only.
    """
    if len(examples) < 2:
        raise InputError(f"train has {len(examples)} row; a part can be held out of two or more; add rows")
    if examples[0].group is not None:
        taken = _some_groups(examples, share=share, seed=seed)
        return _without(examples, taken), [examples[row] for row in sorted(taken)]
    groups = _groups(examples)
    alone = [labels[key] for key, rows in groups.items() if isinstance(key, int) and len(rows) == 1]
    if alone:
        named = ", ".join(map(repr, alone[:_MOST_NAMED])) + (" ..." if len(alone) > _MOST_NAMED else "")
        raise InputError(
            f"{len(alone)} of {len(groups)} labels have one row in train: {named}; holding out needs two: "
            "add rows, delete them, or give a validation split"
        )
    wanted = min(max(1, round(share * len(examples))), len(examples) - 1)
    spare = {key: len(rows) - 1 for key, rows in groups.items()}
    chosen = _draw(groups, _shares(spare, wanted), random.Random(f"hold out {seed}"))
    return _without(examples, chosen), [examples[row] for row in sorted(chosen)]


def subset(examples: Sequence[Example], *, rows: int, seed: int, option: str = "max_rows") -> list[Example]:
    """At most this many rows, each label in proportion and at least once, in the order of the file.

    Raises:
        ConfigError: there are more labels than rows wanted, by this option.
    """
    if rows >= len(examples):
        return list(examples)
    groups = _groups(examples)
    if rows < len(groups):
        raise ConfigError(f"{option} is {rows}; it must be at least {len(groups)}, one row for each label")
    extra = _shares({key: len(members) - 1 for key, members in groups.items()}, rows - len(groups))
    counts = {key: 1 + extra[key] for key in groups}
    chosen = _draw(groups, counts, random.Random(f"train rows {seed}"))
    return [examples[row] for row in sorted(chosen)]


def _some_groups(examples: Sequence[Example], *, share: float, seed: int | str) -> set[int]:
    """Rows of this share of the groups, at least one group and not all."""
    names = list(dict.fromkeys(example.group for example in examples))
    if len(names) < 2:
        raise InputError(
            f"train is about {names[0]!r} alone; a part can be held out of two or more; add rows, or give a "
            "validation split"
        )
    wanted = min(max(1, round(share * len(names))), len(names) - 1)
    chosen = set(random.Random(f"hold out {seed}").sample(names, wanted))
    return {row for row, example in enumerate(examples) if example.group in chosen}


def _groups(examples: Sequence[Example]) -> dict[int | None, list[int]]:
    groups: dict[int | None, list[int]] = {}
    for row, example in enumerate(examples):
        # Numbers and label sets have no groups: they are drawn from as a whole.
        key = example.label if isinstance(example.label, int) else None
        groups.setdefault(key, []).append(row)
    return groups


def _shares(sizes: dict[int | None, int], total: int) -> dict[int | None, int]:
    """Largest-remainder shares of ``total``, in proportion to the sizes and never above them."""
    size = sum(sizes.values())
    exact = {key: total * count / size if size else 0.0 for key, count in sizes.items()}
    shares = {key: int(value) for key, value in exact.items()}
    by_remainder = sorted(sizes, key=lambda key: (shares[key] - exact[key], -1 if key is None else key))
    for key in by_remainder * 2:
        if sum(shares.values()) == total:
            break
        if shares[key] < sizes[key]:
            shares[key] += 1
    return shares


def _draw(
    groups: dict[int | None, list[int]], counts: dict[int | None, int], generator: random.Random
) -> set[int]:
    chosen: set[int] = set()
    for key in sorted(groups, key=lambda key: -1 if key is None else key):
        chosen.update(generator.sample(groups[key], counts[key]))
    return chosen


def _without(examples: Sequence[Example], rows: set[int]) -> list[Example]:
    return [example for row, example in enumerate(examples) if row not in rows]
