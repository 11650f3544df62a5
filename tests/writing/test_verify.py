"""A file says what its values were when it was written; what differs later is named."""

import json

import pytest
import torch
from click.testing import CliRunner

import torchgraft as tg
from torchgraft.cli import cli


def state():
    shared = torch.randn(6, 5)
    return {"a": torch.randn(300, 7), "b": torch.arange(9), "one": shared, "two": shared, "none": torch.empty(0, 3)}


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_what_was_written_holds(tmp_path, ending):
    path = tmp_path / f"m{ending}"
    tg.save(path, state(), {"epoch": "3"})
    found = tg.inspect(path, verify=True)
    assert found.verification.passed
    assert (found.verification.compared, found.verification.without) == (4, ())
    assert found.metadata["epoch"] == "3"
    assert "4 tensors compared with the SHA-256 that the file states: all hold" in str(found)
    assert "torchgraft.sha256" not in str(found)
    assert tg.inspect(path).verification is None


def test_a_changed_value_is_named_and_ends_with_three(tmp_path):
    path = tmp_path / "m.safetensors"
    tg.save(path, state())
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    done = CliRunner().invoke(cli, ["inspect", str(path), "--verify", "--json"])
    assert done.exit_code == 3
    verification = json.loads(done.output)["verification"]
    assert (verification["passed"], verification["differing"]) == (False, ["one"])
    assert "one holds other values" in CliRunner().invoke(cli, ["inspect", str(path), "--verify"]).output


def test_a_lost_tensor_is_named(tmp_path):
    whole, part = tmp_path / "m.safetensors", tmp_path / "p.safetensors"
    tg.save(whole, state())
    with tg.open_checkpoint(whole) as source:
        stated = source.metadata["torchgraft.sha256"]
    from safetensors.torch import load_file, save_file

    kept = load_file(whole)
    del kept["b"]
    save_file(kept, part, {"torchgraft.sha256": stated})
    assert tg.inspect(part, verify=True).verification.missing == ("b",)


def test_files_without_digests_say_so(tmp_path):
    torch.save(state(), tmp_path / "m.pt")
    found = tg.inspect(tmp_path / "m.pt", verify=True)
    assert found.verification.passed
    assert found.verification.compared == 0
    assert "states no SHA-256 to compare with" in str(found)


def test_digests_that_are_none_are_plain_text(tmp_path):
    from safetensors.torch import save_file

    for text in ("[", "[]", '{"w": 3}', "[" * 100_000):
        save_file({"w": torch.ones(2)}, tmp_path / "m.safetensors", {"torchgraft.sha256": text})
        assert tg.inspect(tmp_path / "m.safetensors", verify=True).verification.without == ("w",)
