"""What each part of the `pyramid` preset is worth: every part off in turn, all from one fine-tuning.

Usage: python benchmarks/ablation.py NAME --model ENCODER --data FOLDER [--where form=title+description]
           [--train-rows N] [--target-speedup 4] [--only pyramid,magic_pyramid] [--runs DIR]
           [--epochs finetune=3,soft_prune=2,hard_prune=1,distill_exits=1]

The data need validation and test splits. All variants run the same epochs. A finished training is not
repeated, an interrupted one goes on. Of the settings (prune scale and exit threshold) that are fast enough on
validation, the one most accurate there is taken; the table is what it does on test. Rows go to
benchmarks/results/NAME.json and NAME.md.
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

from papers import arguments, portable, provenance, read_options, train, write_results

from magic_pyramid import Classifier, load_data
from magic_pyramid.data import Example
from magic_pyramid.sweep import sweep

VARIANTS: dict[str, tuple[str, ...]] = {
    "pyramid": (),
    "magic_pyramid": ("--preset", "magic_pyramid", "--recipe", "default"),
    "no budget": ("train.target_speedup=none",),
    "budget from both sides": ("train.budget_exact=true",),
    "all layers count": ("train.reach_temperature=none",),
    "no ranking": ("train.rank_weight=0",),
    "final head teaches exits": ("train.exit_teacher=final_head",),
    "labels teach": ("train.distill_weight=0",),
    "exits weighed by depth": ("train.exit_weights=depth",),
    "one scale": ("train.random_scale=none",),
    "no fading": ("prune.fade_attention=false",),
}
"""What each variant changes; words that are no option are settings."""
SPEEDUPS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0)


def train_command(changes: tuple[str, ...], output: Path, options: argparse.Namespace) -> list[str]:
    """The command line of one variant."""
    command = ["magic-pyramid", "train", "--model", options.model, "--data", options.data]
    command += ["--output", str(output), "--epochs", options.epochs, "--seed", str(options.seed)]
    command += ["--train-rows", str(options.train_rows)] if options.train_rows else []
    command += ["--where", options.where] if options.where else []
    if "--preset" in changes:
        return command + list(changes)
    command += ["--preset", "pyramid"]
    if "train.target_speedup=none" not in changes:
        command += ["--target-speedup", str(options.target_speedup)]
    return command + [word for change in changes for word in ("--set", change)]


def train_all(options: argparse.Namespace) -> dict[str, Path]:
    """Every variant's folder; all start from the first one's fine-tuned model."""
    shared = options.runs / "finetune"
    epochs = [part.split("=") for part in options.epochs.split(",")]
    only = argparse.Namespace(**vars(options))
    only.epochs = ",".join(f"{stage}={count if stage == 'finetune' else 0}" for stage, count in epochs)
    train(train_command(("train.target_speedup=none",), shared, only), shared)
    folders = {name: options.runs / name.replace(" ", "_") for name in options.only}
    for name, folder in folders.items():
        work = folder / ".training"
        if not work.exists():
            # Training takes over a finished stage, so that every variant starts from the same weights.
            shutil.copytree(shared / ".training" / "finetune", work / "finetune.copy")
            (work / "finetune.copy").rename(work / "finetune")
        train(train_command(VARIANTS[name], folder, options), folder)
    return folders


def curve(
    classifier: Classifier, examples: list[Example]
) -> dict[tuple[float, float | None], tuple[float, float]]:
    """Accuracy and FLOPs speed-up at every setting."""
    encoded = classifier.encode([row.inputs for row in examples])
    labels = [row.label for row in examples if row.label is not None]
    grid, _ = sweep(classifier.all_heads_engine, classifier.config, encoded, labels, named={})
    return {
        (point["prune_scale"], point["exit_threshold"]): (point["accuracy"], point["flops_speedup"])
        for point in grid
    }


def measure(name: str, folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of one variant: per speed-up, what validation chooses and what test says."""
    classifier = Classifier.from_pretrained(folder)
    data = load_data(options.data)
    chosen_by, test = curve(classifier, data.splits["validation"]), curve(classifier, data.splits["test"])
    rows = []
    for wanted in SPEEDUPS:
        fast_enough = [point for point in chosen_by if chosen_by[point][1] >= wanted]
        if not fast_enough:
            break
        best = max(fast_enough, key=lambda point: chosen_by[point])
        accuracy, speedup = test[best]
        rows.append({
            "variant": name,
            "wanted_speedup": wanted,
            "accuracy": accuracy,
            "flops_speedup": speedup,
            "prune_scale": best[0],
            "exit_threshold": best[1],
            "num_examples": len(data.splits["test"]),
            "train_command": " ".join(portable(train_command(VARIANTS[name], folder, options))),
            "train_commit": classifier.info["provenance"].get("commit"),
        })  # fmt: skip
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """Accuracy, and in brackets the speed-up reached on test, per variant and wanted speed-up."""
    cells: dict[str, dict[float, str]] = {}
    for row in rows:
        cell = f"{100 * row['accuracy']:.1f} ({row['flops_speedup']:.1f}x)"
        cells.setdefault(row["variant"], {})[row["wanted_speedup"]] = cell
    lines = ["| variant | " + " | ".join(f"{speedup:g}x" for speedup in SPEEDUPS) + " |"]
    lines.append("| :--- |" + " ---: |" * len(SPEEDUPS))
    for name, found in cells.items():
        lines.append(f"| {name} | " + " | ".join(found.get(speedup, "-") for speedup in SPEEDUPS) + " |")
    return "\n".join(lines)


def main() -> None:
    """Train what is missing, measure, and write the results after each variant."""
    parser = arguments(__doc__, epochs="finetune=3,soft_prune=2,hard_prune=1,distill_exits=1")
    parser.add_argument("--target-speedup", type=float, default=4.0)
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(VARIANTS))
    options = read_options(parser)
    rows: list[dict[str, Any]] = []
    for name, folder in train_all(options).items():
        rows += measure(name, folder, options)
        facts = provenance("ablation.py", options)
        baseline = "the same weights with pruning and exits off; no padding on either side"
        write_results({**facts, "baseline": baseline, "rows": rows}, markdown(rows))


if __name__ == "__main__":
    main()
