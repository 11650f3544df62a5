"""The page on messages knows every kind of objection and of error, and quotes nothing that isn't said any more."""

import ast
import io
import re
from dataclasses import fields

import pytest
import torch
from pages import ROOT
from safetensors.torch import load as load_safetensors
from torch import nn

from torchgraft.core import errors
from torchgraft.core.policy import Policy, Verdict

PAGE = (ROOT / "docs" / "how-to" / "troubleshooting.md").read_text(encoding="utf-8")
QUOTES = [quote for row in re.findall(r"^\| (`.*?`) \|", PAGE, re.MULTILINE) for quote in re.findall(r"`([^`]+)`", row)]
KINDS = [field.name for field in fields(Policy) if isinstance(field.default, Verdict)]
ERRORS = [name for name in vars(errors) if name.endswith("Error")]


@pytest.fixture(scope="module")
def said():
    """All texts in the code, each as one line; what is filled in is a blank."""
    texts = []
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                texts.append("".join(str(v.value) if isinstance(v, ast.Constant) else " " for v in node.values))
    return "\n".join(texts)


@pytest.mark.parametrize("quote", QUOTES)
def test_what_the_page_quotes_is_said(quote, said):
    assert quote in said


@pytest.mark.parametrize("name", [*KINDS, *ERRORS])
def test_every_kind_of_objection_and_of_error_is_explained(name):
    assert f"`{name}`" in PAGE


def _resumed(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.load_state_dict(torch.optim.SGD(model[0].parameters(), lr=0.1).state_dict())


SAID_BY_OTHERS = {
    "size mismatch for": lambda model: model.load_state_dict(nn.Sequential(nn.Linear(2, 3)).state_dict()),
    "Missing key(s) in state_dict": lambda model: model.load_state_dict({}),
    "Unexpected key(s) in state_dict": lambda model: model.load_state_dict({**model.state_dict(), "x": torch.ones(1)}),
    "Weights only load failed": lambda _: torch.load(io.BytesIO(b"version https://git-lfs.github.com/spec/v1")),
    "PytorchStreamReader failed": lambda _: torch.load(io.BytesIO(b"PK\3\4" + bytes(60))),
    "Error while deserializing": lambda _: load_safetensors((9).to_bytes(8, "little") + b"{}"),
    "Cannot copy out of meta tensor": lambda _: nn.Linear(2, 2, device="meta").to("cpu"),
    "parameter group that doesn't match the size of optimizer's group": lambda _: _resumed(
        nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    ),
}


@pytest.mark.parametrize("text", SAID_BY_OTHERS)
def test_what_the_page_says_of_others_is_said_by_them(text):
    assert text in PAGE
    with pytest.raises(Exception, match=re.escape(text)):
        SAID_BY_OTHERS[text](nn.Sequential(nn.Linear(2, 2)))
