"""Names of tensors, facts, classes, files and modules are shown escaped, in whatever is shown, and wherever errors name them."""

from __future__ import annotations

import io
import json
import sys
import unicodedata
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from rich.console import Console
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from corpus_tools import call, name, state, tensor, text, torch_zip, value

import torchgraft as tg
from torchgraft.cli.commands import cli
from torchgraft.reporting.checkpoint_views import inspection_view
from torchgraft.reporting.text import view_renderable

SIGNS = {
    "escape": "\x1b]0;owned\x07\x1b[2J", "lines": "a\r\nb\x85c\u2028d", "bidi": "\u202egnp\u2066\u200f", "invisible": "a\u200bb\u2060\ufeff",
    "nul": "a\0b", "c1": "\x9b31m", "tags": "a\U000e0041", "html": "<img src=x onerror=alert(1)>", "markup": "[red]a[/red][link=x]",
}  # fmt: skip


def fit(shown: str) -> None:
    """Nothing that a terminal acts on, or hides."""
    bad = {c for c in shown if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp", "Co")}
    assert not bad, (bad, shown[:300])


@pytest.fixture(params=SIGNS)
def sign(request):
    return SIGNS[request.param]


@pytest.fixture
def folder(tmp_path, sign):
    """A folder of that name where it can be one, with a file whose names all bear the sign."""
    place = tmp_path / (sign.replace("\0", "").replace("/", "") or "x")
    place.mkdir()
    key = sign + ".weight"
    held = state(
        model=value({"fc.weight": tensor(), key: tensor(), key + "2": tensor((3,), of=value(("storage", name("torch", "FloatStorage"), "1", "cpu", 3)) + b"Q")}),
        note=text(sign), **{sign: text(sign)}, other=call(name("my" + sign.replace("\n", ""), "Class" + sign.replace("\n", "")), 1),
    )  # fmt: skip
    (place / "a.pt").write_bytes(
        torch_zip(
            held, {"0": torch.arange(6.0).numpy().tobytes(), "1": torch.tensor([float("nan"), 1, 2]).numpy().tobytes()}
        )
    )
    return place


@pytest.fixture
def model(sign):
    return nn.ModuleDict({"fc": nn.Linear(3, 2, bias=False), sign.replace(".", "") + "x": nn.Linear(3, 2)})


def pages(folder, model):
    file = folder / "a.pt"
    yield tg.inspect(file, verify=True, statistics=True)
    yield tg.diff(file, model, values=True)
    yield tg.plan(model, file, strict=True)
    yield tg.load(model, file, policy=tg.Policy(nonfinite=tg.Verdict.WARN), on_doubt="take")
    for kind in ("safetensors", "torch zip"):
        try:
            yield tg.convert(file, folder / kind, file_format=kind, prefer="model")
        except tg.TorchgraftError as error:
            yield error
    report = tg.load(model, file, policy=tg.Policy(nonfinite=tg.Verdict.WARN), on_doubt="take")
    yield tg.freeze(model, report)
    yield from refused(folder, model)


def refused(folder, model):
    sign = folder.name
    file = folder / "a.pt"
    for act in (
        lambda: tg.load(model, file, strict=True), lambda: tg.load(model, file, prefer=sign), lambda: tg.load(model, file, rename={sign: sign}),
        lambda: tg.load(model, file, fresh=[sign]), lambda: tg.inspect(folder / "none.pt"), lambda: tg.convert(file, folder / "no" / "a.pt"),
        lambda: tg.save(folder / "b.pt", {sign: 3}), lambda: tg.load(model, file, on_doubt=sign), lambda: tg.read_plan(file), lambda: tg.inspect(folder),
        lambda: tg.load(model, file, qkv_layout=sign), lambda: tg.load(model, file, init={sign: sign}), lambda: tg.load(model, file, kernels={sign: sign}),
        lambda: tg.load(model, file, permute={sign: (0, 1)}), lambda: tg.load(model, file, copies={sign: sign}), lambda: tg.load(model, file, grow_rows=[sign]),
        lambda: tg.convert(file, folder / f"a.{sign}"), lambda: tg.convert(file, folder / "c.pt", dtype=sign), lambda: tg.load(model, {sign: sign}),
        lambda: tg.load(model, file, policy=tg.Policy(doubt=sign)),
    ):  # fmt: skip
        try:
            act()
        except tg.TorchgraftError as error:
            yield error
        except TypeError:
            pass


def test_all_that_is_shown_is_fit_for_a_terminal(folder, model):
    count = 0
    for shown in pages(folder, model):
        fit(str(shown))
        count += 1
        if hasattr(shown, "to_html"):
            try:
                page = shown.to_html()
            except tg.UsageError:
                continue
            fit(page)
            assert "<img" not in page
        if hasattr(shown, "to_dict"):
            json.dumps(shown.to_dict(), allow_nan=False)
    assert count > 15


def test_a_terminal_gets_no_sequences_of_a_file(folder):
    for width in (40, 200):
        out = io.StringIO()
        console = Console(
            file=out, width=width, highlight=False, markup=False, emoji=False, no_color=True, color_system=None
        )
        console.print(view_renderable(inspection_view(tg.inspect(folder / "a.pt")), most_lines=1000))
        fit(out.getvalue())


@pytest.mark.parametrize("command", [("inspect", "a.pt"), ("inspect", "a.pt", "--json"), ("inspect", "a.pt", "--statistics"), ("diff", "a.pt", "a.pt", "--values"),
                                     ("plan", "a.pt", "--model", "a.pt"), ("convert", "a.pt", "b.safetensors", "--prefer", "model"), ("load", "a.pt", "--model", "a.pt", "-o", "c.pt"),
                                     ("load", "a.pt", "--model", "none.pt", "-o", "c.pt"), ("inspect", "none.pt"), ("plan", "a.pt", "--model", "a.pt", "--prefer", "")])  # fmt: skip
def test_commands(folder, monkeypatch, command):
    monkeypatch.chdir(folder)
    given = [folder.name if part == "" else str(folder / part) if part.endswith(".pt") else part for part in command]
    done = CliRunner().invoke(cli, given)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    fit(done.output)
