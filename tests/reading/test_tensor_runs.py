"""The shortcut through runs of tensors, and the memo that forgets what nothing asks for, change nothing but the time."""

from __future__ import annotations

import io
import random
import zipfile

import pytest
import torch

from torchgraft.core.errors import CheckpointError
from torchgraft.reading.containers.zip_directory import Entries
from torchgraft.reading.disk.files import Window
from torchgraft.reading.formats.torch_zip import ZipStorages
from torchgraft.reading.pickles import machine as pickle_machine
from torchgraft.reading.pickles.inert import StorageRef, TensorRef
from torchgraft.reading.pickles.machine import Machine
from torchgraft.reading.pickles.tensor_runs import TensorRuns


class Archive:
    """As much of an archive as storages ask for before any tensor is read."""

    entries = Entries()
    window = Window(None, 0, 0, "file")


def pickled(tree, protocol=2):
    buffer = io.BytesIO()
    torch.save(tree, buffer, pickle_protocol=protocol)
    with zipfile.ZipFile(buffer) as archive:
        return archive.read("archive/data.pkl")


def state(count=90):
    """A state dict of all kinds of shapes; more than 256 memo entries are behind the first thirty tensors."""
    shapes = [(), (3,), (2, 3), (2, 1, 3), (1, 2, 1, 2), (1, 1, 2, 1, 2), (300,), (0,), (1, 70_000)]
    return {f"layers.{n}.proj.wéight": torch.zeros(shapes[n % len(shapes)]) for n in range(count)}


def tied():
    tree = state(60)
    tree |= {"again.weight": tree["layers.59.proj.wéight"], "view.weight": tree["layers.56.proj.wéight"][:, :1]}
    return tree | {"half": torch.zeros(2, dtype=torch.half), "double": torch.zeros(2, dtype=torch.double)} | state(70)


PARAMETERS = torch.nn.ParameterDict({f"p{n}": torch.nn.Parameter(torch.zeros(2)) for n in range(50)})
TREES = {
    "plain": state(),
    "tied": tied(),
    "list": [torch.zeros(2) for _ in range(80)],
    "parameters": PARAMETERS.state_dict(keep_vars=True),
    "optimizer": {
        "model": state(50),
        "state": {n: {"step": torch.tensor(1.0), "mean": torch.zeros(2)} for n in range(40)},
    },
    "deep": {f"part{n}": state(20) for n in range(4)},
    "texts": state(40) | {"note": "storage", "numbers": list(range(400))} | {f"t{n}": f"jjj{n}" for n in range(300)},
}


def outcome(data, *, shortcut):
    """What comes out of a pickle: a tree in plain words, with equal numbers for equal objects, or the error's text."""
    storages = ZipStorages(Archive, "archive/data/", [])
    machine = Machine(data, "file", storages.persistent, TensorRuns(storages) if shortcut else None)
    try:
        tree, end = machine.run()
    except CheckpointError as error:
        return f"{type(error).__name__}: {error}"
    ids = {}
    return end, said(tree, ids), list(storages.refs), storages.warnings


def said(value, ids):
    number = ids.setdefault(id(value), len(ids)) if isinstance(value, (TensorRef, StorageRef)) else None
    if isinstance(value, TensorRef):
        return number, value.offset, value.shape, value.stride, value.conj, value.neg, said(value.storage, ids)
    if isinstance(value, StorageRef):
        return number, value.key, value.kind.name, value.numel
    if isinstance(value, dict):
        return type(value).__name__, [(said(k, ids), said(v, ids)) for k, v in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value).__name__, [said(v, ids) for v in value]
    return repr(value)


@pytest.fixture
def plain(monkeypatch):
    """The outcome without any shortcut: opcode by opcode, every memo entry kept."""

    def run(data):
        with monkeypatch.context() as patch:
            patch.setattr(pickle_machine, "MAX_LIVE", 0)
            return outcome(data, shortcut=False)

    return run


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_the_outcome_is_that_of_the_plain_way(tree, protocol, plain):
    data = pickled(tree, protocol)
    assert plain(data) == outcome(data, shortcut=True) == outcome(data, shortcut=False)


@pytest.mark.parametrize("name", ["plain", "tied"])
def test_mutants_have_the_outcome_of_the_plain_way(name, plain):
    data = pickled(TREES[name])
    dice = random.Random(7)  # noqa: S311
    for _ in range(300):
        mutant = bytearray(data)
        for _ in range(dice.choice((1, 1, 2))):
            at = dice.randrange(len(mutant))
            kind = dice.randrange(3)
            if kind == 0:
                mutant[at] = dice.choice(b"()hjqrKMJXtRQu.\x85\x86\x87\x88\x89\x00\xff" + bytes([dice.randrange(256)]))
            elif kind == 1:
                del mutant[at]
            else:
                mutant[at:at] = mutant[at : at + dice.choice((1, 5, 60))]
        wanted, found = plain(bytes(mutant)), outcome(bytes(mutant), shortcut=True)
        assert found == wanted or "with numbers and without" in str(found)


@pytest.mark.parametrize("protocol", [2, 4])
def test_the_memo_keeps_only_what_may_be_asked_for(protocol):
    data = pickled({f"layers.{n}.weight": torch.zeros(2) for n in range(3000)}, protocol)
    storages = ZipStorages(Archive, "archive/data/", [])
    machine = Machine(data, "file", storages.persistent, TensorRuns(storages))
    machine.run()
    assert len(machine.memo) < 300


def test_steps_are_taken_by_the_tensor(monkeypatch):
    """All but the first tensors, whose memo entries have small numbers, are taken by the shortcut."""
    taken = []
    monkeypatch.setattr(
        pickle_machine,
        "OPCODES",
        [lambda m, pos, f=f: (taken.append(pos), f(m, pos))[1] for f in pickle_machine.OPCODES],
    )
    outcome(pickled({f"layers.{n}.weight": torch.zeros(2) for n in range(3000)}), shortcut=True)
    assert len(taken) < 1000


def test_two_ways_of_numbering_the_memo_are_refused():
    data = pickled(TREES["plain"])
    mixed = data[:-1] + b"\x94."
    other = pickled([f"text {n}" for n in range(400)], 4)[:-1]
    for more in (b"r\0\1\0\0.", b"p256\n."):
        assert "memo entries both with numbers and without" in outcome(other + more, shortcut=True)
    assert "memo entries both with numbers and without" in outcome(mixed, shortcut=True)


def test_files_of_our_own_writer_are_taken_alike(monkeypatch, plain):
    from torchgraft.core.dtypes import DType
    from torchgraft.core.specs import TensorSpec
    from torchgraft.writing.pickled import Stored, pickled

    shapes = [(), (3,), (2, 3), (2, 1, 3), (1, 2, 1, 2, 300)]
    stored = {f"a{n}": Stored(str(n), TensorSpec(f"a{n}", shapes[n % 5], DType.F32)) for n in range(3000)}
    data = pickled(stored)
    wanted, taken = plain(data), []
    counting = [lambda m, pos, f=f: (taken.append(pos), f(m, pos))[1] for f in pickle_machine.OPCODES]
    monkeypatch.setattr(pickle_machine, "OPCODES", counting)
    assert outcome(data, shortcut=True) == wanted
    assert len(taken) < 100
