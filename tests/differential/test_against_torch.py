"""What torch.load makes of a checkpoint, bit for bit, for random checkpoints in all of torch's formats."""

import warnings
from collections import Counter
from itertools import combinations

import pytest
import torch
from random_checkpoints import FORMATS, Draw, flat

from torchgraft.reading import open_checkpoint


def raw(tensor):
    """The bytes of a tensor in C order."""
    flat = tensor.detach().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format).reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def facts(tensors):
    return {k: (v.dtype, tuple(v.shape), raw(v)) for k, v in tensors.items()}


def ties(tensors, *, exact):
    """The pairs of names that are one view of one memory; not `exact`: whatever the strides of axes of length 1."""
    view = {}
    for key, t in tensors.items():
        if t.numel():
            strides = t.stride() if exact else [s for n, s in zip(t.shape, t.stride(), strict=True) if n > 1]
            view[key] = (t.data_ptr(), t.dtype, t.shape, tuple(strides), t.is_conj(), t.is_neg())
    return {frozenset(pair) for pair in combinations(view, 2) if view[pair[0]] == view[pair[1]]}


def ours(path):
    """Every tensor that we read, by its name in the whole tree, and the ties that we see."""
    found, tied = {}, set()
    with open_checkpoint(path) as source:
        for network in source.networks:
            prefix = f"{network.path.replace('/', '.')}." if network.path else ""
            for key in network.specs:
                value = source.read(network.path, key)
                again = found.setdefault(prefix + key, value)
                assert raw(again) == raw(value), key
            groups = {}
            for key in network.specs:
                groups.setdefault((network.shared or {}).get(key, key), []).append(prefix + key)
            tied |= {frozenset(pair) for names in groups.values() for pair in combinations(names, 2)}
    return found, tied


def check(seeds, folder):
    """Compare each seed's checkpoint; return how many there were of each format."""
    seen = Counter()
    for seed in seeds:
        draw = Draw(seed)
        content, tree = draw.bytes()
        path = folder / "m.pt"
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = flat(torch.load(path, weights_only=False))
        found, tied = ours(path)
        assert facts(found) == facts(flat(tree)), f"seed {seed}, {draw.format}, protocol {draw.protocol}"
        if draw.swapped_by_torch():
            assert facts(theirs) == facts(flat(tree)), f"seed {seed}: torch reads other values than were written"
        if draw.format != "tar":
            assert ties(theirs, exact=True) <= tied <= ties(theirs, exact=False), f"seed {seed}: ties"
        seen[draw.format] += 1
    assert set(seen) == set(FORMATS)


def test_300_random_checkpoints(tmp_path):
    check(range(300), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_10000_random_checkpoints(tmp_path, part):
    check(range(1000 * part + 300, 1000 * part + 1300), tmp_path)
