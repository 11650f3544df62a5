"""The command group: it turns errors into one line on stderr and an exit code."""

from __future__ import annotations

import os
import sys
from traceback import print_exception
from typing import Any

import click

from torchgraft.cli.keywords import as_typed
from torchgraft.core.errors import TorchgraftError, UsageError, printable
from torchgraft.core.formatting import did_you_mean

EXIT_CODES = """\b
Exit codes:
  0  done
  1  anything else went wrong; with diff --exit-code: the two differ
  2  an argument makes no sense
  3  the checkpoint can't be read, or is broken
  4  reading it as meant would run code or leave its folder
  5  it may be sound, but is nothing that torchgraft reads
  6  it asks for more memory or depth than any honest file
  7  the plan is refused; nothing was changed
  8  the output could not be written; what stood there is intact
  9  filling the model failed; it was rolled back
  10 verify: the outputs of the two models differ
  130 interrupted (Ctrl-C); an output is whole, or not there

Set TORCHGRAFT_TRACEBACK=1 to see where an error came from."""


INTERRUPTED = 128 + 2  # what shells make of SIGINT


class HeadedCommand(click.Command):
    """A command whose help has its options under their headings, and whose summary is its whole first sentence."""

    def get_short_help_str(self, limit: int = 45) -> str:  # noqa: ARG002  # a sentence cut in the middle says nothing
        """Return the first sentence of the help."""
        first = (self.help or "").partition("\n\n")[0].replace("\n", " ")
        return first.partition(". ")[0].rstrip(".")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, each list under its heading."""
        headings: dict[str, list[tuple[str, str]]] = {}
        for parameter in sorted(self.get_params(ctx), key=lambda one: not hasattr(one, "heading")):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                headings.setdefault(getattr(parameter, "heading", "Options"), []).append(record)
        for heading, records in headings.items():
            with formatter.section(heading):
                formatter.write_dl(records)


class ErrorGroup(click.Group):
    """A group whose commands end with `error: ...` and an exit code, never with a traceback."""

    command_class = HeadedCommand

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Read what stands before the command."""
        try:
            return super().make_context(*args, **extra)
        except click.UsageError as error:
            raise in_our_words(error) from error

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Find the command; one that isn't there is reported here, since not all releases of click know one like it."""
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            hint = did_you_mean(args[0], self.commands) or f"; there are {', '.join(sorted(self.commands))}"
            raise Misuse(f"there is no command {args[0]!r}{hint}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # a name that the terminal can't show must not end the program
                stream.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except TorchgraftError as error:
            _tell(error)
            ctx.exit(error.exit_code)
        except click.UsageError as error:
            raise in_our_words(error) from error
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except BrokenPipeError:
            raise
        except KeyboardInterrupt:
            click.echo("error: interrupted", err=True)
            ctx.exit(INTERRUPTED)
        except Exception as error:
            if os.environ.get("TORCHGRAFT_TRACEBACK"):
                raise
            click.echo(f"error: {_unforeseen(error)}", err=True)
            ctx.exit(1)


def _tell(error: TorchgraftError) -> None:
    if os.environ.get("TORCHGRAFT_TRACEBACK"):  # the model's own code may have raised what caused it
        print_exception(error)
    click.echo(f"error: {_multiline(error)}", err=True)


def _unforeseen(error: Exception) -> str:
    if isinstance(error, FileNotFoundError) and error.filename is None:  # no path was asked for but the present one
        return "the present folder has been removed: change to one that exists"
    return f"unexpected {type(error).__name__}: {printable(str(error), 2000)}"


def _multiline(error: TorchgraftError) -> str:
    return "\n".join(printable(as_typed(line), 4000) for line in str(error).splitlines())


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
    said = _in_words(error)
    return Misuse(said if error.ctx is None or said.endswith("?") else f"{said}; see {error.ctx.command_path} --help")


def _in_words(error: click.UsageError) -> str:
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
