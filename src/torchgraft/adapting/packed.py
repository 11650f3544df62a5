"""Numbers that are no weights yet: packed or scaled values that can't be decoded, or whose scale is not there."""

from __future__ import annotations

from collections.abc import Iterator

from torchgraft.core.listing import listed
from torchgraft.core.plan import Action, Objection, Plan, Step

# Tensors of packings that are not decoded, by the last segment of their names: GPTQ and AWQ, compressed-tensors, HQQ, AQLM,
# QuIP#, and torch's own quantised modules.
PACKED_ROLES = frozenset({
    "qweight", "qzeros", "weight_packed", "W_q", "codebooks", "Qidxs", "_packed_params", "packed_weight",
})  # fmt: skip


def packed(plan: Plan) -> Iterator[Objection]:
    """Yield what is packed in a way that can't be decoded, and values that stand for others by a scale that is missing."""
    known = [s for s in plan.steps if s.why.rule == "quantised"]
    names = tuple(s.slot.name for s in known)
    if names:
        text = known[0].why.text
        yield Objection(
            "quantised", f"{listed(names)}: {text}; dequantise the file with the library that packed it", names
        )
    unknown = tuple(u.spec.name for u in plan.unused if u.spec.name.rpartition(".")[2] in PACKED_ROLES)
    if unknown:
        yield Objection(
            "quantised",
            f"{listed(unknown)}: packed (quantised) weights, which are not decoded; dequantise the file with the library that "
            "packed it",
            unknown,
        )
    yield from _unscaled(plan)


def _unscaled(plan: Plan) -> Iterator[Objection]:
    """Bytes are no weights, and float8 is mostly a share of a weight whose scale lies beside it."""
    if all(spec.dtype.itemsize > 1 for spec in plan.source_specs.values()):
        return
    plain = [
        s for s in plan.steps if s.action is not Action.FRESH and s.feeds and not s.slot.is_buffer and not _decoded(s)
    ]
    for kind, said in (("int8", "8-bit integers"), ("float8", "8-bit floats")):
        names = tuple(
            s.slot.name for s in plain if _stored(s, plan).removeprefix("u").startswith(kind) and _is_wider(s)
        )
        if names:
            yield Objection(
                "quantised",
                f"{listed(names)}: {said} in the file, without the scale that a quantised weight goes with; dequantise the file "
                "with the library that wrote it, or, if these are the weights, say policy=tg.Policy(quantised=tg.Verdict.ACCEPT)",
                names,
            )


def _stored(step: Step, plan: Plan) -> str:
    spec = plan.source_specs.get(step.feeds[0].key)
    return str(spec.dtype) if spec and spec.numel > 1 else ""


def _is_wider(step: Step) -> bool:
    return step.slot.spec.dtype.is_float and step.slot.spec.dtype.itemsize > 1


def _decoded(step: Step) -> bool:
    ops = [*step.ops, *(op for feed in step.feeds for op in feed.ops)]
    return any(op.to_dict()["op"] in ("dequant_blocks", "dequant_4bit") for op in ops)
