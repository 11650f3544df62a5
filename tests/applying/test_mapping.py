"""Views of the file in place of memory: the same values, nothing owned, and nobody else sees what is written."""

import os
import re
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.applying import execution, pages
from torchgraft.core.specs import Extent

WIDE = 256  # a square of float32 is 64 pages of 4 KiB
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, joins mappings")


class Apart(nn.Module):
    def __init__(self, width=WIDE):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.norm = nn.LayerNorm(width)


class Fused(nn.Module):
    def __init__(self, width=WIDE):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.norm = nn.LayerNorm(width)


def on_meta(factory):
    with torch.device("meta"):
        return factory()


def written(state, path):
    if path.suffix == ".pt":
        torch.save(state, path)
    else:
        tg.save(path, state)
    return path


def same(model, other):
    assert all(torch.equal(value, other[name]) for name, value in model.state_dict().items())


@pytest.fixture(params=["a.safetensors", "a.pt"])
def path(request, tmp_path):
    return tmp_path / request.param


@pytest.mark.parametrize("prefault", [False, True])
@pytest.mark.parametrize(("source", "target"), [(Apart, Apart), (Apart, Fused), (Fused, Apart), (Fused, Fused)])
def test_values_are_those_of_a_plain_load(source, target, prefault, path):
    written(source().state_dict(), path)
    plain, model = target(), on_meta(target)
    tg.load(plain, path)
    report = tg.load(model, path, mmap=True, prefault=prefault)
    same(model, plain.state_dict())
    assert all(type(p) is nn.Parameter and p.requires_grad for p in model.parameters())
    assert report.mapped.prefaulted == prefault
    assert set(report.mapped.slots) | {"qkv.weight"} >= set(model.state_dict())
    assert report.cost.bytes_read + report.mapped.nbytes == sum(p.nbytes for p in model.parameters())


@linux
def test_a_join_of_whole_pages_takes_no_memory(tmp_path):
    state = Apart(1024).state_dict()
    path = written(state, tmp_path / "a.safetensors")
    model = on_meta(lambda: Fused(1024))
    tg.load(
        on_meta(lambda: Fused(1024)), path, mmap=True, prefault=True
    )  # what is imported the first time doesn't count
    before = anonymous()
    report = tg.load(model, path, mmap=True, prefault=True)
    assert anonymous() - before < 6 << 20  # of 12 MiB: other objects of the process come and go meanwhile
    assert "qkv.weight" in report.mapped.slots
    assert not report.mapped.owned
    assert report.cost.bytes_read == 0
    assert torch.equal(model.qkv.weight, torch.cat([state[f"{part}.weight"] for part in "qkv"]))


def anonymous():
    return int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1]) << 10


@linux
@pytest.mark.parametrize(
    "sizes", [[4096], [4096, 8192], [5000, 4096 - 904], [100, 200], [300, 9000, 5, 20000], [4095, 1, 8193]]
)
@pytest.mark.parametrize("lead", [0, 8, 4088])
def test_stretches_are_joined_byte_for_byte(sizes, lead, tmp_path):
    """Each lies in the file at the place within a page that it has in the tensor, in the opposite order."""
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    offsets = [(len(sizes) - i) * 40960 + (lead + start) % 4096 for i, start in enumerate(starts)]
    data = torch.randint(0, 256, (max(offsets) + sum(sizes),), dtype=torch.uint8).numpy().tobytes()
    (tmp_path / "file").write_bytes(data)
    with (tmp_path / "file").open("rb") as file:
        stretches = [
            pages.FileRange(start, Extent(file.fileno(), offset, size))
            for start, offset, size in zip(starts, offsets, sizes, strict=True)
        ]
        assert pages.joins(stretches)
        memory, at = pages.joined_map(stretches)
    assert memory[at : at + sum(sizes)] == b"".join(
        data[offset : offset + size] for offset, size in zip(offsets, sizes, strict=True)
    )


def test_a_step_of_training_changes_the_model_and_not_the_file(path):
    written(Apart().state_dict(), path)
    before = path.read_bytes()
    model, other, plain = on_meta(Apart), on_meta(Apart), Apart()
    for one in (model, other):
        tg.load(one, path, mmap=True)
    tg.load(plain, path)
    kept = {name: value.clone() for name, value in plain.state_dict().items()}
    for one in (model, plain):
        optimizer = torch.optim.SGD(one.parameters(), lr=0.1)
        sum(p.square().sum() for p in one.parameters()).backward()
        optimizer.step()
    same(model, plain.state_dict())
    same(other, kept)
    assert path.read_bytes() == before


def test_a_file_put_in_its_place_changes_nothing(path):
    state = Apart().state_dict()
    written(state, path)
    model = on_meta(Apart)
    tg.load(model, path, mmap=True)
    new = written({name: value + 1 for name, value in state.items()}, path.with_name("new" + path.suffix))
    new.replace(path)
    same(model, state)


def test_what_one_tensor_fills_twice_is_not_shared(path):
    written({"a.weight": torch.randn(WIDE, WIDE)}, path)
    model = on_meta(lambda: nn.ModuleDict({n: nn.Linear(WIDE, WIDE, bias=False) for n in ("x", "y")}))
    tg.load(model, path, fan_out={"a.": ["x.", "y."]}, mmap=True)
    kept = model["y"].weight.detach().clone()
    with torch.no_grad():
        model["x"].weight.zero_()
    assert torch.equal(model["y"].weight, kept)


def test_ties_and_fresh_tensors_are_as_in_any_load(path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(WIDE, WIDE)
            self.head = nn.Linear(WIDE, WIDE, bias=False)
            self.head.weight = self.embed.weight
            self.more = nn.Linear(4, 4)

    state = {"embed.weight": torch.randn(WIDE, WIDE)}
    written(state, path)
    model, report = tg.build(Tied, path, mmap=True)
    assert model.head.weight is model.embed.weight
    assert torch.equal(model.embed.weight, state["embed.weight"])
    assert report.mapped.slots == ("embed.weight",)
    assert set(report.initialised) == {"more.weight", "more.bias"}


class Flags(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("flags", torch.ones(4, dtype=torch.bool))
        self.register_buffer("values", torch.zeros(4, 4))


def half(state):
    return {name: value.half() if value.is_floating_point() else value for name, value in state.items()}


def compressed(state, path):
    torch.save(state, path.with_name("plain"))
    with zipfile.ZipFile(path.with_name("plain")) as plain, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in plain.infolist():
            packed.writestr(entry.filename, plain.read(entry))


def misaligned(state, path):
    """Write safetensors whose header has an odd length, as old versions did."""
    tg.save(path, state)
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    path.write_bytes((size + 1).to_bytes(8, "little") + data[8 : 8 + size] + b" " + data[8 + size :])


@pytest.mark.parametrize(("name", "write", "reason"), [
    ("a.pt", lambda s, p: torch.save(half(s), p), "cast"),
    ("a.pt", lambda s, p: torch.save({k: v.t().contiguous().t() for k, v in s.items()}, p), "packed in the file, in another order there, or in memory"),
    ("a.pt", compressed, "packed in the file, in another order there, or in memory"),
    ("a.safetensors", misaligned, "not aligned in the file"),
])  # fmt: skip
def test_what_needs_work_has_memory_of_its_own(name, write, reason, tmp_path):
    state = {name: value.clone() for name, value in nn.Linear(5, 7, bias=False).state_dict().items()}
    write(state, tmp_path / name)
    model, plain = on_meta(lambda: nn.Linear(5, 7, bias=False)), nn.Linear(5, 7, bias=False)
    report = tg.load(model, tmp_path / name, mmap=True)
    tg.load(plain, tmp_path / name)
    assert report.mapped.slots == ()
    assert report.mapped.owned == {reason: 1}
    same(model, plain.state_dict())
    assert "no tensor is a view of the file" in str(report)


def test_bools_are_looked_at(path):
    state = {"flags": torch.tensor([True, False, True, True]), "values": torch.randn(4, 4)}
    written(state, path)
    model = on_meta(Flags)
    report = tg.load(model, path, mmap=True)
    assert report.mapped.slots == ("values",)
    same(model, state)


def test_dictionaries_have_nothing_to_map():
    state = Apart().state_dict()
    model = on_meta(Apart)
    report = tg.load(model, state, mmap=True)
    assert report.mapped.slots == ()
    same(model, state)


@pytest.mark.parametrize(("make", "asked", "words"), [
    (Apart, {"mmap": True}, "this one has its own"),
    (Apart, {"prefault": True}, "it needs mmap=True"),
    (lambda: on_meta(Apart), {"prefault": True}, "it needs mmap=True"),
    (lambda: on_meta(Apart), {"mmap": True, "device": "cuda:0"}, "device='cuda:0' needs a copy"),
])  # fmt: skip
def test_wishes_that_cannot_be_are_refused(make, asked, words, path):
    written(Apart().state_dict(), path)
    model = make()
    before = [(id(p), p.is_meta, p._version) for p in model.parameters()]
    with pytest.raises(tg.UsageError, match=re.escape(words)):
        tg.load(model, path, **asked)
    assert before == [(id(p), p.is_meta, p._version) for p in model.parameters()]


def test_a_model_that_must_be_made_with_values_says_so(path):
    class Looking(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(4, 4)
            self.bound = self.lin.weight.detach().abs().max().item()

    written(Looking().state_dict(), path)
    _, report = tg.build(Looking, path, mmap=True)
    assert report.mapped is None
    assert "nothing is mapped" in report.plan.notes[-1]


def test_a_listener_that_raises_leaves_the_model_on_meta(path):
    written(Apart().state_dict(), path)
    model = on_meta(Apart)

    def stop(done, total):
        assert total == report_size
        raise KeyboardInterrupt

    report_size = sum(p.numel() * 4 for p in model.parameters())
    with pytest.raises(KeyboardInterrupt):
        tg.load(model, path, mmap=True, prefault=True, progress=stop)
    assert all(p.is_meta for p in model.parameters())


@linux
def test_a_file_that_was_cut_short_meanwhile_is_found(path, monkeypatch):
    written(Apart().state_dict(), path)
    model = on_meta(Apart)
    plain = execution.make_ready

    def cut(*given):
        os.truncate(path, 4096)
        plain(*given)

    monkeypatch.setattr(execution, "make_ready", cut)
    with pytest.raises(tg.CheckpointError, match="can't be read"):
        tg.load(model, path, mmap=True, prefault=True)
    assert all(p.is_meta for p in model.parameters())


def test_where_the_system_knows_no_call_pages_are_touched(path, monkeypatch):
    state = Apart().state_dict()
    written(state, path)
    monkeypatch.setattr(pages, "CAN_JOIN", False)
    model = on_meta(Apart)
    tg.load(model, path, mmap=True, prefault=True)
    same(model, state)


def test_the_report_says_what_it_means(tmp_path):
    path = written({**Apart().state_dict(), "more": torch.zeros(3)}, tmp_path / "a.safetensors")
    model = on_meta(Apart)
    report = tg.load(model, path, mmap=True)
    assert (
        "6 tensors, 1.05 MB, are views of the file: it is read when they are used, and no value was looked at"
        in str(report)
    )
    assert report.checks[0].text == "0 tensors compared after writing; 6 tensors mapped and not read"
    assert report.to_dict()["mapped"] == {
        "slots": list(report.mapped.slots),
        "bytes": 1_050_624,
        "prefaulted": False,
        "owned": {},
    }
    assert tg.load(Apart(), path).to_dict()["mapped"] is None
