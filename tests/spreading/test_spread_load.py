"""A model that several processes hold together gets what a single process would get, bit for bit, or nothing."""

import pytest
import torch
from processes import in_processes
from spread_models import WAYS, checkpoint, local_bytes, net, whole
from torch.distributed.tensor import DTensor

import torchgraft as tg

ASKED = {"fresh": ["extra"], "permute": {"blocks.*.turned.weight": (1, 0)}}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "whole.safetensors"
    tg.save(path, checkpoint())
    return path


def expected(file, **asked):
    model = net(seed=1)
    tg.load(model, file, **{**ASKED, **asked})
    return model.state_dict()


def load_spread(rank, way, size, file, asked):
    model = WAYS[way](net(seed=1), size)
    ids = {name: id(p) for name, p in model.named_parameters()}
    report = tg.load(model, file, **{**ASKED, **asked})
    assert ids == {name: id(p) for name, p in model.named_parameters()}
    assert report.checks[0].passed
    return {n: v.detach() for n, v in whole(model).items()}, report.cost.bytes_read, str(report.plan)


def same(found, wanted):
    assert set(found) == set(wanted)
    assert all(torch.equal(found[n], wanted[n]) and found[n].dtype == wanted[n].dtype for n in wanted)


def test_two_processes_get_what_one_gets(file, tmp_path):
    results = in_processes(2, load_spread, tmp_path, "fsdp", 2, file, {})
    wanted = expected(file)
    for found, _, _ in results:
        same(found, wanted)
    assert results[0][2] == results[1][2]
    stored = tg.inspect(file).networks[0].nbytes
    assert all(0.3 * stored < read < 0.7 * stored for _, read, _ in results)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_spread_a_model(way, size, file, tmp_path):
    wanted = expected(file)
    for found, _, _ in in_processes(size, load_spread, tmp_path, way, size, file, {}):
        same(found, wanted)


def hard():
    """Return a checkpoint whose steps compute, fill some rows, add to what is there, or come from nothing; and what to ask."""
    state = checkpoint()
    state["embed.weight"] = state["embed.weight"][:9].clone()
    state["conv.weight"] = state["conv.weight"][:, :1].clone()
    for i in range(2):
        state[f"blocks.{i}.down.lora_A.weight"] = torch.ones(2, 10) * (i + 1)
        state[f"blocks.{i}.down.lora_B.weight"] = torch.arange(12.0).reshape(6, 2)
        del state[f"blocks.{i}.down.weight"]
    state["blocks.0.turned.weight"] = state["blocks.0.turned.weight"].t().contiguous().half()
    asked = {
        "grow_rows": ["embed.weight"], "in_channels": {"conv.weight": "repeat"}, "merge_lora": 0.5, "zero": ["extra.bias"],
        "fresh": ["extra.weight"], "permute": {"blocks.1.turned.weight": (1, 0)},
    }  # fmt: skip
    return state, asked


def load_hard(rank, way, size):
    model = WAYS[way](net(seed=1), size)
    state, asked = hard()
    report = tg.load(model, state, **asked)
    return (
        {n: v.detach() for n, v in whole(model).items()},
        [s.action.value for s in report.plan.steps],
        report.checks[0].text,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("way", "size"), [("fsdp", 2), ("tensor parallel", 2), ("last dimension", 4), ("both", 4)])
def test_steps_that_cannot_be_cut_give_the_same_too(way, size, tmp_path):
    model = net(seed=1)
    state, asked = hard()
    alone = tg.load(model, state, **asked)
    for found, actions, _ in in_processes(size, load_hard, tmp_path, way, size):
        same(found, model.state_dict())
        assert actions == [s.action.value for s in alone.plan.steps]


def load_badly(rank, way, size, file, spoil):
    from torchgraft.applying import transaction

    model = WAYS[way](net(seed=1), size)
    before = local_bytes(model)
    real = transaction.fill
    if rank == 1:
        calls = []

        def broken(*args):
            calls.append(args)
            if len(calls) == 3:
                raise spoil
            return real(*args)

        transaction.fill = broken
    kind = None
    try:
        tg.load(model, file, **ASKED)
    except BaseException as error:  # noqa: BLE001 - its kind is what is asked for
        kind = (type(error).__name__, str(error))
    return kind, local_bytes(model) == before


@pytest.mark.slow
@pytest.mark.parametrize("spoil", [OSError("the cable"), MemoryError(), KeyboardInterrupt()])
@pytest.mark.parametrize("way", ["fsdp", "tensor parallel"])
def test_where_one_fails_all_put_back_what_they_had(way, spoil, file, tmp_path):
    (first, kept), (second, also_kept) = in_processes(2, load_badly, tmp_path, way, 2, file, spoil)
    assert kept
    assert also_kept
    assert first[0] == "ApplyError"
    assert "another process failed; process 1: " in first[1]
    assert second[0] == ("KeyboardInterrupt" if isinstance(spoil, KeyboardInterrupt) else "ApplyError")


def fail_early(rank, size, file, where):
    from torchgraft import api
    from torchgraft.spreading import share

    model = WAYS["fsdp"](net(seed=1), size)
    before = local_bytes(model)

    def broken(*args, **asked):
        raise KeyboardInterrupt

    if rank == 0 and where == "plan":
        api.make_plan = broken
    if rank == 1 and where == "parts":
        share.part_of = broken
    if rank == 1 and where == "own":
        share._own = broken
    try:
        tg.load(model, file, **ASKED)
    except BaseException as error:  # noqa: BLE001 - its kind is what is asked for
        return type(error).__name__, local_bytes(model) == before
    return "loaded", False


@pytest.mark.slow
@pytest.mark.parametrize(("where", "kinds"), [
    ("plan", ("KeyboardInterrupt", "ApplyError")), ("parts", ("ApplyError", "KeyboardInterrupt")), ("own", ("ApplyError", "KeyboardInterrupt")),
])  # fmt: skip
def test_nobody_waits_for_a_process_that_gave_up_early(where, kinds, file, tmp_path):
    ends = in_processes(2, fail_early, tmp_path, 2, file, where)
    assert tuple(kind for kind, _ in ends) == kinds
    assert all(kept for _, kept in ends)


def refuse_all(rank, folder, other):
    """Run several loads that are refused; return how each ended here."""
    model = WAYS["fsdp"](net(seed=1), 2)
    before = local_bytes(model)
    nan = {**checkpoint(), "blocks.0.down.bias": torch.full((6,), torch.nan)}
    mine = checkpoint() if rank == 0 else {**checkpoint(), "more": torch.zeros(3)}
    tries = [
        ({"checkpoint": folder / (f"missing{rank}" if rank else "whole.safetensors")}, {}),
        ({"checkpoint": {n: v for n, v in checkpoint().items() if n != "conv.bias"}}, {"strict": True}),
        ({"checkpoint": nan}, {}),
        ({"checkpoint": mine}, {}),
        ({"checkpoint": checkpoint()}, {"undo": "check"}),
        ({"checkpoint": {"far": torch.zeros(4)}}, {}),
    ]
    ends = []
    for where, asked in tries:
        try:
            tg.load(model, **where, **{**ASKED, **asked})
        except tg.TorchgraftError as error:
            ends.append((type(error).__name__, str(error)))
        else:
            ends.append(("loaded", ""))
    return ends, local_bytes(model) == before


@pytest.mark.slow
def test_refusals_reach_all_processes_and_nothing_changes(file, tmp_path):
    (first, kept), (second, also_kept) = in_processes(2, refuse_all, tmp_path, file.parent, None)
    assert kept
    assert also_kept
    missing, strict, nan, differs, undo, far = zip(first, second, strict=True)
    assert missing[0][0] == "ApplyError"
    assert missing[1][0] == "CorruptCheckpointError"
    assert [end[0] for end in strict] == ["PlanRefusedError", "PlanRefusedError"]
    assert strict[0][1] == strict[1][1]
    assert {end[0] for end in nan} <= {"PlanRefusedError", "ApplyError"}
    assert any("NaN" in end[1] for end in nan)
    assert differs[1][0] == "UsageError"
    assert "another checkpoint" in differs[1][1]
    assert [end[0] for end in undo] == ["UsageError", "UsageError"]
    assert [end[0] for end in far] == ["PlanRefusedError", "PlanRefusedError"]


def load_onto_meta(rank, size, file):
    with torch.device("meta"):
        model = WAYS["fsdp"](net(), size)
    state = checkpoint() | {"extra.weight": torch.ones(3, 3), "extra.bias": torch.ones(3)}
    tg.load(model, state, permute=ASKED["permute"], on_doubt="take")
    return whole(model), all(isinstance(p, DTensor) and p.to_local().device.type == "cpu" for p in model.parameters())


@pytest.mark.slow
def test_a_spread_model_on_meta_comes_out_whole(file, tmp_path):
    model = net()
    tg.load(
        model,
        checkpoint() | {"extra.weight": torch.ones(3, 3), "extra.bias": torch.ones(3)},
        permute=ASKED["permute"],
        on_doubt="take",
    )
    for found, real in in_processes(2, load_onto_meta, tmp_path, 2, file):
        assert real
        same(found, model.state_dict())


def map_onto_meta(rank, size, path, way):
    with torch.device("meta"):
        model = WAYS[way](net(), size)
    report = tg.load(model, path, permute=ASKED["permute"], on_doubt="take", mmap=True, prefault=True)
    return whole(model), set(report.mapped.slots), report.cost.bytes_read + report.mapped.nbytes


@pytest.mark.slow
@pytest.mark.parametrize("way", ["fsdp", "tensor parallel"])
def test_shards_of_rows_are_views_of_the_file(way, tmp_path):
    state = checkpoint() | {"extra.weight": torch.ones(3, 3), "extra.bias": torch.ones(3)}
    tg.save(tmp_path / "all.safetensors", state)
    model = net()
    tg.load(model, state, permute=ASKED["permute"], on_doubt="take")
    for found, views, _ in in_processes(2, map_onto_meta, tmp_path, 2, tmp_path / "all.safetensors", way):
        same(found, model.state_dict())
        assert {"blocks.0.k.weight", "conv.bias", "extra.bias"} <= views


def save_spread(rank, way, size, folder):
    model = WAYS[way](net(seed=3), size)
    saved = tg.save_model(folder / "out", model, {"note": "x"}, file_format="dcp")
    ends = []
    for path, how in ((folder / "out", "dcp"), (folder / "one.safetensors", None)):
        try:
            tg.save_model(path, model, file_format=how)
        except tg.UsageError as error:
            ends.append(str(error))
    again = WAYS[way](net(seed=4), size)
    tg.load(again, folder / "out")
    return saved.nbytes, ends, {n: v.detach() for n, v in whole(again).items()}


@pytest.mark.slow
@pytest.mark.parametrize("way", ["fsdp", "tensor parallel"])
def test_a_spread_model_is_saved_by_all_and_loaded_by_one_and_by_all(way, tmp_path):
    wanted = net(seed=3).state_dict()
    for nbytes, ends, again in in_processes(2, save_spread, tmp_path, way, 2, tmp_path):
        assert nbytes > 0
        assert "exists; a distributed checkpoint is written to a new folder" in ends[0]
        assert "several processes hold it together" in ends[1]
        same(again, wanted)
    assert not [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")]
    model = net(seed=5)
    tg.load(model, tmp_path / "out")
    same(model.state_dict(), wanted)
    assert tg.inspect(tmp_path / "out").metadata["note"] == "x"
