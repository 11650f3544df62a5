import importlib
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from op_contract import OpContract

import torchgraft.ops
from torchgraft.core.errors import UsageError
from torchgraft.ops.from_plain import KINDS


def test_names_are_unique_and_fields_are_plain():
    assert len({op.name for op in torchgraft.ops.OPS}) == len(torchgraft.ops.OPS)
    for op in torchgraft.ops.OPS:
        assert all(f.type in KINDS for f in fields(op)), op
    helpers = {"OPS", "BaseOp", "from_dict", "read_ops", "run_ops", "run_step", "step_specs"}
    exported = {op.__name__ for op in torchgraft.ops.OPS} | helpers
    assert set(torchgraft.ops.__all__) == exported


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (None, "no op"),
        ([], "no op"),
        ({}, "no op"),
        ({"op": "sing"}, "sing"),
        ({"op": ["transpose"]}, "no op"),
        ({"op": "transpose", "dim": 1}, "unknown field 'dim'"),
        ({"op": "slice", "dim": 1}, "missing field 'start', missing field 'stop'"),
        ({"op": "reshape", "shape": [2, "3"]}, "shape should be tuple"),
        ({"op": "index", "dim": True, "i": 0}, "dim should be int"),
        ({"op": "cast", "dtype": "\x1b[2J"}, "element type"),
        ({"op": "slice", 3: 4}, "unknown field 3"),
    ],
)
def test_foreign_data_is_refused_with_the_reason(data, text):
    with pytest.raises(UsageError, match=text):
        torchgraft.ops.from_dict(data)


def test_importing_the_ops_does_not_import_torch():
    code = "import sys, torchgraft.ops; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # our own code


def test_every_op_has_its_contract_class():
    files = Path(__file__).parent.glob("test_ops_*.py")
    modules = [importlib.import_module(f.stem) for f in files if f.stem != Path(__file__).stem]
    held = {
        c.kind
        for m in modules
        for c in vars(m).values()
        if isinstance(c, type) and issubclass(c, OpContract) and c is not OpContract
    }
    assert held == set(torchgraft.ops.OPS)
