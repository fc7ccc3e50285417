"""How often a certificate's promise is broken, by simulation on populations whose true drops are known.

Usage: python benchmarks/coverage.py [--sets N] [--rows N] [--seed N]

Each set of rows is drawn anew and calibrated as `magic-pyramid calibrate --max-drop 2 --confidence 0.95`
does, and the certified setting's drop is looked up in the population. `naive` is the fastest setting that
seems good enough on the same rows. Results go to benchmarks/results/coverage.json and .md, the picture to
docs/coverage.png.
"""

import argparse
import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from magic_pyramid.fitting import commit  # noqa: E402
from magic_pyramid.report.canvas import Canvas  # noqa: E402
from magic_pyramid.report.palette import EXIT, FALLEN, HAIRLINE, INK, MUTED  # noqa: E402
from populations import MODES, coverage, treacherous, typical  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
POPULATIONS = {
    "typical": lambda _: typical(),
    # What is won counts as lost where agreement is wanted.
    "every fast setting too bad": lambda goal: treacherous(0.02, won=0.02 if goal.is_labelled else 0.0),
}


def main() -> None:
    """Simulate, write, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", type=int, default=2000)
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = [
        {
            "population": name,
            "mode": mode,
            **asdict(
                coverage(population(goal), goal, sets=options.sets, rows=options.rows, seed=options.seed)
            ),
        }
        for name, population in POPULATIONS.items()
        for mode, goal in MODES.items()
    ]
    report = {
        "command": shlex.join(["python", "benchmarks/coverage.py", *sys.argv[1:]]),
        "commit": commit(),
        "sets": options.sets,
        "rows_per_set": options.rows,
        "seed": options.seed,
        "max_drop": 2.0,
        "confidence": 0.95,
        "results": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "coverage.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "coverage.md").write_text(_markdown(report), encoding="utf-8")
    _draw(report, ROOT / "docs" / "coverage.png")


def _markdown(report: dict[str, Any]) -> str:
    lines = [
        "# How often the promise is broken",
        "",
        f"{report['sets']:,} calibration sets of {report['rows_per_set']} rows each; promised: a drop of at "
        f"most {report['max_drop']:g} points with {100 * report['confidence']:g} % confidence, so at most "
        "5 % broken.",
        "",
        "| population | mode | broken | something certified | fewer FLOPs then | naive, broken (300 sets) |",
        "|---|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['population']} | {row['mode']} | {100 * row['broken']:.1f} % | "
        f"{100 * row['certified']:.1f} % | "
        f"{row['speedup']:.2f}x | {100 * row['naive']:.1f} % |"
        for row in report["results"]
    ]
    return "\n".join([*lines, "", f"- command: `{report['command']}`", f"- commit: {report['commit']}", ""])


def _draw(report: dict[str, Any], path: Path) -> None:
    width, left, right, top, step = 760.0, 240.0, 60.0, 92.0, 34.0
    rows = report["results"]
    canvas = Canvas(width, top + step * len(rows) + 50)
    most = max(row["naive"] for row in rows) * 1.1

    def across(share: float) -> float:
        return left + (width - left - right) * share / most

    canvas.text(20, 28, "Broken promises", size=14, bold=True)
    words = f"share of {report['sets']:,} calibration sets whose setting truly loses more than 2 points"
    canvas.text(20, 50, words, color=MUTED)
    bottom = top + step * len(rows) - 12
    canvas.line([across(0.05)] * 2, [top - 16, bottom], INK, 1.0, linestyle="--")
    canvas.text(across(0.05) + 5, top - 20, "promised: at most 5 %", size=8.5)
    for place, row in enumerate(rows):
        y = top + step * place
        canvas.text(20, y, f"{row['population']}, {row['mode']}", size=8.5)
        canvas.line([left, width - right], [y, y], HAIRLINE, 0.8)
        for share, color in ((row["naive"], FALLEN), (row["broken"], EXIT)):
            canvas.line([across(share)], [y], color, marker="o", markersize=7, markeredgewidth=0)
    for x, color, words in ((left, EXIT, "certified"), (left + 90, FALLEN, "naive: best on the same rows")):
        canvas.line([x + 4], [bottom + 34], color, marker="o", markersize=7, markeredgewidth=0)
        canvas.text(x + 13, bottom + 34, words, color=MUTED)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        if share <= most:
            canvas.text(across(share), bottom + 12, f"{100 * share:g} %", size=8, color=MUTED, ha="center")
    canvas.save(path)


if __name__ == "__main__":
    main()
