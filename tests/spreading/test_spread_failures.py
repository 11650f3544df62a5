"""Where one process fails, at whatever moment, all of them end, and every one has the values that it had before."""

import os
import signal
import zipfile
from functools import partial
from pkgutil import resolve_name

import pytest
import torch
import torch.distributed as dist
from processes import Processes
from spread_models import ASKED, WAYS, checkpoint, local_bytes, net

import torchgraft as tg
from torchgraft.reading.source import OpenedCheckpoint

COLLECTIVE = "torchgraft.spreading.collective:Collective"
pytestmark = pytest.mark.xdist_group("processes")


def end_of(model, checkpoint, **asked):
    """Return how a load ended here, in what words, and whether the model is as it was."""
    before = local_bytes(model)
    kind, text = "loaded", ""
    try:
        tg.load(model, checkpoint, **{**ASKED, **asked})
    except BaseException as error:  # noqa: BLE001 - its kind is what is asked for
        kind, text = type(error).__name__, str(error)
    return kind, text, local_bytes(model) == before


class Calls:
    """Fails, or gets a signal, when it is called for the time that `at` says."""

    def __init__(self, real, at, spoil):
        self.real, self.at, self.spoil, self.count = real, at, spoil, 0

    def __get__(self, owner, kind):
        return partial(self, owner)

    def __call__(self, *args, **named):
        self.count += 1
        if self.count == self.at:
            if isinstance(self.spoil, BaseException):
                raise self.spoil
            os.kill(os.getpid(), self.spoil)
        return self.real(*args, **named)


def fail_at_each(rank, fault, way, path, asked=()):
    """Let a process fail at a later and later call of a function until it isn't called that often; return all ends."""
    loser, (module, name), spoil, stride = fault
    owner = resolve_name(module)
    ends = []
    failed = [True]
    while failed[0]:
        model = WAYS[way](net(seed=1), 2)
        with pytest.MonkeyPatch.context() as patch:
            calls = Calls(getattr(owner, name), 1 + stride * len(ends), spoil)
            if rank == loser:
                patch.setattr(owner, name, calls)
            ends.append(end_of(model, path, **dict(asked)))
        failed = [calls.count >= calls.at]
        dist.broadcast_object_list(failed, src=loser)
    assert ends.pop()[0] == "loaded"
    return ends


def check_ends(results, loser, least, own):
    """Compare the ends of all processes."""
    assert len(results[loser]) > least
    for rank, ends in enumerate(results):
        assert [end[0] for end in ends] == [own if rank == loser else "ApplyError"] * len(ends)
        assert all(kept for _, _, kept in ends)
        assert rank == loser or all(f"process {loser}: " in text or "first process" in text for _, text, _ in ends)


@pytest.mark.parametrize(
    ("spoil", "own", "loser"),
    [(OSError("cable"), "ApplyError", 0), (MemoryError(), "ApplyError", 1), (KeyboardInterrupt(), "KeyboardInterrupt", 1), (signal.SIGINT, "KeyboardInterrupt", 0)],
)  # fmt: skip
def test_whichever_read_fails_nobody_is_changed(spoil, own, loser, file, two):
    reads = ("torchgraft.reading.source:OpenedCheckpoint", "read_into")
    check_ends(two.run(fail_at_each, (loser, reads, spoil, 3), "fsdp", file), loser, 6, own)


@pytest.mark.parametrize("undo", ["check", "none"])
def test_values_that_were_not_kept_are_lost_in_all_processes_or_in_none(undo, file, two):
    reads = ("torchgraft.reading.source:OpenedCheckpoint", "read_into")
    first, second = two.run(fail_at_each, (1, reads, OSError("cable"), 3), "fsdp", file, {"undo": undo})
    kinds = {(mine[0], other[0], mine[2], other[2]) for mine, other in zip(first, second, strict=True)}
    lost = ("ModelLostError", "ModelLostError", False, False)
    assert kinds == ({lost, ("ApplyError", "ApplyError", True, True)} if undo == "check" else {lost})


@pytest.mark.parametrize(
    ("module", "name", "loser"), [("spreading.share", "part_of", 1), ("spreading.share", "_own", 1), ("api", "make_plan", 0), ("api", "_open", 1)]
)  # fmt: skip
def test_nobody_waits_for_a_process_that_gave_up_early(module, name, loser, file, two):
    place = (f"torchgraft.{module}", name)
    results = two.run(fail_at_each, (loser, place, KeyboardInterrupt(), 5), "tensor parallel", file)
    check_ends(results, loser, 0, "KeyboardInterrupt")


@pytest.mark.parametrize("name", ["in_all", "in_first", "all_reduce_max", "all_gather", "broadcast"])
def test_ctrl_c_while_they_talk_ends_all_of_them(name, tmp_path, two):
    """The last signals come when all have agreed that all is well: then all are loaded."""
    path = tmp_path / "c.pt"
    torch.save(checkpoint() | {"conv.weight": torch.ones(4, 1, 2, 2)}, path)
    asked = {"in_channels": {"conv.weight": "repeat"}}
    first, second = two.run(fail_at_each, (1, (COLLECTIVE, name), signal.SIGINT, 1), "fsdp", path, asked)
    for mine, other in zip(first, second, strict=True):
        assert other[0] == "KeyboardInterrupt"
        assert mine[2] == other[2] == (mine[0] == "ApplyError")
    assert first[0][0] == ("loaded" if name == "all_gather" else "ApplyError")


def refuse_all(rank, folder):
    """Run several loads that are refused; return how each ended here."""
    model = WAYS["fsdp"](net(seed=1), 2)
    nan = {**checkpoint(), "blocks.0.down.bias": torch.full((6,), torch.nan)}
    mine = checkpoint() if rank == 0 else {**checkpoint(), "more": torch.zeros(3)}
    tries = [
        (folder / (f"missing{rank}" if rank else "whole.safetensors"), {}),
        ({n: v for n, v in checkpoint().items() if n != "conv.bias"}, {"strict": True}),
        (nan, {}),
        (mine, {}),
        (checkpoint(), {"undo": "never"}),
        ({"far": torch.zeros(4)}, {}),
        (checkpoint(), {"on_doubt": "guess"} if rank else {}),
        (checkpoint(), {"fresh": ["conv"], "layers": {"blocks": [0]}} if rank else {"fresh": ["conv"]}),
        (checkpoint(), {} if rank else {"policy": tg.Policy(unused=tg.Verdict.REFUSE)}),
    ]
    ends = [end_of(model, where, **asked) for where, asked in tries]
    other = WAYS["fsdp"](net(seed=1) if rank else wider(), 2)
    return [*ends, end_of(other, checkpoint())]


def wider():
    model = net(seed=1)
    model.more = torch.nn.Linear(2, 2)
    return model


def test_refusals_reach_all_processes_and_nothing_changes(file, two):
    first, second = two.run(refuse_all, file.parent)
    assert all(kept for _, _, kept in (*first, *second))
    missing, strict, nan, differs, undo, far, asked, *others, models = zip(first, second, strict=True)
    assert missing[0][0] == "ApplyError"
    assert missing[1][0] == "MissingFileError"
    assert [end[0] for end in strict] == ["PlanRefusedError", "PlanRefusedError"]
    assert strict[0][1] == strict[1][1]
    assert {end[0] for end in nan} <= {"PlanRefusedError", "ApplyError"}
    assert any("NaN" in end[1] for end in nan)
    assert differs[1][0] == "UsageError"
    assert "another checkpoint" in differs[1][1]
    assert [end[0] for end in undo] == ["UsageError", "UsageError"]
    assert [end[0] for end in far] == ["PlanRefusedError", "PlanRefusedError"]
    assert [end[0] for end in asked] == ["ApplyError", "UsageError"]
    assert all("on_doubt" in end[1] for end in asked)
    assert all("process 1 has other arguments than the first one" in end[1] for both in others for end in both)
    assert models[1][0] == "UsageError"
    assert "another model" in models[1][1]


def load_others(rank, folder):
    """Load, from files and from memory, what has the same names in each process, and in one layer other values."""
    model = WAYS["tensor parallel"](net(seed=1), 2)
    mine = checkpoint()
    mine["conv.bias"] += rank
    return [end_of(model, where) for where in (folder / f"{rank}.safetensors", folder / f"{rank}.pt", mine)]


def test_checkpoints_of_the_same_names_and_other_values_are_not_mixed(tmp_path, two):
    for rank in range(2):
        saved = checkpoint()
        saved["conv.bias"] += rank
        tg.save(tmp_path / f"{rank}.safetensors", saved)
        torch.save(saved, tmp_path / f"{rank}.pt")
    first, second = two.run(load_others, tmp_path)
    assert [(kind, kept) for kind, _, kept in first] == [("ApplyError", True)] * 3
    assert [(kind, kept) for kind, _, kept in second] == [("UsageError", True)] * 3
    assert all("a checkpoint with other values than the first one" in text for _, text, _ in (*first, *second))


def load_damaged(rank, way, size, paths):
    model = WAYS[way](net(seed=1), size)
    return [end_of(model, path) for path in paths]


@pytest.mark.parametrize(
    ("way", "size"), [("fsdp", 2), ("tensor parallel", 2), ("last dimension", 2), ("copies", 4), ("both", 4)]
)
def test_a_record_that_nobody_reads_to_its_end_is_checked_all_the_same(way, size, two, four, tmp_path):
    torch.save(checkpoint(), tmp_path / "c.pt")
    whole = (tmp_path / "c.pt").read_bytes()
    paths = []
    for entry in zipfile.ZipFile(tmp_path / "c.pt").infolist():
        name, extra = (int.from_bytes(whole[entry.header_offset + at :][:2], "little") for at in (26, 28))
        if "/data/" in entry.filename and entry.file_size > 8:
            last = entry.header_offset + 30 + name + extra + entry.file_size - 2
            paths.append(tmp_path / entry.filename.replace("/", "."))
            paths[-1].write_bytes(whole[:last] + bytes([whole[last] ^ 1]) + whole[last + 1 :])
    assert len(paths) > 20
    paths = paths[:: size // 2]  # four processes share two cores here: every second record is enough for them
    results = {2: two, 4: four}[size].run(load_damaged, way, size, paths)
    for path, *ends in zip(paths, *results, strict=True):
        assert all(kept for _, _, kept in ends)
        assert "CorruptCheckpointError" in {kind for kind, _, _ in ends}, path
        assert all("wrong CRC" in text for _, text, _ in ends)


def lose_one(rank, path):
    model = WAYS["fsdp"](net(seed=1), 2)
    if rank == 1:
        OpenedCheckpoint.read_into = Calls(OpenedCheckpoint.read_into, 5, signal.SIGKILL)
    return end_of(model, path)


def test_who_is_left_behind_says_so_and_keeps_its_values(file):
    with Processes(2) as processes:
        (kind, text, kept), gone = processes.run_some(lose_one, file)
    assert gone is None
    assert kind == "LostContactError"
    assert "another process doesn't answer any more" in text
    assert kept
