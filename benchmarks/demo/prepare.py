"""Write the training data of the demo model: sentences, windows of long reviews, some whole reviews.

Usage: python benchmarks/demo/prepare.py SENTENCES REVIEWS OUTPUT

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
VALIDATION = {"sentences": 600, "reviews": 100}


def read(folder: Path, split: str) -> list[dict[str, object]]:
    """Rows of a split."""
    with gzip.open(folder / f"{split}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def window(text: str, generator: random.Random) -> str:
    """A run of words from a random place of a text."""
    words = text.split()
    start = generator.randrange(max(1, len(words) - WINDOW_WORDS + 1))
    return " ".join(words[start : start + WINDOW_WORDS])


def main(sentences: Path, reviews: Path, output: Path) -> None:
    """Write train.jsonl.gz, validation.jsonl.gz and labels.json."""
    generator = random.Random(0)
    long_train = read(reviews, "train")
    train = read(sentences, "train")
    train += [{"text": window(str(row["text"]), generator), "label": row["label"]} for row in long_train]
    train += generator.sample(long_train, WHOLE_REVIEWS)
    validation = generator.sample(read(sentences, "validation"), VALIDATION["sentences"])
    validation += generator.sample(read(reviews, "validation"), VALIDATION["reviews"])
    output.mkdir(parents=True, exist_ok=True)
    for split, rows in (("train", train), ("validation", validation)):
        with gzip.open(output / f"{split}.jsonl.gz", "wt", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps({"text": row["text"], "label": row["label"]}) + "\n")
    (output / "labels.json").write_text(
        (sentences / "labels.json").read_text(encoding="utf-8"), encoding="utf-8"
    )


if __name__ == "__main__":
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    main(*map(Path, sys.argv[1:]))
