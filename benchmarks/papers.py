"""Magic Pyramid's tables 2 and 4 on one backbone: accuracy, GFLOPs and speed-ups of four methods.

Usage: python benchmarks/papers.py NAME --model ENCODER --data FOLDER [--where form=title+description]
           [--train-rows N] [--epochs finetune=3,soft_prune=1,hard_prune=1,distill_exits=2] [--runs DIR]

One fine-tuning serves all methods: `ltp` starts from `bert`, `magic_pyramid` from `ltp`, `fastbert` from
`bert`. As in the papers the stages follow one another and the exits learn on a frozen backbone. A finished
training is not repeated. Rows go to benchmarks/results/NAME.json and NAME.md. The thresholds are those the
papers print, not chosen on the test split; `calibrated` is the setting that the validation split chose.
"""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from magic_pyramid import CALIBRATED, Classifier, load_data
from magic_pyramid.cost import CostModel
from magic_pyramid.engine.interface import DENSE, Setting
from magic_pyramid.evaluation import wall_clock
from magic_pyramid.fitting import commit, machine
from magic_pyramid.metrics import quality
from magic_pyramid.report.table import markdown_table
from magic_pyramid.sweep import simulate

RESULTS = Path(__file__).parent / "results"
SHARED = ("--set", "train.joint_exits=0", "--set", "train.distill_weight=0", "--set", "train.dropout=0")
BASES = {"bert": None, "ltp": "bert", "fastbert": "bert", "magic_pyramid": "ltp"}
"""Where each method starts."""
TRAINED = {"bert": ("finetune",), "ltp": ("soft_prune", "hard_prune")}
"""Stages that a method's base has not done; the methods with exits only train these."""
THRESHOLDS = (0.1, 0.5, 0.8)


def train_command(method: str, options: argparse.Namespace) -> list[str]:
    """The command line that trains a method from its base."""
    base = BASES[method]
    epochs = dict(part.split("=") for part in options.epochs.split(","))
    stages = TRAINED.get(method, ("distill_exits",))
    wanted = ",".join(f"{name}={epochs[name] if name in stages else 0}" for name in epochs)
    command = ["magic-pyramid", "train", "--model", str(options.runs / base) if base else options.model]
    command += ["--data", options.data, "--output", str(options.runs / method), "--preset", method]
    command += ["--epochs", wanted, "--max-length", "128", "--seed", str(options.seed), *SHARED]
    if options.train_rows:
        command += ["--train-rows", str(options.train_rows)]
    if options.where:
        command += ["--where", options.where]
    if method == "fastbert":
        command += ["--set", "model.final_head=cls"]  # the shared fine-tuning's head
    return command


def train(command: list[str], output: Path) -> None:
    """Run a training unless it is finished; go on with one that was interrupted."""
    if (output / "config.json").exists():
        return
    resume = ["--resume"] if (output / ".training").exists() else []
    subprocess.run(
        [sys.executable, "-m", "magic_pyramid", *command[1:], *resume], check=True, stdout=sys.stderr
    )


def settings_of(method: str, classifier: Classifier) -> dict[str, Setting]:
    """The rows of a method: as trained, at the papers' thresholds, and as calibrated."""
    if method == "bert":
        return {"bert": DENSE}
    scale = 1.0 if classifier.config.prune else 0.0
    rows = {"": Setting(prune_scale=scale)} if classifier.config.exit is None else {
        f" tau={tau}": Setting(prune_scale=scale, exit_threshold=tau) for tau in THRESHOLDS
    }  # fmt: skip
    rows[" calibrated"] = classifier.setting(exit_threshold=CALIBRATED, prune_scale=CALIBRATED)
    return {method + name: setting for name, setting in rows.items()}


def measure(method: str, folder: Path, test: list[Any], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of one trained model on the test split."""
    classifier = Classifier.from_pretrained(folder)
    config = classifier.config
    encoded = classifier.encoder.encode([example.inputs for example in test], max_length=config.max_length)
    labels = [example.label for example in test]
    dense_flops = CostModel(config).dense_flops(np.asarray(encoded.lengths))
    answers: dict[float, Any] = {}
    rows = []
    settings = settings_of(method, classifier)
    seconds = wall_clock(
        classifier.engine, encoded, settings=settings, batch_size=32, repeats=options.repeats
    )
    for name, setting in settings.items():
        if setting.prune_scale not in answers:
            answers[setting.prune_scale] = classifier.all_heads_engine.answer_all_heads(
                encoded, scale=setting.prune_scale
            )
        output, flops = simulate(config, answers[setting.prune_scale], setting)
        rows.append({
            "setting": name,
            "num_examples": len(test),
            "accuracy": quality(output.logits, labels, config),
            "gflops": float(flops.mean()) / 1e9,
            "dense_gflops": float(dense_flops.mean()) / 1e9,
            "flops_speedup": float(dense_flops.mean() / flops.mean()),
            "mean_layers": float((output.exit_layer + 1).mean()),
            "mean_input_tokens": float(output.num_tokens[:, 0].mean()),
            "exit_threshold": setting.exit_threshold,
            "prune_scale": setting.prune_scale,
            **seconds[name],
            "train_command": shlex.join(portable(train_command(method, options))),
            "train_commit": classifier.info["provenance"].get("commit"),
            "train_machine": classifier.info["provenance"].get("machine"),
            "seed": classifier.info["provenance"].get("seed"),
        })  # fmt: skip
    return rows


def main() -> None:
    """Train what is missing, measure everything, write the results."""
    parser = arguments(__doc__, epochs="finetune=3,soft_prune=1,hard_prune=1,distill_exits=2")
    parser.add_argument("--repeats", type=int, default=3)
    options = read_options(parser)
    # Only train is cut by --where: the official test split stays whole.
    test = load_data(options.data, split="test").splits["test"]
    rows: list[dict[str, Any]] = []
    for method in BASES:
        train(train_command(method, options), options.runs / method)
        rows += measure(method, options.runs / method, test, options)
        report = {
            **provenance("papers.py", options),
            "batch_size": 32,
            "repeats": options.repeats,
            "baseline": "the same weights and engine with pruning and exits off; no padding on either side",
            "rows": rows,
        }
        write_results(report, markdown_table(rows))


def arguments(about: str | None, *, epochs: str) -> argparse.ArgumentParser:
    """What every program that trains several variants asks for."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--where")
    parser.add_argument("--train-rows", type=int)
    parser.add_argument("--epochs", default=epochs)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    return parser


def read_options(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The command line's options; this process uses their threads from here on."""
    options = parser.parse_args()
    options.runs = options.runs or Path("runs") / options.name
    torch.set_num_threads(options.threads)
    return options


def provenance(script: str, options: argparse.Namespace) -> dict[str, Any]:
    """What a table must say about where it comes from."""
    return {
        "name": options.name,
        "backbone": Path(options.model).name,
        "split": "test",
        "train_rows": options.train_rows,
        "command": shlex.join(["python", f"benchmarks/{script}", *portable(sys.argv[1:])]),
        "commit": commit(),
        "machine": machine(),
        "threads": options.threads,
        "dtype": "fp32",
        "seed": options.seed,
    }


def write_results(report: dict[str, Any], table: str) -> None:
    """The rows as JSON, and the table with its provenance."""
    RESULTS.mkdir(exist_ok=True)
    names = ("backbone", "train_rows", "split", "machine", "threads", "dtype", "batch_size", "seed", "commit")
    facts = "\n".join(f"- {name}: {report[name]}" for name in names if name in report)
    text = f"# {report['name']}\n\n{table}\n\n{facts}\n- command: `{report['command']}`\n"
    file = RESULTS / report["name"]
    file.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    file.with_suffix(".md").write_text(text, encoding="utf-8")


def portable(words: list[str]) -> list[str]:
    """Folders without the part that only this machine has."""
    return [Path(word).name if word.startswith(("/", "..")) else word for word in words]


if __name__ == "__main__":
    main()
