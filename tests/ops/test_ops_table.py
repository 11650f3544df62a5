import subprocess
import sys
from dataclasses import fields

import pytest

import torchgraft.ops
from torchgraft.core.errors import UsageError
from torchgraft.ops.plain import KINDS


def test_names_are_unique_and_fields_are_plain():
    assert len({op.name for op in torchgraft.ops.OPS}) == len(torchgraft.ops.OPS)
    for op in torchgraft.ops.OPS:
        assert all(f.type in KINDS for f in fields(op)), op
    exported = {op.__name__ for op in torchgraft.ops.OPS} | {"OPS", "BaseOp", "from_dict"}
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
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603  # our own code
