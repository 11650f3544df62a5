"""Two branches of equal shapes go where the words of all their layers lead, not where their order does."""

import torch
from filling import filled
from torch import nn

import torchgraft as tg
from torchgraft.core.policy import Policy, Verdict


def branch():
    return nn.ModuleDict({"norm": nn.Linear(8, 16), "proj": nn.Linear(8, 8), "mlp": nn.Linear(8, 32)})


def joined(first, second):
    """A branch for each kind of input in every block, in some order."""
    return filled(
        nn.ModuleDict({"joint": nn.ModuleList(nn.ModuleDict({first: branch(), second: branch()}) for _ in range(3))})
    )


def spread():
    """Layers of both kinds of input beside each other, those for the context with a word more."""
    parts = {"norm1": (8, 16), "norm1_context": (8, 16), "to_out": (8, 8), "to_add_out": (8, 8), "ff": (8, 32)}
    return filled(
        nn.ModuleDict({
            "blocks": nn.ModuleList(
                nn.ModuleDict({name: nn.Linear(*sizes) for name, sizes in (parts | {"ff_context": (8, 32)}).items()})
                for _ in range(3)
            )
        })
    )  # fmt: skip


def placed(source, target):
    lenient = Policy(coverage=Verdict.WARN)
    tg.load(target, source.state_dict(), on_doubt="take", policy=lenient)
    blocks = [model["joint"] if "joint" in model else model["blocks"] for model in (source, target)]
    return list(zip(*blocks, strict=True))


def test_branches_go_where_their_words_lead():
    for first, second in (("context_block", "x_block"), ("x_block", "context_block")):
        for ours, theirs in placed(joined(first, second), spread()):
            assert torch.equal(theirs["ff_context"].weight, ours["context_block"]["mlp"].weight)
            assert torch.equal(theirs["norm1"].weight, ours["x_block"]["norm"].weight)
            assert torch.equal(theirs["to_add_out"].weight, ours["context_block"]["proj"].weight)


def test_they_do_so_from_the_other_side():
    for theirs, ours in placed(spread(), joined("context_block", "x_block")):
        assert torch.equal(ours["context_block"]["mlp"].weight, theirs["ff_context"].weight)
        assert torch.equal(ours["x_block"]["proj"].weight, theirs["to_out"].weight)
