"""Run a command line: every way it can end becomes an exit code and at most one message on stderr."""

import io
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer

from magic_pyramid.cli.app import PROGRAM, build
from magic_pyramid.errors import MagicPyramidError, MissingExtraError, nearest

UNEXPECTED = 1
USAGE = 2
INTERRUPTED = 130
CLOSED_PIPE = 141
"""What a shell reports for a program whose reader went away (128 + SIGPIPE)."""

TRACEBACK = "--traceback"

_UsageError: Any = typer.BadParameter.__mro__[1]
_QUIET = {
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (of this process, unless given) and return its exit code."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    wants_traceback = TRACEBACK in _options(argv)
    if wants_traceback:
        argv.remove(TRACEBACK)
    _quiet_libraries()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file or another program may be written to in a code page that has no arrows.
        sys.stdout.reconfigure(errors="replace")
    with warnings.catch_warnings(), _own_log():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
        try:
            return _run(argv or ["--help"])
        except BrokenPipeError:
            _forget_stdout()
            return CLOSED_PIPE
        except (KeyboardInterrupt, typer.Abort):
            return _end("interrupted", INTERRUPTED)
        except Exception as error:
            if wants_traceback:
                traceback.print_exc()
            return _failed(error)


def _run(argv: list[str]) -> int:
    try:
        command = build()
        with command.make_context(PROGRAM, argv, obj={"argv": argv}) as context:
            command.invoke(context)
    except typer.Exit as leave:
        sys.stdout.flush()
        return leave.exit_code
    sys.stdout.flush()
    return 0


def _failed(error: Exception) -> int:
    """Say what went wrong in the words its kind deserves."""
    if isinstance(error, ModuleNotFoundError):
        error = MissingExtraError.for_import("this command", error) or error
    if isinstance(error, MagicPyramidError):
        return _end(f"error: {error}", error.exit_code)
    if isinstance(error, _UsageError):
        return _end(f"error: {_usage_message(error)}", USAGE)
    if isinstance(error, OSError) and error.strerror:
        name = f"{error.filename}: " if error.filename else ""
        return _end(f"error: {name}{error.strerror}", UNEXPECTED)
    reason = " ".join(str(error).split())[:500]
    return _end(
        f"error: unexpected {type(error).__name__}: {reason}\nThe same command with {TRACEBACK} shows where.",
        UNEXPECTED,
    )


def _usage_message(error: Any) -> str:
    context = error.ctx
    message = str(error.format_message()).rstrip(".")
    if context is None:
        return message
    if hasattr(error, "possibilities") and hasattr(error, "option_name"):
        known = [name for parameter in context.command.params for name in parameter.opts if name[:1] == "-"]
        message = f"there is no option {error.option_name}; {nearest(error.option_name, known)}"
    return f"{message}\nHelp: {context.command_path} --help"


def _end(message: str, code: int) -> int:
    rank = os.environ.get("RANK", "0")
    prefix = "" if rank == "0" else f"[process {rank}] "
    sys.stderr.write(f"{prefix}{message}\n")
    return code


def _options(argv: list[str]) -> list[str]:
    """What comes before a bare ``--``, after which everything is text."""
    return argv[: argv.index("--")] if "--" in argv else argv


def _forget_stdout() -> None:
    """Send what is still buffered nowhere, so that the interpreter does not complain when it exits."""
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, sys.stdout.fileno())
    except (OSError, ValueError):
        return  # stdout is no real file
    finally:
        os.close(null)


def _quiet_libraries() -> None:
    """Keep the libraries below from writing to the terminal; what a user set already stays."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


@contextmanager
def _own_log() -> Iterator[None]:
    """Show this library's warnings on stderr, one line each."""
    log = logging.getLogger("magic_pyramid")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("warning: %(message)s"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
