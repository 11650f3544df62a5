"""Runs the code blocks of a Markdown page, and compares what they print with the output that the page shows.

A `python` block is run in the page's namespace. In a `console` block each line after `$ ` is run (`torchgraft ...` in
this process, `cat FILE` by hand), and what stands below it is its output. A `text` block is the output of the python
block above it. Times are not compared, and a line `...` stands for any lines. Every other language is for reading only.

`python tests/docs/pages.py PAGE...` (without names: all pages) writes the present output into the pages; read the diff.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import sys
import tempfile
import textwrap
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from sybil import Sybil
from sybil.parsers.markdown import CodeBlockParser

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sybil import Example

ROOT = Path(__file__).parents[2]
NOT_A_PAGE = ("CHANGELOG.md",)
READ_ONLY = ("sh", "json", "toml", "yaml")
_TIMES = re.compile(r"\b\d+(\.\d+)? (ms|s)\b")


def pages() -> list[Path]:
    """Return the pages of the project."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    return sorted(page for page in found if page.name not in NOT_A_PAGE)


class Page:
    """One page: its blocks are run in order, in one namespace, in the folder that the process stands in."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = path.read_text(encoding="utf-8")
        self.printed = ""
        self.changes: list[tuple[int, int, str]] = []
        self.failures: list[str] = []
        runs = {"python": self._python, "console": self._console, "text": self._text}
        parsers = [CodeBlockParser(language, run) for language, run in runs.items()]
        self.document = Sybil(parsers).parse(path)
        self.document.namespace |= {"__name__": "__main__", "__file__": str(path)}

    def run(self) -> None:
        """Run every block; fills `failures` and `changes`."""
        _seed()
        for example in self.document.examples():
            example.evaluate()

    def mended(self) -> str:
        """Return the page with the output as it is now."""
        text = self.text
        for start, end, new in sorted(self.changes, reverse=True):
            text = text[:start] + new + text[end:]
        return text

    def _python(self, example: Example) -> None:
        out = io.StringIO()
        source = "\n" * (example.line + example.parsed.line_offset) + example.parsed
        try:
            with contextlib.redirect_stdout(out):
                exec(compile(source, str(self.path), "exec", dont_inherit=True), example.namespace)  # noqa: S102
        except Exception:  # noqa: BLE001  # a page is shown with all its failures
            self._fail(example, traceback.format_exc(limit=-2))
        self.printed = out.getvalue()

    def _text(self, example: Example) -> None:
        self._compare(example, example.parsed, self.printed)

    def _console(self, example: Example) -> None:
        lines = example.parsed.splitlines()
        commands = [line[2:] for line in lines if line.startswith("$ ")]
        shows = any(line and not line.startswith("$ ") for line in lines)
        outputs = [run_command(command) for command in commands]
        for command, (output, code) in zip(commands, outputs, strict=True):
            if code and f"# {code}" not in command:
                self._fail(example, f"$ {command} ended with {code}\n{output}")
        if shows:
            now = "".join(f"$ {c}\n{o}" for c, (o, _) in zip(commands, outputs, strict=True))
            self._compare(example, example.parsed, now)

    def _compare(self, example: Example, shown: str, printed: str) -> None:
        if agree(shown, printed):
            return
        block = self.text[example.start : example.end]
        at = example.start + block.index("\n") + 1
        self.changes.append((at, at + len(shown), printed.rstrip() + "\n"))
        self._fail(example, f"shown:\n{shown}\nprinted:\n{printed}")

    def _fail(self, example: Example, text: str) -> None:
        self.failures.append(f"{self.path.name}, line {example.line}:\n{textwrap.indent(text, '  ')}")


def agree(shown: str, printed: str) -> bool:
    """Whether a page shows what was printed: times aside, `...` lines standing for any."""
    want, have = ([_TIMES.sub("T", line.rstrip()) for line in text.strip().splitlines()] for text in (shown, printed))
    pattern = "".join(r"(?:.*\n)*?" if line.strip() == "..." else re.escape(line) + "\n" for line in want)
    return re.fullmatch(pattern, "".join(line + "\n" for line in have)) is not None


def run_command(command: str) -> tuple[str, int]:
    """Return what a command prints, and its exit code."""
    words = shlex.split(command, comments=True)
    if words[0] == "cat":
        return Path(words[1]).read_text(encoding="utf-8"), 0
    if words[0] != "torchgraft":
        raise ValueError(f"a page may run torchgraft and cat, not {words[0]}")
    from click.testing import CliRunner

    from torchgraft.cli import cli

    result = CliRunner().invoke(cli, words[1:], prog_name="torchgraft")
    return result.output, result.exit_code


def _seed() -> None:
    import torch

    torch.manual_seed(0)


@contextlib.contextmanager
def scratch() -> Iterator[None]:
    """Stand in an empty folder from which modules can be imported."""
    before, known = list(sys.path), set(sys.modules)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        sys.path.insert(0, folder)
        yield
        for name in set(sys.modules) - known:
            if str(getattr(sys.modules[name], "__file__", None)).startswith(folder):
                del sys.modules[name]
    sys.path[:] = before


def main(names: list[str]) -> None:
    """Bring the shown outputs of pages up to date."""
    for path in [Path(name).resolve() for name in names] or pages():
        page = Page(path)
        with scratch():
            page.run()
        if page.mended() != page.text:
            path.write_text(page.mended(), encoding="utf-8")
        broken = [text for text in page.failures if "printed:\n" not in text]
        print(f"{path.name}: {len(page.changes)} outputs written", *broken, sep="\n")  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
