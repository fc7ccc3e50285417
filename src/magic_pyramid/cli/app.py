"""The verbs, put together; each is imported with nothing heavier than typer."""

import inspect
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from magic_pyramid.cli import (
    bench,
    calibrate,
    demo,
    evaluate,
    explain,
    export,
    info,
    predict,
    reproduce,
    train,
    tune,
)
from magic_pyramid.errors import ConfigError, nearest

PROGRAM = "magic-pyramid"

_VERBS: dict[Callable[..., None], tuple[str, ...]] = {
    demo.demo: demo.EXAMPLES,
    train.train: train.EXAMPLES,
    evaluate.evaluate: evaluate.EXAMPLES,
    predict.predict: predict.EXAMPLES,
    explain.explain: explain.EXAMPLES,
    calibrate.calibrate: calibrate.EXAMPLES,
    export.export: export.EXAMPLES,
    tune.tune_engine: tune.EXAMPLES,
    bench.bench: bench.EXAMPLES,
    reproduce.reproduce: reproduce.EXAMPLES,
    info.info: info.EXAMPLES,
}
"""The verbs in the order of the help, with their examples."""
_EXAMPLES = (
    "magic-pyramid demo",
    'magic-pyramid predict demo "A quiet, lovely film."',
    'magic-pyramid explain demo "A quiet, lovely film." --html pyramid.html',
    "magic-pyramid train --model encoder/ --data reviews/ --output runs/reviews",
    "magic-pyramid evaluate runs/reviews --data reviews/ --json",
    "magic-pyramid predict runs/reviews --input new.csv --output new_answers.csv",
)
_ABOUT = """Text classifiers that drop tokens, leave early, and say what each answer cost.

Wherever a command takes a model, the word demo means the packaged one. Results go to stdout; progress and
messages to stderr. Exit codes: 0 done; 1 some rows were bad, or something unforeseen; 2 a wrong command line
or unusable data; 3 an unusable model; 4 a library is missing; 130 interrupted."""


class VerbGroup(TyperGroup):
    """A group that answers an unknown verb with the nearest known one."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the verb's command."""
        if args and args[0] not in self.commands:
            raise ConfigError(
                f"there is no command {args[0]!r}; {nearest(args[0], self.commands)}\nHelp: {PROGRAM} --help"
            )
        return super().resolve_command(ctx, args)


def build() -> Any:
    """The whole command line as one command."""
    app = typer.Typer(
        name=PROGRAM,
        cls=VerbGroup,
        help=_with_examples(_ABOUT, _EXAMPLES),
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        rich_markup_mode="rich",
    )
    app.callback(help=_with_examples(_ABOUT, _EXAMPLES))(_root)
    for verb, examples in _VERBS.items():
        about = _with_examples(inspect.getdoc(verb) or "", examples)
        app.command(help=about, context_settings={"help_option_names": ["-h", "--help"]})(verb)
    return typer.main.get_command(app)


def _with_examples(about: str, examples: tuple[str, ...]) -> str:
    """Help text; the sign before the examples keeps their lines apart."""
    paragraphs = [" ".join(paragraph.split()) for paragraph in about.split("\n\n")]
    return "\n\n".join([*paragraphs, "\n".join(["\b", "Examples:", *(f"  {line}" for line in examples)])])


def _show_version(wanted: bool) -> None:
    if wanted:
        # The package itself is a row below; it is loaded by the time anything here runs.
        typer.echo(f"{PROGRAM} {sys.modules['magic_pyramid'].__version__}")
        raise typer.Exit


def _root(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and stop."),
    ] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where an unforeseen error came from (with any command).")
    ] = False,
) -> None:
    """Nothing to do before a verb."""
