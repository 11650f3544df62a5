"""The shortcut through usual safetensors headers gives what the careful way gives, or leaves the header to it."""

import random
import struct

import pytest

from torchgraft.core.errors import CheckpointError
from torchgraft.reading import open_checkpoint
from torchgraft.reading.formats import safetensors
from torchgraft.reading.formats.safetensors import plain_header

HEADERS = {
    "usual": '{"a.w":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},"b":{"dtype":"BF16","shape":[],"data_offsets":[8,10]}}',
    "spaced": '{"é":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"b":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}   ',
    "facts": '{"__metadata__":{"format":"pt","x":"{\\"},\\"}"},"w":{"dtype":"F16","shape":[3],"data_offsets":[0,6]}}',
    "no facts": '{"__metadata__":{},"w":{"dtype":"F16","shape":[3],"data_offsets":[0,6]}}',
}
CAREFUL = {
    "facts last": '{"w":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},"__metadata__":{"a":"b"}}',
    "other order": '{"w":{"shape":[1],"dtype":"F16","data_offsets":[0,2]}}',
    "blanks": '{"w": {"dtype":"F16","shape":[1],"data_offsets":[0,2]}}',
    "escape": '{"w\\n":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}}',
    "twice": '{"w":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},"w":{"dtype":"F16","shape":[1],"data_offsets":[2,4]}}',
    "zero first": '{"w":{"dtype":"F16","shape":[01],"data_offsets":[0,2]}}',
    "comma": '{"w":{"dtype":"F16","shape":[1,],"data_offsets":[0,2]}}',
    "comma at the end": '{"w":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},}',
    "hole": '{"w":{"dtype":"F16","shape":[1],"data_offsets":[2,4]}}',
    "backwards": '{"b":{"dtype":"F16","shape":[1],"data_offsets":[2,4]},"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}}',
    "no such type": '{"w":{"dtype":"F5","shape":[1],"data_offsets":[0,2]}}',
    "more after it": '{"w":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}} {}',
    "facts that are none": '{"__metadata__":{"a":1},"w":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}}',
    "facts cut off": '{"__metadata__":{"a":"b","w":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}}',
    "tensor of that name": '{"__metadata__":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}}',
}


def written(path, header, size=None):
    raw = header.encode("utf-8", "surrogateescape") if isinstance(header, str) else header
    ends = [end for end in (2, 4, 6, 8, 10) if f",{end}]" in str(header)]
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(range(max(ends, default=0) if size is None else size)))
    return path


def outcome(path):
    try:
        with open_checkpoint(path) as source:
            (network,) = source.networks
            values = {name: source.read("", name).tolist() for name in network.specs}
            return dict(network.specs), str(values), source.metadata, source.warnings
    except CheckpointError as error:
        return type(error), str(error)


@pytest.fixture
def careful(monkeypatch):
    """What comes out without the shortcut."""

    def run(path):
        with monkeypatch.context() as patch:
            patch.setattr(safetensors, "plain_header", lambda *_: None)
            return outcome(path)

    return run


def taken(path):
    from torchgraft.reading.disk.files import CheckpointFile

    file = CheckpointFile(path)
    try:
        length = int.from_bytes(file.window().read(0, 8), "little")
        return plain_header(file.window(), file.window().read(8, length)) is not None
    finally:
        file.close()


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_usual_headers_take_the_shortcut(header, tmp_path, careful):
    path = written(tmp_path / "a.safetensors", header)
    assert taken(path)
    assert outcome(path) == careful(path)
    assert isinstance(outcome(path)[0], dict)


@pytest.mark.parametrize("header", CAREFUL.values(), ids=CAREFUL)
def test_others_are_left_to_the_careful_way(header, tmp_path, careful):
    path = written(tmp_path / "a.safetensors", header)
    assert outcome(path) == careful(path)
    if header != CAREFUL["facts that are none"]:
        assert not taken(path)


def test_mutants_have_the_outcome_of_the_careful_way(tmp_path, careful):
    dice = random.Random(3)  # noqa: S311
    sound = [HEADERS["usual"].encode(), HEADERS["facts"].encode(), HEADERS["spaced"].encode()]
    for number in range(400):
        raw = bytearray(sound[number % 3])
        for _ in range(dice.choice((1, 1, 2))):
            at = dice.randrange(len(raw))
            kind = dice.randrange(3)
            if kind == 0:
                raw[at] = dice.choice(b'"{}[],:\\0123456789 \x00\xffFUw')
            elif kind == 1:
                del raw[at]
            else:
                raw[at:at] = raw[at : at + dice.choice((1, 4, 60))]
        path = written(tmp_path / "a.safetensors", bytes(raw), size=dice.choice((6, 8, 10, 10)))
        assert outcome(path) == careful(path)


def test_the_entries_of_our_own_files_are_usual(tmp_path):
    import torch

    import torchgraft

    torchgraft.save(tmp_path / "a.safetensors", {f"layers.{n}.w": torch.full((n, 2), 1.0) for n in range(4)})
    assert taken(tmp_path / "a.safetensors")
