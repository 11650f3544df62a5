"""Converting takes the same memory whatever the size of the file, and every pair of formats keeps every bit."""

import json
import subprocess
import sys

import pytest
import torch

import torchgraft as tg

KINDS = {"safetensors": ".safetensors", "torch zip": ".pt", "dcp": ""}
FLOAT8 = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")
MEASURED = """
import json, sys
import torch
import torchgraft as tg

def most(start):
    with open("/proc/self/status") as status:
        facts = dict(line.split(":", 1) for line in status)
    return int(facts["VmRSS" if start else "VmHWM"].split()[0]) << 10

source, folder = sys.argv[1:]
found = {}
for kind, ending in (("safetensors", ".safetensors"), ("torch zip", ".pt"), ("dcp", "")):
    tg.convert({"w": torch.ones(3)}, f"{folder}/small{ending}", file_format=kind)
    with open("/proc/self/clear_refs", "w") as refs:
        refs.write("5")
    before = most(start=True)
    tg.convert(source, f"{folder}/large{ending}", file_format=kind)
    found[kind] = most(start=False) - before
print(json.dumps(found))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are read from /proc")
def test_a_file_of_any_size_goes_through_a_few_megabytes(tmp_path):
    torch.save({f"layers.{i}.weight": torch.randn(1024, 1024) for i in range(16)}, tmp_path / "in.pt")
    call = [sys.executable, "-c", MEASURED, str(tmp_path / "in.pt"), str(tmp_path)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert max(found.values()) < 40 << 20, found  # of 64 MiB


def kinds_of_tensors():
    g = torch.Generator().manual_seed(3)
    tied = torch.randn(12, 5, generator=g)
    found = {
        **{str(kind): torch.randn(7, 3, generator=g).to(kind) for kind in (torch.float64, torch.float32, torch.float16, torch.bfloat16)},
        **{name: torch.randint(0, 255, (9,), generator=g, dtype=torch.uint8).view(getattr(torch, name)) for name in FLOAT8},
        **{str(kind): torch.arange(5).to(kind) for kind in (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64)},
        "complex": torch.randn(4, generator=g, dtype=torch.complex64), "flags": torch.tensor([True, False]),
        "number": torch.tensor(3.5), "none": torch.empty(0, 4), "none across": torch.empty(3, 0),
        "turned": torch.randn(4, 6, generator=g).t(), "rows": tied[2:5], "one": tied, "two": tied,
        "odd": torch.tensor([float("nan"), float("inf"), -0.0]),
    }  # fmt: skip
    assert len(found) == 4 + 5 + 8 + 10
    return found


def bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8) if tensor.numel() else None


@pytest.mark.parametrize("shard_size", [None, 150])
@pytest.mark.parametrize("second", KINDS)
@pytest.mark.parametrize("first", KINDS)
def test_every_bit_of_every_kind_of_tensor_goes_through_every_pair_of_formats(tmp_path, first, second, shard_size):
    given = kinds_of_tensors()
    one = tg.save(tmp_path / f"one{KINDS[first]}", given, file_format=first, shard_size=shard_size)
    two = tg.convert(one.path, tmp_path / f"two{KINDS[second]}", file_format=second, shard_size=shard_size)
    assert "dcp" in (first, second) or two.shared == {"two": "one"}
    with tg.open_checkpoint(two.path) as source:
        found = {name: source.read("", name) for name in source.networks[0].specs}
    found |= {name: found[stored] for name, stored in two.shared.items() if name not in found}
    assert found.keys() == given.keys()
    for name, value in given.items():
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape)
        assert value.numel() == 0 or torch.equal(bits(found[name]), bits(value)), name


def test_what_safetensors_has_no_type_for_is_refused_by_name(tmp_path):
    wide = {"wide": torch.ones(2, dtype=torch.complex128)}
    tg.save(tmp_path / "wide.pt", wide)
    with pytest.raises(tg.UsageError, match=r"wide is torch\.complex128, which the safetensors format does not hold"):
        tg.convert(tmp_path / "wide.pt", tmp_path / "wide.safetensors")
    tg.convert(tmp_path / "wide.pt", tmp_path / "wide", file_format="dcp")
    with tg.open_checkpoint(tmp_path / "wide") as source:
        assert torch.equal(source.read("", "wide"), wide["wide"])
