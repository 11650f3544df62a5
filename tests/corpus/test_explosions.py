"""Small pickles whose values are huge when they are unfolded: each container holds the one before it twice, 60 times over.

Wherever such a value stands, and whatever is said of it in a message, the work must stay small.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "fuzz")]

from corpus_tools import Record, archive, call, name, number, pickled, records, storage, tensor, text, torch_zip, value
from harness import attempt

from torchgraft.core.errors import LimitExceededError
from torchgraft.reading import open_checkpoint

LEVELS = 60
MINE = name("my", "Class")
MANY = 4000
# Opcodes that make much of little: what they make takes more memory than they do, and is kept.
LISTED = b"](" + b"N" * MANY + b"eq\1"
MAKES = {
    "sets": b"\x8f" * 300_000,
    "dicts": b"}" * 750_000,
    "lists": b"]" * 1_000_000,
    "tuples": b"N" + b"\x85" * 1_100_000,
    "frozen": b"(\x91" * 300_000,
    "objects": MINE + b"q\2" + b"h\2)\x81" * 220_000,
    "calls": name("collections", "OrderedDict") + b"q\2" + b"h\2)R" * 530_000,
    "copies": LISTED + name("builtins", "list") + b"q\2" + b"h\2h\1\x85R" * 700,
    "sets_of": LISTED + name("builtins", "frozenset") + b"q\2" + b"h\2h\1\x85R" * 700,
    "tables": b"}("
    + b"".join(number(n) + b"N" for n in range(MANY))
    + b"uq\1"
    + name("builtins", "dict")
    + b"q\2"
    + b"h\2h\1\x85R" * 200,
    "zeros": (name("builtins", "bytearray") + number(1 << 24) + b"\x85R") * 5,
    "encoded": text("a" * (1 << 20)) + b"q\1" + (name("_codecs", "encode") + b"h\1" + text("latin1") + b"\x86R") * 90,
}
WRAPS = {
    "tuple": lambda last: last + last + b"\x86",
    "list": lambda last: b"](" + last + last + b"e",
    "dict": lambda last: b"}(" + text("a") + last + text("b") + last + b"u",
    "call": lambda last: MINE + last + last + b"\x86R",
    "object": lambda last: MINE + last + last + b"\x86\x81",
    "state": lambda last: MINE + b")\x81}(" + text("a") + last + text("b") + last + b"ub",
}
W = tensor()
PLACES = {
    "value": lambda it: value({"w": W, "x": it}),
    "key": lambda it: b"}(" + text("w") + W + it + W + b"u",
    "member": lambda it: value({"w": W}) + b"0\x8f(" + it + b"\x90",
    "frozen": lambda it: value({"w": W}) + b"0(" + it + b"\x91",
    "set": lambda it: value({"w": W, "s": call(name("builtins", "set"), [it])}),
    "counter": lambda it: value({"w": W, "s": call(name("collections", "Counter"), [(it, 1)])}),
    "offset": lambda it: value({"w": tensor(offset=it)}),
    "shape": lambda it: value({"w": tensor((it, 3), (3, 1))}),
    "storage": lambda it: value({"w": tensor(of=storage(key=it))}),
    "device": lambda it: value({"w": tensor(of=storage(device=it))}),
    "count": lambda it: value({"w": tensor(of=storage(count=it))}),
    "flags": lambda it: value({"w": tensor(rest=(it,))}),
    "id": lambda it: it + b"Q",
    "argument": lambda it: call(name("builtins", "eval"), it),
    "scalar": lambda it: value({"w": W, "s": call(name("numpy.core.multiarray", "scalar"), it, it)}),
    "dtype": lambda it: value({"w": W, "s": call(name("numpy", "dtype"), it, False, True)}),
    "path": lambda it: value({"w": W, "s": call(name("pathlib", "PosixPath"), it)}),
    "torch_device": lambda it: value({"w": W, "s": call(name("torch", "device"), it)}),
    "tensor_size": lambda it: value({"w": W, "s": call(name("torch", "FloatTensor"), it)}),
    "optimizer": lambda it: value({"model": {"w": W}, "optimizer": {"state": it, "param_groups": it}}),
}


def explosive(leaf, wrap):
    """Opcodes that leave nothing on the stack, and the one that fetches the value from the memo."""
    out = leaf + b"q\0" + b"0"
    for i in range(LEVELS):
        out += wrap(b"h" + bytes([i])) + b"q" + bytes([i + 1]) + b"0"
    return out, b"h" + bytes([LEVELS])


@pytest.fixture
def ten_seconds():
    """A limit in seconds of the processor: on a busy machine other things take time, too."""

    def late(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, 10)
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, before)


@pytest.mark.usefixtures("ten_seconds")
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("wrap", WRAPS)
def test_work_stays_small(tmp_path, wrap, place):
    for leaf in (tensor(), number(1)):
        before, it = explosive(leaf, WRAPS[wrap])
        (tmp_path / "m.pt").write_bytes(torch_zip(pickled(before + PLACES[place](it), 4)))
        attempt(tmp_path / "m.pt")


@pytest.mark.parametrize("make", MAKES)
def test_what_is_made_of_few_bytes_is_bounded(tmp_path, make):
    pickle = pickled(value({"w": W}) + b"](" + MAKES[make] + b"e0", 4)
    packed = Record(name="m/data.pkl", data=pickle, method=8)
    (tmp_path / "m.pt").write_bytes(archive([packed, *records()[1:]]))
    with pytest.raises(LimitExceededError, match="far more memory than"):
        open_checkpoint(tmp_path / "m.pt")
