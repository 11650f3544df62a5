"""New tensors say where they lie: under `torch.device("meta")` or a default of CUDA all else would lie elsewhere."""

from __future__ import annotations

import ast
from pathlib import Path

import torchgraft

HOME = Path(torchgraft.__file__).parent
MAKERS = frozenset(
    {"arange", "empty", "eye", "full", "linspace", "ones", "rand", "randint", "randn", "tensor", "zeros"}
)
# What models are run on: a caller's default device is theirs, too.
INPUTS = ("cli/targets.py", "verifying/guessing.py")


def made_without_device(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in MAKERS):
            continue
        is_torch = isinstance(node.func.value, ast.Name) and node.func.value.id == "torch"
        if is_torch and not any(keyword.arg == "device" for keyword in node.keywords):
            yield f"{path.relative_to(HOME)}:{node.lineno}"


def test_new_tensors_say_where_they_lie():
    paths = [path for path in HOME.rglob("*.py") if not str(path).endswith(INPUTS)]
    assert [place for path in paths for place in made_without_device(path)] == []
