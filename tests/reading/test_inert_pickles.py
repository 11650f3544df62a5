"""No module of the pickle interpreter has a way to run what a file names: what each imports, and what each calls."""

import ast
from pathlib import Path

import pytest

from torchgraft.reading import pickles

MODULES = sorted(Path(pickles.__file__).parent.glob("*.py"))
# Of the standard library, these modules can neither import, open, nor run anything.
HARMLESS = {
    "__future__", "collections", "collections.abc", "dataclasses", "functools", "itertools", "math", "re", "struct", "sys", "typing",
}  # fmt: skip
OWN = (
    "torchgraft.core.dtypes", "torchgraft.core.errors", "torchgraft.core.specs", "torchgraft.reading.pickles.",
    "torchgraft.reading.tensors",
)  # fmt: skip
# `sys` tells the names of the standard library; nothing else of it is used.
WAYS_OUT = {
    "eval", "exec", "compile", "open", "__import__", "getattr", "setattr", "delattr", "vars", "globals", "locals", "input",
    "breakpoint", "modules", "import_module", "__globals__", "__builtins__", "__subclasses__",
}  # fmt: skip


def tree(path):
    return ast.parse(path.read_text())


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_imports_are_harmless(path):
    for node in ast.walk(tree(path)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        assert [name for name in names if name not in HARMLESS and not name.startswith(OWN)] == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_nothing_is_looked_up_by_a_name_out_of_the_file(path):
    nodes = list(ast.walk(tree(path)))
    called = {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    asked = {node.attr for node in nodes if isinstance(node, ast.Attribute)} - {"globals", "compile"}
    assert not (called | asked) & WAYS_OUT
    of_sys = {n.attr for n in nodes if isinstance(n, ast.Attribute) and getattr(n.value, "id", "") == "sys"}
    assert of_sys <= {"stdlib_module_names"}
