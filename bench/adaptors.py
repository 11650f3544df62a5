"""Thin adaptors through which outside measures call torchgraft; each turns its caller's words into our options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn


def cases(model: nn.Module, given: Any, hints: dict[str, Any]) -> dict[str, list[str]]:
    """Load `given` into `model` with the facts in `hints`; return what the report names."""
    import torchgraft as tg
    from torchgraft import api

    report = api.load(model, given, **_options(hints))
    if "freeze" in hints:
        tg.freeze(model, modules=hints["freeze"])
    plan = report.plan
    flags = {
        "low_coverage": "low_coverage",
        "coverage": "low_coverage",
        "missing": "incomplete",
        "nonfinite": "nonfinite",
        "infinite": "nonfinite",
    }
    objections = [o for o in plan.objections if o.kind in flags]
    return {
        "left_at_init": [name for s in plan.fresh for name in s.slot.names]
        + [s.slot.name for s in plan.steps if s.rows is not None and s.filled == 0],
        "unused_source": [u.spec.name for u in plan.unused if not u.quiet],
        "adapted": [name for s in plan.steps if s in plan.adapted or s.why.rule == "shared" for name in s.slot.names],
        "flags": sorted({flags[o.kind] for o in objections}),
    }


def pairs(source: dict[str, Any], model: nn.Module, source_model: nn.Module | None) -> None:
    """Fill `model` with the best reading everywhere."""
    _transfer(source, model, source_model, on_doubt="take")


def pairs_certain(source: dict[str, Any], model: nn.Module, source_model: nn.Module | None) -> None:
    """Fill only what is certain; skip the rest."""
    _transfer(source, model, source_model, on_doubt="skip", accept="certain")


def _transfer(source: dict[str, Any], model: nn.Module, source_model: nn.Module | None, **how: Any) -> None:
    from torchgraft import api
    from torchgraft.core.policy import Policy, Verdict

    lenient = Policy(
        coverage=Verdict.WARN,
        container=Verdict.WARN,
        quantised=Verdict.WARN,
        nonfinite=Verdict.WARN,
        outputs=Verdict.WARN,
    )
    tried = {} if source_model is None else {"inputs": "guess"}
    api.load(model, source, policy=lenient, source_model=source_model, **how, **tried)


def _options(hints: dict[str, Any]) -> dict[str, Any]:
    """Turn hints into keyword arguments of load()."""
    same = {"prefer": "prefer", "map": "fan_out", "layers": "layers", "copy": "copies", "grow_rows": "grow_rows",
            "class_names": "class_names", "class_rows": "class_rows", "in_channels": "in_channels",
            "permute": "permute", "exclude": "fresh", "merge_lora": "merge_lora", "tensor_parallel": "tensor_parallel",
            "qkv_layout": "qkv_layout", "num_heads": "num_heads"}  # fmt: skip
    options = {ours: hints[theirs] for theirs, ours in same.items() if theirs in hints}
    ranks = {
        "column": "rows",
        "row": "columns",
        "vocab": "rows",
    }  # layers of Megatron-LM, and what its ranks hold of weights
    if "tensor_parallel" in options:
        options["tensor_parallel"] = {key: ranks.get(kind, kind) for key, kind in options["tensor_parallel"].items()}
    if "fuse" in hints:
        options["fold_norms" if "bn" in hints["fuse"] else "fuse_branches"] = True
    if "zero_in" in hints:
        zero = hints["zero_in"]
        stack = next(iter(hints["layers"]))
        options["zero"] = [f"{stack}.{layer}.{name}" for layer in zero["layers"] for name in zero["names"]]
    return options


def badfile(path: str) -> dict[str, torch.Tensor]:
    """Read every tensor of the model networks at `path`; oddities are said as warnings."""
    import warnings

    from torchgraft.reading import open_checkpoint

    out: dict[str, torch.Tensor] = {}
    with open_checkpoint(path) as source:
        weights = [n for n in source.networks if n.role in ("model", "ema")] or list(source.networks)
        whole = [n for n in weights if n.path == ""] or weights
        for network in whole:
            for key, spec in network.specs.items():
                value = source.read(network.path, key)
                name = key if len(whole) == 1 else f"{network.path}.{key}"
                out[name] = value
                wide = value.float() if spec.dtype.is_float and spec.dtype.itemsize == 1 else value
                if spec.dtype.kind in ("float", "complex") and not bool(wide.isfinite().all()):
                    warnings.warn(f"{name} holds NaN or Inf", stacklevel=1)
        for text in source.warnings:
            warnings.warn(text, stacklevel=1)
    return out
