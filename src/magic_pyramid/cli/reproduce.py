"""`magic-pyramid reproduce`: a suite of datasets, methods and seeds, trained, measured and reported."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from magic_pyramid.cli.options import DeviceOption, JsonOption, ThreadsOption, choose_device, read_pairs
from magic_pyramid.cli.output import plain, print_json, say, show, typed
from magic_pyramid.errors import ConfigError, nearest

if TYPE_CHECKING:
    from magic_pyramid.reproduce import Only, Prepared

EXAMPLES = (
    "magic-pyramid reproduce papers.yaml --backbone encoder/ --data datasets/",
    "magic-pyramid reproduce papers.yaml --dry-run",
    "magic-pyramid reproduce papers.yaml --only dataset=mrpc,method=ltp --only method=fastbert",
)
"""Shown by ``--help``."""
_KINDS = ("dataset", "method", "seed")


def reproduce(
    context: typer.Context,
    suite: Annotated[
        Path, typer.Argument(metavar="SUITE", show_default=False, help="YAML file: what is to be measured.")
    ],
    backbone: Annotated[
        str | None,
        typer.Option("--backbone", help="Encoder to begin with, over the one that the suite names."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Folder of the datasets that the suite names by relative paths."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="Folder of all results. Default: as the suite says.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="KIND=NAME,...",
            help="Work on this dataset, method or seed only; repeatable. Processes may share an output.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and list what would be trained.")
    ] = False,
    no_timing: Annotated[
        bool, typer.Option("--no-timing", help="Leave the wall-clock for a later call, on a quiet machine.")
    ] = False,
    threads: ThreadsOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Train and measure every dataset, method and seed of a suite that is not done yet, and write a report.

    A killed run goes on where it stopped. Stages that methods have in common are trained once.
    """
    from magic_pyramid.reproduce import prepare, read_suite

    chosen_device = choose_device(device)
    found = read_suite(suite)
    if backbone is not None:
        found = replace(found, backbone=backbone)
    if threads is not None:
        found = replace(found, timing=found.timing.replace(threads=threads))
    prepared = prepare(found, output=output, data_folder=data, only=read_only(only))
    if dry_run:
        plan = plan_rows(prepared)
        print_json(plan) if as_json else show(_plan_table(plan))
        return
    from magic_pyramid.reproduce import reproduce as run
    from magic_pyramid.training import show_progress

    command = typed(context.obj["argv"])
    rows = run(
        prepared,
        command=command,
        say=say,
        progress=show_progress,
        device=chosen_device,
        times=not no_timing,
    )
    if as_json:
        print_json(rows)
        return
    show(_results_table(rows), Text(), Text(f"written: {prepared.output}"))


def read_only(values: list[str] | None) -> "Only":
    """What was chosen with `--only`.

    Raises:
        ConfigError: it cannot be read, or names a kind that does not exist.
    """
    from magic_pyramid.reproduce import Only

    found: dict[str, list[str]] = {kind: [] for kind in _KINDS}
    for part in (part for value in values or [] for part in value.split(",")):
        ((kind, name),) = read_pairs([part], option="--only").items()
        if kind not in found:
            raise ConfigError(f"--only names the kind {kind!r}; {nearest(kind, _KINDS)}")
        found[kind].append(name.strip())
    if not all(seed.removeprefix("-").isdecimal() for seed in found["seed"]):
        raise ConfigError(f"--only names the seed {', '.join(found['seed'])}; give a whole number")
    return Only(
        datasets=tuple(found["dataset"]), methods=tuple(found["method"]), seeds=tuple(map(int, found["seed"]))
    )


def plan_rows(prepared: "Prepared") -> list[dict[str, Any]]:
    """What each chosen run would still train, in order; a stage that several need stands with the first."""
    from magic_pyramid.reproduce import new_stages

    rows = []
    for run, stages in new_stages(prepared.needed):
        is_trained = run.cell.is_trained(prepared.output)
        new = [] if is_trained else [stage.name for stage in stages]
        rows.append({
            "dataset": run.cell.dataset.name,
            "method": run.cell.method.name,
            "seed": run.cell.seed,
            "train_rows": len(run.fit.lengths),
            "is_trained": is_trained,
            "new_stages": new,
            "shared_stages": [] if is_trained else [s.name for s in run.stages if s not in stages],
            "million_token_steps": 0.0 if is_trained else sum(s.token_steps for s in stages) / 1e6,
        })  # fmt: skip
    return rows


def _plan_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="to be trained", title_justify="left", box=None, pad_edge=False, show_footer=True)
    table.title_style, table.header_style, table.footer_style = "bold", "bright_black", "bold"
    for heading in ("dataset", "method", "seed", "rows", "trains", "takes over"):
        table.add_column(heading, justify="right" if heading in ("seed", "rows") else "left")
    total = sum(row["million_token_steps"] for row in rows)
    table.add_column("million tokens", justify="right", footer=f"{total:.1f}")
    for row in rows:
        table.add_row(
            row["dataset"],
            row["method"],
            str(row["seed"]),
            f"{row['train_rows']:,}",
            "done" if row["is_trained"] else ", ".join(row["new_stages"]) or "nothing",
            ", ".join(row["shared_stages"]),
            f"{row['million_token_steps']:.1f}",
        )
    return table


def _results_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="on test", title_justify="left", box=None, pad_edge=False)
    table.title_style, table.header_style = "bold", "bright_black"
    for heading in ("dataset", "method", "seed", "setting", "quality", "fewer FLOPs", "padded", "faster"):
        is_text = heading in ("dataset", "method", "setting")
        table.add_column(heading, justify="left" if is_text else "right")
    for row in plain(rows):
        faster = row.get("wall_clock_speedup")
        table.add_row(
            row["dataset"],
            row["method"],
            str(row["seed"]),
            row["setting"],
            f"{100 * row['quality']:.1f}",
            f"{row['flops_speedup']:.2f}x",
            f"{row['flops_speedup_padded']:.2f}x",
            "-" if faster is None else f"{faster:.2f}x",
        )
    return table
