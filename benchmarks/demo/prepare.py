"""Write the rows that train the demo model, windows of long reviews among them, and those that certify.

Usage: python benchmarks/demo/prepare.py SENTENCES REVIEWS OUTPUT CERTIFY

SENTENCES and REVIEWS are folders of {train,validation,test}.jsonl.gz with `text` and `label`: Pang and Lee's
sentence polarity (2005) and polarity 2.0 (2004), both CC BY 4.0. Test splits are not read.
"""

import gzip
import json
import random
import sys
from pathlib import Path

WINDOW_WORDS = 100
WHOLE_REVIEWS = 250
VALIDATION = {"sentences": 400, "reviews": 60}
"""Rows that choose weights; the rest of the validation splits certifies."""
CERTIFIED = {"sentences": 1100, "reviews": 160}
"""Rows of the train splits that certify too, and so train nothing."""


def read(folder: Path, split: str) -> list[dict[str, object]]:
    """Rows of a split."""
    with gzip.open(folder / f"{split}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def window(text: str, generator: random.Random) -> str:
    """A run of words from a random place of a text."""
    words = text.split()
    start = generator.randrange(max(1, len(words) - WINDOW_WORDS + 1))
    return " ".join(words[start : start + WINDOW_WORDS])


def shuffled(rows: list[dict[str, object]], generator: random.Random) -> list[dict[str, object]]:
    """The same rows in another order."""
    return generator.sample(rows, len(rows))


def main(sentences: Path, reviews: Path, output: Path, certify: Path) -> None:
    """Write OUTPUT with train and validation, and CERTIFY with validation, each with labels.json."""
    generator = random.Random(0)
    train, validation, certified = [], [], []
    for name, folder in (("sentences", sentences), ("reviews", reviews)):
        held_out = shuffled(read(folder, "validation"), generator)
        rows = shuffled(read(folder, "train"), generator)
        validation += held_out[: VALIDATION[name]]
        certified += held_out[VALIDATION[name] :] + rows[: CERTIFIED[name]]
        rest = rows[CERTIFIED[name] :]
        if name == "reviews":
            windows = [{"text": window(str(row["text"]), generator), "label": row["label"]} for row in rest]
            rest = windows + rest[:WHOLE_REVIEWS]
        train += rest
    labels = (sentences / "labels.json").read_text(encoding="utf-8")
    write(output, {"train": train, "validation": validation}, labels)
    write(certify, {"validation": certified}, labels)


def write(folder: Path, splits: dict[str, list[dict[str, object]]], labels: str) -> None:
    """One file a split."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        with gzip.open(folder / f"{split}.jsonl.gz", "wt", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps({"text": row["text"], "label": row["label"]}) + "\n")
    (folder / "labels.json").write_text(labels, encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 5:
        raise SystemExit(__doc__)
    main(*map(Path, sys.argv[1:]))
