"""The command line `magic-pyramid`: one verb per command, results on stdout, everything else on stderr."""

from magic_pyramid.cli.shell import main

__all__ = ["main"]
