"""What click says of arguments, said as all other errors are: one line that begins with `error:`, and the remedy."""

from __future__ import annotations

from typing import Any

import click

from torchgraft.core.errors import UsageError, printable
from torchgraft.core.hints import did_you_mean


class Misuse(click.ClickException):
    """Arguments that can't be read, told in one line."""

    exit_code = UsageError.exit_code

    def show(self, file: Any = None) -> None:
        """Print the line."""
        click.echo(f"error: {printable(self.message, 4000)}", file=file, err=file is None)


def in_our_words(error: click.UsageError) -> click.ClickException:
    """Return what to raise in place of an error of click's; the help that answers a call without arguments stays.

    What the error has of an unknown name or of a parameter is taken, not its text: that differs between releases of click.
    """
    if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
        return error
    said = _said(error)
    return Misuse(said if error.ctx is None or said.endswith("?") else f"{said}; see {error.ctx.command_path} --help")


def _said(error: click.UsageError) -> str:
    if isinstance(error, click.NoSuchOption):
        options = [name for one in _parameters(error) for name in one.opts if one.param_type_name == "option"]
        return f"there is no option {error.option_name!r}{did_you_mean(error.option_name, options, cutoff=0.7)}"
    if isinstance(error, click.MissingParameter) and error.param is not None:
        return f"{_name(error.param)} is missing"
    if isinstance(error, click.BadParameter) and error.param is not None:
        return f"{_name(error.param)}: {_plain(error.message)}"
    return _plain(error.format_message())


def _parameters(error: click.UsageError) -> list[click.Parameter]:
    return [] if error.ctx is None else error.ctx.command.get_params(error.ctx)


def _name(parameter: click.Parameter) -> str:
    """Return how a parameter is typed: the long name of an option, the place of an argument in capitals."""
    return parameter.opts[-1] if parameter.param_type_name == "option" else parameter.human_readable_name


def _plain(text: str) -> str:
    """Return a sentence as a part of one."""
    return text[:1].lower() + text[1:].removesuffix(".")
