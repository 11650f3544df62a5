"""The page on messages knows every kind of objection and of error, and quotes nothing that isn't said any more."""

import ast
import re
from dataclasses import fields

import pytest
from pages import ROOT

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
