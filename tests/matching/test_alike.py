"""Both sides alike: what is decided for all tensors at once is what is decided for them one by one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from names_only import Given

from torchgraft import planning
from torchgraft.core.dtypes import DType
from torchgraft.core.specs import Slot, Target, TensorSpec
from torchgraft.matching import alike
from torchgraft.request import make_request

# Owners with the kinds of module that they may be: plain ones, tables, queries and keys of known codes, fused rows.
OWNERS = {
    "fc": ("Linear", "Conv1D", ""), "conv": ("Conv2d", "ConvTranspose2d"), "norm": ("BatchNorm2d",), "embed": ("Embedding",),
    "self_attn.q_proj": ("Linear",), "self_attn.k_proj": ("Linear",), "self_attn.o_proj": ("Linear",), "qkv": ("Linear",),
    "input_layernorm": ("RMSNorm",), "post_attention_layernorm": ("RMSNorm",), "c_attn": ("Conv1D",), "attn": ("MultiheadAttention", "Attention", ""), "attn.in_proj": ("Linear", "Conv1D"),
    "self.pos_proj": ("Linear",), "gate_up_proj": ("Linear",), "to_kv": ("Linear", ""),
}  # fmt: skip
FUSED = ("qkv", "c_attn", "attn", "attn.in_proj", "self.pos_proj", "gate_up_proj", "to_kv")
ROLES = ("weight", "bias", "running_var", "pos_embed", "inv_freq", "kernel", "in_proj_weight", "in_proj_bias")
PARTS = ("weight_g", "weight_v", "weight_scale", "q_bias", "weight_orig", "weight_mask")
SHAPES = ((), (4,), (8,), (4, 4), (8, 4), (4, 8), (12, 4), (1, 4, 4), (4, 4, 3, 3), (8, 4, 3, 3), (0,))
PLACES = ("", "layers.0.", "layers.1.", "layers.1.0.", "decoder.layers.0.")
PREFIXES = ("", "module.", "model.", "a.b.", "qkv.", "layers.", "0.")


def tensors_of(owners, roles, places=PLACES):
    names = st.builds(
        lambda place, owner, role: f"{place}{owner}.{role}" if owner else place + role,
        st.sampled_from(places),
        st.sampled_from(("", *owners)),
        st.sampled_from(roles),
    )
    return st.dictionaries(names, st.tuples(st.sampled_from(SHAPES), st.integers(0, 2)), min_size=1, max_size=14)


plain = tensors_of([owner for owner in OWNERS if owner not in FUSED], ROLES)
tensors = plain | tensors_of(OWNERS, ROLES + PARTS)
sides = st.sampled_from([(old, new) for old in PREFIXES for new in PREFIXES if not (old and new)])


def specs_of(shapes, prefix):
    return {prefix + name: TensorSpec(prefix + name, shape, DType.F32) for name, shape in shapes.items()}


def model_of(shapes, prefix="", picks=(), aliases=(), hidden=()):
    """Return a model of these tensors; `picks` choose among the kinds of module that their owners may be."""
    slots = []
    for order, (name, shape) in enumerate(shapes.items()):
        owner = (prefix + name).rpartition(".")[0]
        kinds = next((kinds for end, kinds in OWNERS.items() if owner.endswith(end)), ("",))
        slots.append(
            Slot(
                spec=TensorSpec(prefix + name, shape, DType.F32), owner=owner, order=order, aliases=tuple(aliases[:1] if order else ()),
                kind=kinds[(picks[order] if picks else 0) % len(kinds)], persistent=name not in hidden,
            )
        )  # fmt: skip
    return Target(tuple(slots), {slot.owner: slot.kind for slot in slots})


def plans(specs, target):
    """Return the plan as it is made, and as it is made one by one."""
    made = planning.make_plan(Given(specs), target, make_request())
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(planning, "alike", lambda *_: None)
        return made, planning.make_plan(Given(specs), target, make_request())


def same(one, other):
    assert one.steps == other.steps
    assert one.unused == other.unused
    assert one.objections == other.objections
    assert one.notes == other.notes


@given(tensors, sides, st.randoms(use_true_random=False))
def test_all_at_once_is_as_one_by_one(found, prefixes, dice):
    shapes = {name: shape for name, (shape, _) in found.items()}
    source = list(specs_of(shapes, prefixes[0]).items())
    dice.shuffle(source)
    target = model_of(shapes, prefixes[1], [pick for _, pick in found.values()])
    same(*plans(dict(source), target))


@pytest.mark.parametrize("prefixes", [("", ""), ("module.", ""), ("", "module."), ("layers.", "")])
def test_names_at_the_root_are_judged_alike(prefixes):
    for names in (
        ("weight", "bias", "in_proj_weight", "in_proj_bias"),
        ("fc.in_proj_weight",),
        ("weight", "bias", "running_var", "pos_embed"),
    ):
        shapes = dict.fromkeys(names, ())
        same(*plans(specs_of(shapes, prefixes[0]), model_of(shapes, prefixes[1])))


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_kernel_that_the_model_has_as_it_is_stays_as_it_is(prefix):
    """In a file of another library it would be a matrix [in, out] with one position in front."""
    shapes = {"fc.bias": (4,), "fc.kernel": (1, 4, 4), "head.weight": (4, 4), "head.bias": (4,)}
    made, other = plans(specs_of(shapes, ""), model_of(shapes, prefix))
    same(made, other)
    assert not any("Transpose" in str(feed.ops) for step in made.steps for feed in step.feeds)


DECODER = {
    f"layers.{n}.{name}.weight": shape
    for n in range(2)
    for name, shape in {
        "self_attn.q_proj": (8, 8), "self_attn.k_proj": (4, 8), "self_attn.v_proj": (4, 8), "self_attn.o_proj": (8, 8),
        "input_layernorm": (8,), "post_attention_layernorm": (8,), "mlp.fc": (8, 32),
    }.items()
}  # fmt: skip


@pytest.mark.parametrize("prefixes", [("", ""), ("module.", ""), ("", "model."), ("model.layers.", ""), ("", "a.b.")])
def test_a_model_under_a_prefix_is_decided_at_once(prefixes):
    specs, target = specs_of(DECODER, prefixes[0]), model_of(DECODER, prefixes[1])
    assert alike(specs, target.slots) is not None
    made, other = plans(specs, target)
    same(made, other)
    assert len(made.copied) == len(DECODER)


def test_buffers_that_no_file_holds_stay_as_they_are():
    shapes = {**DECODER, "rotary.inv_freq": (4,)}
    specs, target = specs_of(DECODER, "module."), model_of(shapes, hidden=("rotary.inv_freq",))
    assert alike(specs, target.slots) is not None
    same(*plans(specs, target))


ONE_BY_ONE = {
    "another shape": (DECODER | {"head.weight": (8, 8)}, DECODER | {"head.weight": (8, 9)}),
    "another name": (DECODER | {"head.weight": (8, 8)}, DECODER | {"heads.weight": (8, 8)}),
    "one more": (DECODER | {"head.weight": (8, 8)}, DECODER),
    "one more in the model": (DECODER, DECODER | {"head.weight": (8, 8)}),
    "two prefixes": ({f"{side}.{k}": v for k, v in DECODER.items() for side in "ab"}, DECODER),
    "rows fused in several orders": (DECODER | {"attn.qkv_proj.weight": (24, 8)},) * 2,
    "rows fused as in DeBERTa": (DECODER | {"self.in_proj.weight": (24, 8), "self.pos_proj.weight": (8, 8)},) * 2,
    "fused rows under two spellings": (DECODER | {"attn.in_proj_weight": (24, 8), "attn.in_proj.weight": (24, 8)},) * 2,
    "the bias of a single part": (DECODER | {"attn.q_bias": (8,)},) * 2,
    "a weight in two parts": (DECODER | {"fc.weight_g": (8, 1), "fc.weight_v": (8, 8)},) * 2,
    "names as in TensorFlow": ({"block/dense/kernel:0": (8, 8), "a.b": (4,)},) * 2,
}


@pytest.mark.parametrize(("ours", "theirs"), ONE_BY_ONE.values(), ids=ONE_BY_ONE)
def test_what_needs_a_look_is_weighed(ours, theirs):
    specs, target = specs_of(ours, ""), model_of(theirs)
    assert alike(specs, target.slots) is None


@pytest.mark.parametrize("name", ["attn.in_proj_weight", "attn.in_proj.bias", "attn.to_kv.weight", "kv.bias"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_rows_that_all_fuse_in_one_order_are_decided_at_once(name, prefix):
    shapes = DECODER | {name: (24,) if name.endswith("bias") else (24, 8)}
    specs, target = specs_of(shapes, prefix), model_of(shapes)
    assert alike(specs, target.slots) is not None
    same(*plans(specs, target))


def test_a_second_name_behind_a_prefix_is_weighed():
    assert alike(specs_of(DECODER, ""), model_of(DECODER, aliases=["tied.weight"]).slots) is not None
    assert alike(specs_of(DECODER, "module."), model_of(DECODER, aliases=["tied.weight"]).slots) is None


def test_a_biased_table_tells_how_matrices_are_stored():
    shapes = {"embed.weight": (4, 8), "embed.bias": (8,), "fc.weight": (4, 4)}
    made, other = plans(specs_of(shapes, ""), model_of(shapes))
    same(made, other)
    assert made.by_slot["fc.weight"].words() == "transpose"


def test_a_matrix_that_finds_no_place_tells_how_matrices_are_stored():
    shapes = {"fc.weight": (4, 4), "fc.bias": (4,)}
    specs = specs_of(shapes | {"head.weight": (4, 8), "head.bias": (8,)}, "")
    made = planning.make_plan(Given(specs), model_of(shapes), make_request())
    assert made.by_slot["fc.weight"].words() == "transpose"


@pytest.mark.parametrize("said", [{"fresh": ["layers.1.*"]}, {"permute": {"layers.0.self_attn.q_proj.weight": (1, 0)}}])
def test_what_the_caller_says_is_heard(said):
    made = planning.make_plan(Given(specs_of(DECODER, "module.")), model_of(DECODER), make_request(**said))
    assert len(made.copied) < len(DECODER)
