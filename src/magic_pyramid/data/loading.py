"""Labelled examples of a source, checked as a whole before anything is trained on them."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from pathlib import Path
from typing import Any

from magic_pyramid.config import SPAN_LABELS, ProblemType
from magic_pyramid.data.examples import (
    Columns,
    Example,
    LabelledColumns,
    find_labelled_columns,
    read_example,
    read_label,
)
from magic_pyramid.data.labels import LabelTable, check_names, guess_problem_type, is_missing, names_in
from magic_pyramid.data.sampling import hold_out, subset
from magic_pyramid.data.sources import SPLITS, Source, Table, find_source, split_by_name
from magic_pyramid.errors import ConfigError, InputError, nearest

_MOST_NAMED = 20
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LabelledData:
    """Examples by split, and the names of their labels."""

    name: str
    """Name of the file, folder or dataset."""
    splits: dict[str, list[Example]]
    """Examples of `train`, `validation` and `test`, those of them that there are."""
    labels: tuple[str, ...]
    """Label names in the order of the logits; one name for regression; start and end for spans."""
    problem_type: ProblemType
    """`single_label`, `multi_label`, `regression` or `span`."""
    held_out: bool
    """Whether `validation` was taken out of train."""

    def fingerprint(self, split: str) -> str:
        """``fingerprint_of`` a split."""
        return fingerprint_of(self.splits[split])


def fingerprint_of(examples: Sequence[Example]) -> str:
    """First 16 hex digits of the SHA-256 of examples, order included."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps([example.text, example.text_pair, example.label]).encode() + b"\n")
    return digest.hexdigest()[:16]


@dataclass(slots=True)
class _Rows:
    """Records of a split that could be read and pass the filter, and the bad ones in words."""

    places: list[tuple[Table, int]] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    bad: list[tuple[Table, int, str]] = field(default_factory=list)

    def columns(self) -> dict[str, None]:
        """Names of all columns, in the order of their first use."""
        names: dict[str, None] = {}
        for record in self.records:
            names.update(dict.fromkeys(record))
        return names


def load_data(
    source: str | Path,
    *,
    columns: Columns | None = None,
    labels: Sequence[str] | None = None,
    where: Mapping[str, str] | None = None,
    split: str | None = None,
    validation_share: float = 0.1,
    test_share: float = 0.0,
    seed: int = 0,
    train_rows: int | None = None,
    problem_type: ProblemType | None = None,
) -> LabelledData:
    """Read labelled texts from a file, a folder of splits, or a dataset on the hub, and check every row.

    A file is the train split, or the one that ``split`` names. Of a folder or a hub dataset, ``split`` gives
    one split alone. Where there is no test split, ``test_share`` of train is taken out of it, always the same
    rows; where there is no validation split, ``validation_share`` of train is held out, the same rows for the
    same seed; then ``train_rows`` of what stays are drawn. Questions are held out by article (`title`).
    ``where`` keeps the rows whose column has the value; a split in which no row has the column is left whole.
    ``labels`` gives the label names of a model in their order; otherwise they are those of labels.json, of
    the dataset, or of train.
    A validation or test split without any label is left out.

    Raises:
        InputError: the data cannot be used; all bad rows are named at once.
        ConfigError: an option is impossible.
    """
    shares = {"validation": validation_share, "test": test_share}
    _check_options(shares, train_rows)
    wanted = None if split is None else split_by_name(split)
    found = find_source(source, split=None if test_share else wanted)
    names = None if labels is None else check_names(labels, owner="labels")
    carved = [name for name, share in shares.items() if share]
    needed = _needed_splits(found, wanted, carved, has_labels=names is not None)
    rows = _read_splits(found, needed, where or {})
    used = _columns(rows, columns or Columns(), found.name)
    _drop_unlabelled(rows, used, wanted=wanted)
    table = _label_table(found, rows, used, names, problem_type)
    splits = _examples(rows, used, table, found.name)
    _check_labels(table, splits, found.name)
    _carve(splits, "test", share=test_share, seed="test", labels=table.names)
    held_out = not (found.is_file and wanted is not None and not test_share)
    held_out = held_out and _carve(
        splits, "validation", share=validation_share, seed=seed, labels=table.names
    )
    splits = {name: splits[name] for name in SPLITS if name in splits}
    if train_rows is not None and "train" in splits:
        splits["train"] = subset(splits["train"], rows=train_rows, seed=seed, option="train_rows")
    if wanted is not None:
        splits = {wanted: splits[wanted]}
    return LabelledData(
        name=found.name,
        splits=splits,
        labels=table.names,
        problem_type=table.problem_type,
        held_out=held_out and "validation" in splits,
    )


def _carve(
    splits: dict[str, list[Example]], name: str, *, share: float, seed: int | str, labels: Sequence[str]
) -> bool:
    """Take a share of train as another split, in place, where that one is not there; gives whether it did."""
    if "train" not in splits or name in splits or share == 0:
        return False
    splits["train"], splits[name] = hold_out(splits["train"], share=share, seed=seed, labels=labels)
    return True


def _check_options(shares: Mapping[str, float], train_rows: int | None) -> None:
    for name, share in shares.items():
        if not 0 <= share <= 0.9:
            raise ConfigError(f"{name}_share is {share!r}; it must lie in [0, 0.9]")
    if train_rows is not None and train_rows < 1:
        raise ConfigError(f"train_rows is {train_rows!r}; it must be at least 1, or None for all rows")


def _needed_splits(
    source: Source, wanted: str | None, carved: Sequence[str], *, has_labels: bool
) -> list[str]:
    if wanted is None:
        return list(source.tables)
    is_carved = wanted in carved and wanted not in source.tables and "train" in source.tables
    if wanted not in source.tables and not is_carved:
        raise InputError(f"{source.name} has no {wanted} split; it has {', '.join(source.tables)}")
    # The order of the labels comes from train, and so does the held-out part.
    needs_train = wanted == "train" or is_carved or not (has_labels or source.label_names)
    return [name for name in source.tables if name == wanted or (name == "train" and needs_train)]


def _read_splits(source: Source, needed: Sequence[str], where: Mapping[str, str]) -> dict[str, _Rows]:
    rows = {name: _read(source.tables[name]) for name in needed}
    columns = {column: None for split in rows.values() for column in split.columns()}
    for column in where:
        if columns and column not in columns:
            raise InputError(
                f"{source.name}: where names the column {column!r}, not there; {nearest(column, columns)}"
            )
    was_empty = {name for name, split in rows.items() if not split.records}
    rows = {name: _filtered(split, where) for name, split in rows.items()}
    for name, split in rows.items():
        if not split.records and not split.bad:
            asked = ", ".join(f"{column}={value}" for column, value in where.items())
            why = (
                "has no rows; add some" if name in was_empty else f"has no row with {asked}; check the filter"
            )
            raise InputError(f"{source.name}: the {name} split {why}")
    return rows


def _read(tables: Sequence[Table]) -> _Rows:
    rows = _Rows()
    for table in tables:
        for record in table.records():
            if record.error is not None:
                rows.bad.append((table, record.line, record.error))
            else:
                rows.places.append((table, record.line))
                rows.records.append(record.fields)
    return rows


def _filtered(rows: _Rows, where: Mapping[str, str]) -> _Rows:
    records, places = rows.records, rows.places
    for column, value in where.items():
        if any(column in record for record in records):
            keep = [_matches(record, column, value) for record in records]
            places = list(compress(places, keep))
            records = list(compress(records, keep))
    return _Rows(places=places, records=records, bad=rows.bad)


def _matches(record: Mapping[str, Any], column: str, value: str) -> bool:
    if column not in record:
        return False
    found = record[column]
    return value in (str(found), json.dumps(found, default=str))


def _first(rows: Mapping[str, _Rows]) -> _Rows:
    """The split that columns and labels are taken from: train, or the first there is."""
    return rows.get("train") or next(iter(rows.values()))


def _columns(rows: Mapping[str, _Rows], columns: Columns, name: str) -> LabelledColumns:
    first = _first(rows)
    if not first.records:
        raise _bad_rows([bad for split in rows.values() for bad in split.bad], name)
    try:
        return find_labelled_columns(first.columns(), columns)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def _drop_unlabelled(rows: dict[str, _Rows], columns: LabelledColumns, *, wanted: str | None) -> None:
    for name in [name for name in rows if name != "train"]:
        values = [record.get(columns.label) for record in rows[name].records]
        if not values or not all(_is_unlabelled(value) for value in values):
            continue
        if wanted == name or len(rows) == 1:
            raise InputError(f"the {name} split has no label in any row; choose another split, or label it")
        _log.warning("the %s split has no label in any row and is left out", name)
        del rows[name]


def _is_unlabelled(value: Any) -> bool:
    # Hub datasets write -1 for the labels that a competition keeps to itself.
    return is_missing(value) or (isinstance(value, int) and value == -1)


def _label_table(
    source: Source,
    rows: Mapping[str, _Rows],
    columns: LabelledColumns,
    names: tuple[str, ...] | None,
    problem_type: ProblemType | None,
) -> LabelTable:
    values = [record[columns.label] for record in _first(rows).records if columns.label in record]
    file_names = source.label_names or next(iter(source.tables.values()))[0].label_names(columns.label)
    kind = problem_type or source.problem_type or guess_problem_type(values, column=columns.label)
    if problem_type is None and kind == "regression" and file_names is not None:
        kind = "single_label"
    if kind == "span":
        if columns.text_pair is None:
            raise InputError(
                f"{source.name}: answers stand in a context, and no column is known to hold it; name it with "
                "--text-pair-column NAME, or columns=Columns(text_pair=NAME)"
            )
        return LabelTable(kind, SPAN_LABELS, None)
    if kind == "regression":
        if names is not None and len(names) != 1:
            raise ConfigError(
                f"labels has {len(names)} names; a regression gives one number, so give one name"
            )
        return LabelTable(kind, names or (columns.label,), None)
    return LabelTable(kind, names or file_names or names_in(values, problem_type=kind), file_names)


def _check_labels(table: LabelTable, splits: Mapping[str, list[Example]], name: str) -> None:
    if table.problem_type == "regression":
        return
    if table.problem_type == "span":
        if "train" in splits and not any(example.label for example in splits["train"]):
            raise InputError(f"{name}: no question has an answer; add some that have")
        return
    if not table.names:
        raise InputError(f"{name}: no row has any label; add labels")
    is_train_of_one = len({example.label for example in splits.get("train", [])}) == 1
    if table.problem_type == "single_label" and (len(table.names) < 2 or is_train_of_one):
        raise InputError(f"{name}: every row has the same label; a classifier needs two or more labels")


def _examples(
    rows: Mapping[str, _Rows], columns: LabelledColumns, table: LabelTable, name: str
) -> dict[str, list[Example]]:
    splits: dict[str, list[Example]] = {}
    bad = []
    for split, read in rows.items():
        bad += read.bad
        splits[split] = []
        for (file, line), record in zip(read.places, read.records, strict=True):
            problems = _add_example(splits[split], record, columns, table)
            if problems:
                bad.append((file, line, "; ".join(problems)))
    if bad:
        raise _bad_rows(bad, name)
    return splits


def _add_example(
    examples: list[Example], record: Mapping[str, Any], columns: LabelledColumns, table: LabelTable
) -> list[str]:
    problems = []
    example, label = None, None
    try:
        example = read_example(record, columns)
    except InputError as error:
        problems.append(str(error))
    context = None if example is None else example.text_pair
    try:
        label = table.read(read_label(record, columns), context=context)
    except InputError as error:
        problems.append(str(error))
    if example is not None and not problems:
        is_question = table.problem_type == "span"
        group = str(record.get("title") or example.text_pair) if is_question else None
        examples.append(replace(example, label=label, group=group))
    return problems


def _bad_rows(bad: Sequence[tuple[Table, int, str]], name: str) -> InputError:
    order = {table: place for place, table in enumerate(dict.fromkeys(table for table, _, _ in bad))}
    ordered = sorted(bad, key=lambda row: (order[row[0]], row[1]))
    count = f"{len(bad)} bad row{'s' if len(bad) > 1 else ''}"
    lines = [f"{name}: {count}; mend or delete what is named here, then start again"]
    lines += [f"  {table.place(line)}: {problem}" for table, line, problem in ordered[:_MOST_NAMED]]
    if len(bad) > _MOST_NAMED:
        lines.append(f"  and {len(bad) - _MOST_NAMED} more")
    return InputError("\n".join(lines))
