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
# Names that one side may have more than the other, and that say something about those that both have.
SAYING = {
    "ema", "head", "fc.inner", "self_attn_layer_norm", "ffn.gate_proj", "experts.0.fc", "experts.fc", "q_proj", "norm1", "norm.1",
}  # fmt: skip
beside = tensors_of(
    [*OWNERS, *SAYING],
    (*ROLES, *PARTS, "cls_token", "relative_position_bias_table", "position_ids"),
    (*PLACES, "ema.", "averaged.", "layers.0.0.", "layers.2.", "model_ema.layers.0.", "backbone.layers.0.", "norms."),
)
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


@given(tensors, sides, st.sampled_from((7, 4, 1)), st.randoms(use_true_random=False))
def test_layers_with_other_rows_are_as_one_by_one(found, prefixes, rows, dice):
    shapes = {name: shape for name, (shape, _) in found.items()}
    layers = sorted({name.rpartition(".")[0] for name in shapes})
    heads = set(dice.sample(layers, dice.randint(1, len(layers))))
    more = {
        name: (rows, *shape[1:]) if shape and name.rpartition(".")[0] in heads else shape
        for name, shape in shapes.items()
    }
    target = model_of(shapes, prefixes[1], [pick for _, pick in found.values()])
    same(*plans(specs_of(more, prefixes[0]), target))


@given(
    tensors,
    tensors | beside,
    st.booleans(),
    st.lists(st.sampled_from(("tied.weight", "tied", "head.weight")), max_size=1),
    st.randoms(use_true_random=False),
)
def test_one_side_within_the_other_is_as_one_by_one(found, more, in_file, aliases, dice):
    every = list({**more, **found}.items())
    dice.shuffle(every)
    both = [(name, said) for name, said in every if name in found]
    ours, theirs = (every, both) if in_file else (both, every)
    source = list(specs_of({name: shape for name, (shape, _) in ours}, "").items())
    target = model_of({name: shape for name, (shape, _) in theirs}, "", [pick for _, (_, pick) in theirs], aliases)
    dice.shuffle(source)
    same(*plans(dict(source), target))


@given(
    tensors,
    tensors | beside,
    st.booleans(),
    st.sampled_from([prefix for prefix in PREFIXES if prefix]),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_one_side_within_the_other_behind_a_prefix_is_as_one_by_one(found, more, in_file, prefix, behind, dice):
    few = {name: shape for name, (shape, _) in found.items()}
    others = {(prefix if behind else "") + name: shape for name, (shape, _) in more.items()}
    every = list({**others, **{prefix + name: shape for name, shape in few.items()}}.items())
    dice.shuffle(every)
    ours, theirs = (dict(every), few) if in_file else (few, dict(every))
    picks = [dice.randint(0, 2) for _ in theirs]
    same(*plans(specs_of(ours, ""), model_of(theirs, "", picks)))


@pytest.mark.parametrize("in_file", [True, False])
def test_more_beside_a_prefix_is_seen_at_once(in_file):
    many = {f"backbone.{name}": shape for name, shape in DECODER.items()} | {"head.weight": (10, 8), "head.bias": (10,)}
    ours, theirs = (many, DECODER) if in_file else (DECODER, many)
    specs, target = specs_of(ours, ""), model_of(theirs)
    found = alike(specs, target.slots)
    assert len(found.keys) == len(DECODER)
    assert {a == b for a, b in found.keys.items()} == {False}
    same(*plans(specs, target))


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
    "one more, and another": (DECODER | {"head.weight": (8, 8)}, DECODER | {"mask_token": (8,)}),
    "as much again beside a prefix": (
        {f"a.{k}": v for k, v in DECODER.items()} | {f"heads.{n}.weight": (8, 8) for n in range(len(DECODER))},
        DECODER,
    ),
    "two prefixes": ({f"{side}.{k}": v for k, v in DECODER.items() for side in "ab"}, DECODER),
    "one more of equal end behind a prefix": (
        {f"a.{k}": v for k, v in DECODER.items()} | {"b.layers.0.mlp.fc.weight": (8, 32)},
        DECODER,
    ),
    "averages": (DECODER | {f"model_ema.{k}": v for k, v in DECODER.items()}, DECODER),
    "experts": (DECODER | {"experts.0.fc.weight": (8, 8)}, DECODER),
    "statistics of a norm": (DECODER | {"layers.0.input_layernorm.running_var": (8,)}, DECODER),
    "another spelling": (
        DECODER | {"norm.1.weight": (8,), "x.norm1.weight": (8,)},
        DECODER | {"norm.1.weight": (8,)},
    ),
    "what each block may share": (DECODER, DECODER | {f"layers.{n}.scale": (8,) for n in range(2)}),
    "rows fused in several orders": (DECODER | {"attn.qkv_proj.weight": (24, 8)},) * 2,
    "rows fused as in DeBERTa": (DECODER | {"self.in_proj.weight": (24, 8), "self.pos_proj.weight": (8, 8)},) * 2,
    "fused rows under two spellings": (DECODER | {"attn.in_proj_weight": (24, 8), "attn.in_proj.weight": (24, 8)},) * 2,
    "the bias of a single part": (DECODER | {"attn.q_bias": (8,)},) * 2,
    "a weight in two parts": (DECODER | {"fc.weight_g": (8, 1), "fc.weight_v": (8, 8)},) * 2,
    "names as in TensorFlow": ({"block/dense/kernel:0": (8, 8), "a.b": (4,)},) * 2,
}


@pytest.mark.parametrize(
    "more", [{"head.weight": (8, 8), "head.bias": (8,)}, {"layers.2.mlp.fc.weight": (8, 32)}, {"cls_token": (1, 1, 8)}]
)
def test_what_one_side_has_more_is_told_at_once(more):
    specs, target = specs_of(DECODER | more, ""), model_of(DECODER)
    assert alike(specs, target.slots) is not None
    made, other = plans(specs, target)
    same(made, other)
    assert {unused.spec.name for unused in made.unused} == set(more)
    specs, target = specs_of(DECODER, ""), model_of(DECODER | more)
    assert alike(specs, target.slots) is not None
    made, other = plans(specs, target)
    same(made, other)
    assert {step.slot.name for step in made.fresh} == set(more)


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
    made, other = plans(specs_of(shapes | {"head.weight": (4, 8), "head.bias": (8,)}, ""), model_of(shapes))
    same(made, other)
    assert made.by_slot["fc.weight"].words() == "transpose"


@pytest.mark.parametrize("said", [{"fresh": ["layers.1.*"]}, {"permute": {"layers.0.self_attn.q_proj.weight": (1, 0)}}])
def test_what_the_caller_says_is_heard(said):
    made = planning.make_plan(Given(specs_of(DECODER, "module.")), model_of(DECODER), make_request(**said))
    assert len(made.copied) < len(DECODER)


def network(head, hidden=16, kind="Linear", role="weight"):
    """Return a small network as shapes: two layers alike, and a head of so many rows."""
    shapes = {
        f"layers.{n}.{name}": shape
        for n in range(2)
        for name, shape in (("weight", (hidden, hidden)), ("bias", (hidden,)))
    }
    return {**shapes, f"fc.{role}": (head, hidden), "fc.bias": (head,)}, kind


def with_head(ours, theirs, kind="Linear", **more):
    """Return the plan, made at once where that may be, for a network with a head of other rows."""
    shapes, _ = network(theirs, **more)
    slots = [
        Slot(spec=TensorSpec(name, shape, DType.F32), owner=name.rpartition(".")[0], order=order, kind=kind if name.startswith("fc") else "Linear")
        for order, (name, shape) in enumerate(shapes.items())
    ]  # fmt: skip
    file, _ = network(ours, **more)
    return specs_of(file, ""), Target(tuple(slots), {slot.owner: slot.kind for slot in slots})


def test_a_head_for_other_classes_is_seen_at_once():
    specs, target = with_head(1000, 10)
    found = alike(specs, target.slots)
    assert [m.target.name for m in found.unlike] == ["fc.weight", "fc.bias"]
    assert not {"fc.weight", "fc.bias"} & found.keys.keys()
    made, other = plans(specs, target)
    same(made, other)
    assert [step.slot.name for step in made.fresh] == ["fc.weight", "fc.bias"]
    assert made.by_slot["fc.weight"].why.text == "1000 rows in the file, 10 in the model"


@pytest.mark.parametrize(
    ("ours", "theirs", "kind"),
    [
        (16, 10, "Linear"),  # the file's head may be a hidden layer of the model
        (10, 16, "Linear"),  # a hidden layer of the file may be the model's head
        (1000, 10, "Embedding"),  # rows of a table are entries
        (1000, 10, "Conv1D"),  # stored [in, out]
        (1000, 10, ""),
    ],
)
def test_layers_that_may_go_elsewhere_are_weighed(ours, theirs, kind):
    specs, target = with_head(ours, theirs, kind)
    assert alike(specs, target.slots) is None


def test_a_bias_of_equal_shape_leaves_the_layer_to_be_weighed():
    specs, target = with_head(1000, 10)
    specs["fc.bias"] = TensorSpec("fc.bias", (10,), DType.F32)
    assert alike(specs, target.slots) is None


def test_inputs_that_differ_leave_the_layer_to_be_weighed():
    specs, target = with_head(1000, 10)
    specs["fc.weight"] = TensorSpec("fc.weight", (1000, 12), DType.F32)
    assert alike(specs, target.slots) is None
