"""Folders in which a trainer keeps its checkpoints: the newest by its own word, else the choice is said."""

import pytest
import torch
from torch import nn

import torchgraft as tg


def put(folder, name="pytorch_model.bin", value=1.0):
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"weight": torch.full((2, 2), value), "bias": torch.zeros(2)}, folder / name)


def test_the_folder_that_latest_names_is_read(tmp_path):
    put(tmp_path / "global_step5", "mp_rank_00_model_states.pt", 5.0)
    put(tmp_path / "global_step9", "mp_rank_00_model_states.pt", 9.0)
    torch.save({"optimizer_state_dict": {}}, tmp_path / "global_step9" / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    torch.save({"epoch": 1}, tmp_path / "training_args.bin")
    (tmp_path / "latest").write_text("global_step9\n")
    model = nn.Linear(2, 2)
    report = tg.load(model, tmp_path)
    assert torch.equal(model.weight, torch.full((2, 2), 9.0))
    assert "'latest' in the folder names 'global_step9', which is read" in str(report)


@pytest.mark.parametrize(("said", "folder"), [("20", "iter_0000020"), ("release", "release")])
def test_iterations_of_megatron_are_found(tmp_path, said, folder):
    put(tmp_path / (folder if folder == "release" else "iter_0000010") / "mp_rank_00", "model_optim_rng.pt", 1.0)
    put(tmp_path / folder / "mp_rank_00", "model_optim_rng.pt", 2.0)
    (tmp_path / "latest_checkpointed_iteration.txt").write_text(said)
    model = nn.Linear(2, 2)
    tg.load(model, tmp_path)
    assert torch.equal(model.weight, torch.full((2, 2), 2.0))


@pytest.mark.parametrize("said", ["", ".", "..", "../other", "/etc", "gone", "\x00", "global_step5/", "link"])
def test_a_word_that_names_no_folder_inside_is_refused(tmp_path, said):
    inside = tmp_path / "run"
    put(inside / "global_step5", "mp_rank_00_model_states.pt")
    put(tmp_path / "other", "model.pt")
    (inside / "link").symlink_to(tmp_path / "other")
    (inside / "latest").write_text(said)
    with pytest.raises(tg.CheckpointError, match=r"latest names .*, and no such folder is in it"):
        tg.inspect(inside)


def test_a_folder_called_latest_is_a_folder(tmp_path):
    put(tmp_path, "mine.pt", 4.0)
    put(tmp_path / "latest")
    assert tg.inspect(tmp_path).networks[0].tensors == 2


def test_shares_of_every_tensor_are_told_from_a_choice_of_files(tmp_path):
    for rank in range(3):
        put(tmp_path / "step", f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt")
        put(tmp_path / "step", f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    (tmp_path / "latest").write_text("step")
    with pytest.raises(tg.CheckpointError, match=r"step: shares of 3 processes .*ZeRO stage 3.*zero_to_fp32\.py"):
        tg.inspect(tmp_path)


def test_checkpoints_one_folder_down_are_named(tmp_path):
    put(tmp_path / "checkpoint-500")
    with pytest.raises(
        tg.CheckpointError, match="no checkpoint in this folder; there is one in checkpoint-500: name it"
    ):
        tg.inspect(tmp_path)
    put(tmp_path / "checkpoint-900", "model.safetensors")
    (tmp_path / "logs").mkdir()
    with pytest.raises(tg.CheckpointError, match="there is one in checkpoint-500, checkpoint-900: name one"):
        tg.inspect(tmp_path)


def test_what_trainers_leave_beside_the_weights_is_no_choice(tmp_path):
    put(tmp_path, "mine.pt", 4.0)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state_0.pth", "training_args.bin", "random_states_0.pkl"):
        torch.save({"state": torch.zeros(3)}, tmp_path / name)
    model = nn.Linear(2, 2)
    tg.load(model, tmp_path)
    assert torch.equal(model.weight, torch.full((2, 2), 4.0))


def test_a_folder_that_is_named_names_no_other_one(tmp_path):
    inner = tmp_path
    for _ in range(300):
        (inner / "latest").write_text("a")
        inner = inner / "a"
        inner.mkdir()
    put(inner)
    with pytest.raises(tg.CheckpointError, match=r"/a: it is named as the newest checkpoint, and 'latest' in it names"):
        tg.inspect(tmp_path)
    assert tg.inspect(inner.parent).networks[0].tensors == 2


@pytest.mark.parametrize(("present", "missing"), [((1,), 0), ((0, 2), 1)])
def test_a_rank_that_is_missing_between_others_is_named(tmp_path, present, missing):
    for rank in present:
        put(tmp_path, f"mp_rank_{rank:02d}_model_states.pt", float(rank))
    with pytest.raises(tg.CorruptCheckpointError, match=rf"rank {missing} \(mp_rank_0{missing}\S*\) is missing"):
        tg.open_checkpoint(tmp_path)


def test_checkpoints_in_folders_of_a_folder_that_is_read_are_told(tmp_path):
    put(tmp_path, "model.safetensors.bin")
    put(tmp_path / "1_Pooling", "config.json.txt")
    assert tg.inspect(tmp_path).warnings == ()
    put(tmp_path / "2_Dense")
    put(tmp_path / "3_Dense")
    (note,) = tg.load(nn.Linear(2, 2), tmp_path).plan.notes
    assert note == "checkpoints of their own in this folder are not read: 2_Dense, 3_Dense"


def test_what_a_recipe_keeps_of_its_run_is_no_checkpoint(tmp_path):
    torch.save({"epochs_run": 1}, tmp_path / "recipe_state.pt")
    put(tmp_path / "epoch_0")
    with pytest.raises(tg.CheckpointError, match="no checkpoint in this folder; there is one in epoch_0: name it"):
        tg.inspect(tmp_path)


def put_ranks(folder, count, name="consolidated.{:02d}.pth"):
    """Write the ranks of two layers, of which the first is shared out by rows and the second by columns."""
    state = {"up.weight": torch.randn(8, 4), "down.weight": torch.randn(4, 8), "norm.weight": torch.randn(4)}
    for rank in range(count):
        path = folder / name.format(rank)
        path.parent.mkdir(parents=True, exist_ok=True)
        share = {
            key: value.chunk(count, int(key == "down.weight"))[rank].clone()
            for key, value in state.items()
            if value.dim() > 1
        }
        torch.save({**share, "norm.weight": state["norm.weight"]}, path)
    return state


def two_layers():
    up, down = nn.Linear(4, 8, bias=False), nn.Linear(8, 4, bias=False)
    return nn.ModuleDict({"up": up, "down": down, "norm": nn.RMSNorm(4)})


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("name", ["consolidated.{:02d}.pth", "consolidated.{:02d}.pt", "mp_rank_{:02d}/model_rng.pt"])
def test_ranks_of_llama_are_joined(tmp_path, count, name):
    """Of two the first was read as the whole model: nothing but norms had its shape."""
    state, model = put_ranks(tmp_path, count, name), two_layers()
    tg.load(model, tmp_path)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["consolidated.{:02d}.pth", "mp_rank_{:02d}/model_optim_rng.pt"])
def test_a_rank_alone_is_told_to_be_one(tmp_path, name):
    put_ranks(tmp_path, 2, name)
    assert "one of 2 ranks" in str(tg.inspect(tmp_path / name.format(0)))


def test_a_rank_alone_is_refused_as_one(tmp_path):
    put_ranks(tmp_path, 2)
    with pytest.raises(
        tg.PlanRefusedError, match=r"^refused for .*\n- the file is one of 2 ranks, which hold parts of tensors"
    ) as found:
        tg.load(two_layers(), tmp_path / "consolidated.00.pth")
    assert found.value.objections[0].kind == "partial"


def shards_of(folder, model):
    """Write a model in two shards, the first with its first layer; return the path of that one."""
    for number, layer in enumerate(model):
        state = {f"{number}.{name}": value for name, value in layer.state_dict().items()}
        tg.save(folder / f"model-0000{number + 1}-of-00002.safetensors", state)
    return folder / "model-00001-of-00002.safetensors"


def test_a_shard_alone_is_refused_as_one_unless_it_has_all_that_the_model_wants(tmp_path):
    saved, model = (nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3)) for _ in range(2))
    path = shards_of(tmp_path, saved)
    with pytest.raises(tg.PlanRefusedError, match=r"one of 2 shards, .* 2 tensors of the model find nothing") as found:
        tg.load(model, path)
    assert "give the path of the folder" in str(found.value)
    tg.load(model, path, policy=tg.Policy(partial=tg.Verdict.ACCEPT))
    tg.load(model, path, fresh=["1"])
    tg.load(model, path.parent)
    assert torch.equal(model[1].weight, saved[1].weight)
    assert tg.load(nn.Sequential(nn.Linear(6, 5)), path).plan.notes == ()


def test_a_missing_rank_of_llama_is_named(tmp_path):
    put_ranks(tmp_path, 3)
    (tmp_path / "consolidated.01.pth").unlink()
    with pytest.raises(tg.CheckpointError, match=r"rank 1 \(consolidated\.01\.pth\) is missing"):
        tg.inspect(tmp_path)


@pytest.mark.parametrize("name", ["_METADATA", "_CHECKPOINT_METADATA", "manifest.ocdbt"])
def test_orbax_is_told_by_what_it_leaves(tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(tg.CheckpointError, match=r"a checkpoint of Orbax \(JAX\), which is not read"):
        tg.inspect(tmp_path)


@pytest.mark.parametrize("name", ["model.ckpt", "model.ckpt.index", "model.ckpt.data-00000-of-00001"])
def test_a_checkpoint_of_tensorflow_is_told_by_any_of_its_names(tmp_path, name):
    for end in ("index", "data-00000-of-00001"):
        (tmp_path / f"model.ckpt.{end}").write_bytes(b"\1" * 80)
    with pytest.raises(tg.CheckpointError, match="checkpoints of TensorFlow, which is not read"):
        tg.inspect(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        tg.inspect(tmp_path / "other.ckpt")


def test_one_file_of_a_distributed_checkpoint_is_told_to_be_one(tmp_path):
    (tmp_path / "__0_0.distcp").write_bytes(b"PK" * 40)
    with pytest.raises(tg.CheckpointError, match="one file of a distributed checkpoint: name its folder"):
        tg.inspect(tmp_path / "__0_0.distcp")
