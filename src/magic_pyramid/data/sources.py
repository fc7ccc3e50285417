"""Where labelled data comes from: a file, a folder of splits, or a dataset on the hub."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magic_pyramid.config import ProblemType
from magic_pyramid.data.labels import read_label_file
from magic_pyramid.data.records import FORMATS, Record, format_of, open_bytes, read_records
from magic_pyramid.errors import InputError, nearest

SPLITS = ("train", "validation", "test")
_SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "validation_matched"), "validation"),
    **dict.fromkeys(("test", "testing", "test_matched"), "test"),
}
_SHARD = re.compile(r"-\d+-of-\d+$")
_VERSION = re.compile(r"-v\d+(\.\d+)*$")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")
_BATCH = 1024


class Table(ABC):
    """Records of one file, or of one split of a hub dataset."""

    def __init__(self, name: str, *, unit: str) -> None:
        """A table that errors call ``name``, counting in ``unit`` (line or row)."""
        self.name = name
        self.unit = unit

    def place(self, line: int) -> str:
        """Where a record stands, in words."""
        return f"{self.name}, {self.unit} {line}"

    @abstractmethod
    def records(self) -> Iterator[Record]:
        """Every record, in order."""

    @abstractmethod
    def label_names(self, column: str) -> tuple[str, ...] | None:
        """Names behind the integers of a column, where the table itself knows them."""


class FileTable(Table):
    """A table in a file."""

    def __init__(self, path: Path) -> None:
        """The file, its format told by its name."""
        self.format = format_of(path)
        super().__init__(path.name, unit="row" if self.format in ("parquet", "json") else "line")
        self.path = path

    def records(self) -> Iterator[Record]:
        """Every record, in order."""
        try:
            with open_bytes(self.path) as stream:
                yield from read_records(stream, format=self.format)
        except InputError as error:
            raise InputError(f"{self.path}: {error}") from None

    def label_names(self, column: str) -> tuple[str, ...] | None:
        """None: a file does not say."""
        return None


class HubTable(Table):
    """A split of a `datasets` dataset."""

    def __init__(self, name: str, dataset: Any) -> None:
        """A loaded split."""
        super().__init__(name, unit="row")
        self.dataset = dataset

    def records(self) -> Iterator[Record]:
        """Every record, in order."""
        line = 0
        for batch in self.dataset.iter(batch_size=_BATCH):
            for values in zip(*batch.values(), strict=True):
                line += 1
                yield Record(line=line, fields=dict(zip(batch, values, strict=True)))

    def label_names(self, column: str) -> tuple[str, ...] | None:
        """Names of a ClassLabel column, or of a list of ClassLabels."""
        feature = self.dataset.features.get(column)
        names = getattr(getattr(feature, "feature", feature), "names", None)
        return None if names is None else tuple(names)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Tables of each split, and what is stated about their labels."""

    name: str
    tables: dict[str, list[Table]]
    label_names: tuple[str, ...] | None = None
    """Names of labels.json."""
    problem_type: ProblemType | None = None
    """Problem type of labels.json."""
    is_file: bool = False
    """One file, which is no split by name."""


def find_source(source: str | Path, *, split: str | None) -> Source:
    """Splits of a file, a folder, or a hub dataset, not read yet.

    Raises:
        InputError: there is no such data, or it holds no split.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return _folder(path)
    if path.is_file():
        names, problem_type = read_label_file(path.parent)
        return Source(
            name=path.name,
            tables={split or "train": [FileTable(path)]},
            label_names=names,
            problem_type=problem_type,
            is_file=True,
        )
    if isinstance(source, Path) or not _HUB_NAME.fullmatch(source) or _looks_like_file(source):
        raise InputError(
            f"{source} does not exist; give a file, a folder of splits, or a dataset name on the hub"
        )
    return _hub(source)


def _looks_like_file(source: str) -> bool:
    ending = source.lower().removesuffix(".gz").rpartition(".")[2]
    return source.startswith(".") or (ending != source.lower() and ending in FORMATS)


def _folder(folder: Path) -> Source:
    if (folder / "dataset_dict.json").is_file():
        return _saved(folder)
    tables: dict[str, list[Table]] = {}
    stems: dict[str, set[str]] = {}
    for path in sorted(folder.iterdir()):
        stem, ending = _split_name(path)
        split = _SPLIT_NAMES.get(_SHARD.sub("", stem))
        if split is None or not path.is_file() or ending not in FORMATS:
            continue
        tables.setdefault(split, []).append(FileTable(path))
        stems.setdefault(split, set()).add(_SHARD.sub("", stem) if _SHARD.search(stem) else path.name)
    for split, seen in stems.items():
        if len(seen) > 1:
            raise InputError(f"{folder} has several {split} files: {', '.join(sorted(seen))}; keep one")
    if not tables:
        return _described_folder(folder)
    names, problem_type = read_label_file(folder)
    return Source(name=folder.name, tables=_in_order(tables), label_names=names, problem_type=problem_type)


def _saved(folder: Path) -> Source:
    from datasets import load_from_disk

    try:
        loaded = load_from_disk(str(folder))
    except Exception as error:  # a damaged file fails in whichever layer meets it first
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{folder} cannot be read as a saved dataset: {reason}; save it again") from error
    return _from_datasets(folder.name, loaded)


def _split_name(path: Path) -> tuple[str, str]:
    stem, _, ending = path.name.lower().removesuffix(".gz").rpartition(".")
    return _VERSION.sub("", stem), ending


def _described_folder(folder: Path) -> Source:
    if (folder / "README.md").is_file() or (folder / "data").is_dir():
        return _hub(str(folder))
    seen = ", ".join(sorted(path.name for path in folder.iterdir())[:20]) or "nothing"
    raise InputError(
        f"{folder} has no split; it holds {seen}; name the files train.*, validation.* and test.* "
        f"(.{', .'.join(FORMATS)}, each also .gz), or give one file"
    )


def _hub(name: str) -> Source:
    from datasets import load_dataset

    path, config = (
        (name, None) if Path(name).is_dir() else (name.partition(":")[0], name.partition(":")[2] or None)
    )
    try:
        loaded = load_dataset(path, config)
    except Exception as error:  # every builder and every transport raises its own
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"{name} is no file or folder here, and as a dataset of the hub it cannot be had: {reason}; "
            "check the name (owner/name, or owner/name:config) and the network, or give a local file"
        ) from error
    return _from_datasets(Path(path).name, loaded)


def _from_datasets(name: str, loaded: Mapping[str, Any]) -> Source:
    tables: dict[str, list[Table]] = {}
    for split in loaded:
        ours = _SPLIT_NAMES.get(str(split).lower())
        if ours is not None and ours not in tables:
            tables[ours] = [HubTable(f"{name}[{split}]", loaded[split])]
    if not tables:
        seen = ", ".join(map(str, loaded))
        raise InputError(
            f"{name} has no split called train, validation or test; it has {seen}; use one as a file"
        )
    return Source(name=name, tables=_in_order(tables))


def _in_order(tables: dict[str, list[Table]]) -> dict[str, list[Table]]:
    return {split: tables[split] for split in SPLITS if split in tables}


def split_by_name(name: str) -> str:
    """Our name of a split.

    Raises:
        InputError: there is no such split.
    """
    if name.lower() not in _SPLIT_NAMES:
        raise InputError(f"split {name!r} is unknown; {nearest(name, SPLITS)}")
    return _SPLIT_NAMES[name.lower()]
