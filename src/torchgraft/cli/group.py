"""The command group: it turns errors into one line on stderr and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, TextIO

import click

from torchgraft.cli.misuse import Misuse, in_our_words
from torchgraft.cli.spelling import as_typed
from torchgraft.core.errors import TorchgraftError, printable
from torchgraft.core.hints import did_you_mean

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

Set TORCHGRAFT_TRACEBACK=1 to see where an unexpected error came from."""


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
        """Find the command; one that isn't there is told here, since not all releases of click know one like it."""
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
            click.echo(f"error: {_multiline(error)}", err=True)
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


def _unforeseen(error: Exception) -> str:
    if isinstance(error, FileNotFoundError) and error.filename is None:  # no path was asked for but the present one
        return "the present folder has been removed: change to one that exists"
    return f"unexpected {type(error).__name__}: {printable(str(error), 2000)}"


def _multiline(error: TorchgraftError) -> str:
    return "\n".join(printable(as_typed(line), 4000) for line in str(error).splitlines())


def watched(stream: TextIO | None) -> bool:
    """Return whether a stream is a terminal; one that was closed before the program began is None."""
    return stream is not None and stream.isatty()


@contextmanager
def busy(what: str) -> Iterator[None]:
    """Show that work is going on, where somebody watches. What the model's code prints meanwhile goes to stderr."""
    if not watched(sys.stderr):
        with redirect_stdout(sys.stderr):
            yield
        return
    from rich.console import Console
    from rich.text import Text

    with redirect_stdout(sys.stderr), Console(stderr=True).status(Text(printable(what))):
        yield


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """Give a function of bytes done and in all that moves a bar on stderr; None where nobody watches.

    What the model's code prints meanwhile goes to stderr.
    """
    if not watched(sys.stderr):
        with redirect_stdout(sys.stderr):
            yield None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with redirect_stdout(sys.stderr), Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(escape(printable(what)), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
