"""The verbs, put together; each is imported with nothing heavier than typer."""

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from magic_pyramid.cli.demo import demo
from magic_pyramid.cli.evaluate import evaluate
from magic_pyramid.cli.explain import explain
from magic_pyramid.cli.info import info
from magic_pyramid.cli.predict import predict
from magic_pyramid.cli.train import train
from magic_pyramid.errors import ConfigError, nearest

PROGRAM = "magic-pyramid"
VERBS = (demo, train, evaluate, predict, explain, info)

_HELP = """Text classifiers that drop tokens, leave early, and say what each answer cost.

Wherever a command takes a model, the word demo means the packaged one.

\b
Examples:
  magic-pyramid demo
  magic-pyramid predict demo "A quiet, lovely film."
  magic-pyramid explain demo "A quiet, lovely film." --html pyramid.html
  magic-pyramid train --model google-bert/bert-base-uncased --data reviews/ --output runs/reviews
  magic-pyramid evaluate runs/reviews --data reviews/ --split test --json
  magic-pyramid predict runs/reviews --input new.csv --output answers.csv

Results go to stdout; progress and messages to stderr. Exit codes: 0 done, 1 some rows were bad or
something unforeseen, 2 a wrong command line or unusable data, 3 an unusable model, 130 interrupted.
"""


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
        help=_HELP,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        rich_markup_mode="rich",
    )
    app.callback(help=_HELP)(_root)
    for verb in VERBS:
        app.command(context_settings={"help_option_names": ["-h", "--help"]})(verb)
    return typer.main.get_command(app)


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
