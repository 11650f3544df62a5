"""How others load, each as its users call it; those that aren't installed are left out."""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch

# Bars and hints would stand between the figures.
os.environ |= {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}


def files_of(path):
    """Return the files that hold the tensors."""
    return sorted(path.glob("*.safetensors")) if path.is_dir() else [path]


def have(package):
    return find_spec(package) is not None


def torch_mapped(model, path):
    model.load_state_dict(torch.load(path, mmap=True, weights_only=True))


def torch_mapped_part(model, path):
    state = torch.load(path, mmap=True, weights_only=True)
    model.load_state_dict({name: state[name] for name in model.state_dict()})


def torch_plain(model, path):
    model.load_state_dict(torch.load(path, weights_only=True))


def safetensors_file(model, path):
    from safetensors.torch import load_file

    for file in files_of(path):
        model.load_state_dict(load_file(file), strict=not path.is_dir())


def safetensors_assigned(model, path):
    """Read into memory of its own, as ours does: a mapping that is read later is no load."""
    from safetensors.torch import load_file

    for file in files_of(path):
        state = {name: value.clone() for name, value in load_file(file).items()}
        model.load_state_dict(state, assign=True, strict=not path.is_dir())


def safetensors_loop(model, path):
    from safetensors import safe_open

    there = model.state_dict()
    for file in files_of(path):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118  # it is no dict
                there[name].copy_(opened.get_tensor(name))


def torch_distributed(model, path):
    """Torch's distributed checkpoints read folders of safetensors, too."""
    from torch.distributed import checkpoint

    checkpoint.load(model.state_dict(), storage_reader=checkpoint.HuggingFaceStorageReader(str(path)), no_dist=True)


def accelerated(model, path):
    from accelerate import load_checkpoint_in_model

    load_checkpoint_in_model(model, str(path))


GROUPS = (("qkv_proj", ("q_proj", "k_proj", "v_proj")), ("gate_up_proj", ("gate_proj", "up_proj")))


def whole_state(path):
    from safetensors.torch import load_file

    state = {}
    for file in files_of(path):
        state.update(load_file(file))
    return state


def safetensors_joined(model, path):
    state = whole_state(path)
    for name in model.state_dict():
        for joined, parts in GROUPS:
            if joined in name:
                state[name] = torch.cat([state.pop(name.replace(joined, part)) for part in parts])
    model.load_state_dict(state)


def safetensors_parted(model, path):
    state, wanted = whole_state(path), model.state_dict()
    for name in list(state):
        for joined, parts in GROUPS:
            if joined in name:
                names = [name.replace(joined, part) for part in parts]
                rows = state.pop(name).split([wanted[n].shape[0] for n in names])
                state.update(zip(names, rows, strict=True))
    model.load_state_dict(state)


def transformers_converted(family, model_type, converters):
    """Return how transformers loads a decoder of that family, whose names and shapes are ours, through its converters."""

    def run(given, path):
        import transformers
        from transformers.conversion_mapping import register_checkpoint_conversion_mapping

        made = getattr(transformers, f"{family}Model")
        register_checkpoint_conversion_mapping(model_type, converters(), overwrite=True)
        embedding, down = given.embed_tokens, given.layers[0].mlp.down_proj
        config = made.config_class(
            hidden_size=embedding.embedding_dim, vocab_size=embedding.num_embeddings, num_hidden_layers=len(given.layers),
            intermediate_size=down.in_features, num_attention_heads=16, num_key_value_heads=8,
            pad_token_id=None, bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
        loaded, told = made.from_pretrained(str(path), config=config, dtype=torch.bfloat16, output_loading_info=True)
        if told["missing_keys"] or sum(p.numel() for p in loaded.parameters()) != sum(
            p.numel() for p in given.parameters()
        ):
            raise ValueError(f"transformers loaded something else: {told}")
        return touch(loaded)

    return run


def touch(loaded):
    """Read a byte of each page of what may be a mapping: a lazy one is no load."""
    for tensor in loaded.state_dict().values():
        tensor.reshape(-1).view(torch.uint8)[::4096].sum()


def joining():
    from transformers.core_model_loading import Concatenate, WeightConverter

    return [WeightConverter([f"{part}.weight" for part in parts], f"{joined}.weight", operations=[Concatenate(0)])
            for joined, parts in GROUPS]  # fmt: skip


def parting():
    from transformers.core_model_loading import Chunk, Split, WeightConverter

    (qkv, three), (gate_up, two) = GROUPS
    return [WeightConverter(f"{qkv}.weight", [f"{part}.weight" for part in three], operations=[Split(0)]),
            WeightConverter(f"{gate_up}.weight", [f"{part}.weight" for part in two], operations=[Chunk(0)])]  # fmt: skip


def construct_and_load(factory, path):
    safetensors_file(factory(), path)


# Those that come with a package of their own.
SHARDS = {"torch.distributed.checkpoint": torch_distributed}
CONVERTED = {"joined": {}, "parted": {}}
if have("accelerate"):
    SHARDS["accelerate.load_checkpoint_in_model"] = accelerated
if have("transformers"):
    CONVERTED = {
        "joined": {"transformers, its converters": transformers_converted("Phi3", "phi3", joining)},
        "parted": {"transformers, its converters": transformers_converted("Llama", "llama", parting)},
    }
