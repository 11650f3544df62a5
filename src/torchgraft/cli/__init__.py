"""The command line: arguments to api, result to stdout, errors to stderr with a documented exit code."""

from torchgraft.cli.commands import cli

__all__ = ["cli"]
