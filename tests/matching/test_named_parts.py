"""Fused tensors whose parts the other side has apart, under the names of the parts: names settle it as weighing would."""

import pytest
from names_only import given_shapes

from torchgraft import planning
from torchgraft.core.dtypes import DType
from torchgraft.core.plan import Certainty
from torchgraft.core.specs import Slot, Target, TensorSpec
from torchgraft.matching import structure
from torchgraft.request import make_request

REST = {"self_attn.o_proj.weight": (16, 16), "mlp.down_proj.weight": (16, 24), "input_layernorm.weight": (16,)}
APART = {f"self_attn.{name}_proj.weight": (rows, 16) for name, rows in (("q", 16), ("k", 8), ("v", 8))}
APART |= {f"mlp.{name}_proj.weight": (24, 16) for name in ("gate", "up")}
FUSED = {"self_attn.qkv_proj.weight": (32, 16), "mlp.gate_up_proj.weight": (48, 16)}
TIMM = {f"attn.{name}.{role}": shape for name in "qkv" for role, shape in (("weight", (16, 16)), ("bias", (16,)))}
TIMM_FUSED = {"attn.qkv.weight": (48, 16), "attn.qkv.bias": (48,)}
TIMM_REST = {
    "attn.proj.weight": (16, 16),
    "norm1.weight": (16,),
    "mlp.fc1.weight": (64, 16),
    "mlp.fc2.weight": (16, 64),
}
TORCH_FUSED = {"attn.in_proj_weight": (48, 16), "attn.in_proj_bias": (48,)}


def blocks(*members, prefix=""):
    shapes = {name: shape for some in members for name, shape in some.items()}
    found = {f"{prefix}layers.{n}.{name}": shape for n in range(3) for name, shape in shapes.items()}
    return {f"{prefix}embed.weight": (50, 16), **found, f"{prefix}norm.weight": (16,)}


def model_of(shapes):
    slots = [
        Slot(spec=TensorSpec(name, shape, DType.F32), owner=name.rpartition(".")[0], order=order, kind="Linear" if len(shape) > 1 else "LayerNorm")
        for order, (name, shape) in enumerate(shapes.items())
    ]  # fmt: skip
    return Target(tuple(slots), {slot.owner: slot.kind for slot in slots}, heads={"": 2})


def planned(file, model, monkeypatch):
    """Return the plan, and whether all of both sides was weighed for it."""
    weighed = []
    by_structure = structure.by_structure
    monkeypatch.setattr(
        structure, "by_structure", lambda *given, **more: weighed.append(1) or by_structure(*given, **more)
    )
    plan = planning.make_plan(given_shapes(file), model_of(model), make_request())
    return plan, bool(weighed)


SIDES = {
    "decoder": (blocks(APART, REST), blocks(FUSED, REST)),
    "behind a prefix": (blocks(APART, REST, prefix="model."), blocks(FUSED, REST)),
    "timm": (blocks(TIMM, TIMM_REST), blocks(TIMM_FUSED, TIMM_REST)),
    "torch": (blocks(TIMM, TIMM_REST), blocks(TORCH_FUSED, TIMM_REST)),
}


@pytest.mark.parametrize("joins", [True, False])
@pytest.mark.parametrize("sides", SIDES.values(), ids=SIDES)
def test_settled_is_as_weighed(sides, joins, monkeypatch):
    file, model = sides if joins else sides[::-1]
    settled, weighed = planned(file, model, monkeypatch)
    assert not weighed
    monkeypatch.setattr("torchgraft.matching.names_alone.pairs_of_parts", lambda *_: [])
    other, weighed = planned(file, model, monkeypatch)
    assert weighed
    for one, two in zip(settled.steps, other.steps, strict=True):
        assert (one.slot, one.feeds, one.ops) == (two.slot, two.feeds, two.ops)
        assert one.feeds
    assert Certainty.DOUBT not in {step.certainty for step in settled.steps}
    assert not settled.unused


OTHERS = {
    "another part is missing": ({k: v for k, v in SIDES["decoder"][0].items() if "up_proj" not in k}, SIDES["decoder"][1]),
    "something is left": (SIDES["decoder"][0] | {"extra.weight": (3, 3)}, SIDES["decoder"][1]),
    "parts of other sizes": (blocks(APART | {"self_attn.k_proj.weight": (4, 16)}, REST), SIDES["decoder"][1]),
    "the part has a double": (SIDES["decoder"][0] | {"layers.0.self_attn.query.weight": (16, 16)}, SIDES["decoder"][1]),
    "another module": ({k.replace("self_attn.q_", "other.q_"): v for k, v in SIDES["decoder"][0].items()}, SIDES["decoder"][1]),
}  # fmt: skip


@pytest.mark.parametrize("sides", OTHERS.values(), ids=OTHERS)
def test_all_else_is_weighed(sides, monkeypatch):
    assert planned(*sides, monkeypatch)[1]
