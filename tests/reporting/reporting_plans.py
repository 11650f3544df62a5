"""Hand-built and random plans to be told of."""

from hypothesis import strategies as st

from torchgraft.core.dtypes import DType
from torchgraft.core.objections import Objection
from torchgraft.core.plan import (
    Alternative,
    Certainty,
    Feed,
    Plan,
    Rows,
    Step,
    Unused,
    Why,
)
from torchgraft.core.proof import Part, Proof, Seal
from torchgraft.core.results.report import Check, Cost, Report
from torchgraft.core.specs import Slot, TensorSpec
from torchgraft.ops import Concat, Constant

SAME = Why("same name", "same name")
HELD = Check("values", True, "12 tensors compared after writing, all in full")


def slot(name, *shape, dtype=DType.F32, **more):
    return Slot(spec=TensorSpec(name, shape, dtype), **more)


def copy(name, *shape, source=None, why=SAME, **more):
    return Step(slot=slot(name, *shape), feeds=(Feed(source or name),), why=why, **more)


def fresh(name, *shape, why, **more):
    return Step(slot=slot(name, *shape), why=Why("shape", why), **more)


def unused(name, *shape, why, **more):
    return Unused(spec=TensorSpec(name, shape, DType.F32), why=Why("shape", why), **more)


def plan(steps, left=(), specs=None, **more):
    known = {f.key: TensorSpec(f.key, s.slot.spec.shape, DType.F32) for s in steps for f in s.feeds}
    known |= {one.spec.name: one.spec for one in left}
    return Plan(steps=tuple(steps), unused=tuple(left), source_specs=known | (specs or {}), **more)


def full():
    steps = [copy(f"layers.{n}.weight", 512, 512) for n in range(12)]
    return plan(steps, origin="model.safetensors", format="safetensors")


def changed_head():
    rows = "1000 rows in the file, 10 in the model"
    steps = [
        copy(f"layers.{n}.{leaf}", *shape) for n in range(6) for leaf, shape in (("weight", (8, 8)), ("bias", (8,)))
    ]
    steps += [fresh("fc.weight", 10, 8, why=rows), fresh("fc.bias", 10, why=rows)]
    left = [
        unused(f"fc.{leaf}", *shape, why=rows, network="state_dict")
        for leaf, shape in (("weight", (1000, 8)), ("bias", (1000,)))
    ]
    return plan(steps, left, origin="model.pth", format="torch zip", network="state_dict")


def converted():
    steps = [
        Step(
            slot=slot(f"blocks.{n}.attn.qkv.weight", 24, 8),
            feeds=tuple(Feed(f"layers.{n}.{part}_proj.weight") for part in "qkv"),
            ops=(Concat(0),),
            why=Why("fused", "q + k + v joined in that order"),
        )
        for n in range(12)
    ]
    steps += [
        copy(
            f"blocks.{n}.norm.{leaf}", 8, source=f"layers.{n}.ln.{other}",
            why=Why("sequence", f"layers.{n} stands where blocks.{n} does"), certainty=Certainty.DOUBT,
            alternatives=(Alternative((f"layers.{n}.ln2.{other}",), f"layers.{n}.ln2 has the same shapes"),),
        )
        for n in range(12) for leaf, other in (("weight", "gamma"), ("bias", "beta"))
    ]  # fmt: skip
    steps += [
        copy(
            f"blocks.{n}.fc.weight",
            8,
            8,
            source=f"layers.{n}.mlp.weight",
            why=Why("structure", "mlp corresponds to fc"),
        )
        for n in range(12)
    ]
    steps += [
        copy("embed.weight", 5, 8, source="module.embed.weight", why=Why("prefix", "'module.' read as nothing")),
        Step(slot=slot("vocab.weight", 7, 8), feeds=(Feed("vocab.weight"),), rows=Rows(0, tuple(range(5))),
             why=Why("grown rows", "5 rows copied, 2 new ones at the end stay fresh")),
        Step(slot=slot("gate", 1), ops=(Constant((1,), "float32", 0.0),), why=Why("user rule", "starts at zero, as you said")),
        Step(slot=slot("step", dtype=DType.I64, is_buffer=True), why=SAME, quiet=True),
    ]  # fmt: skip
    left = [
        unused("counter", why="computed from x", quiet=True),
        unused("evil\x1b[31m\n", 3, why="the model has no place for it", similar=("gate",)),
    ]
    specs = {"vocab.weight": TensorSpec("vocab.weight", (5, 8), DType.F32)}
    specs |= {f"layers.{n}.mlp.weight": TensorSpec(f"layers.{n}.mlp.weight", (8, 8), DType.F16) for n in range(12)}
    objections = (Objection("doubt", "blocks.0.norm is in doubt; settle it with rename=", ("blocks.0.norm.weight",)),)
    return plan(
        steps,
        left,
        specs,
        origin="hub.pt",
        format="torch zip",
        objections=objections,
        notes=("took 'model', the only network",),
        proof=Proof(
            inputs=1,
            relative=3e-7,
            tolerance=1e-4,
            passed=True,
            parts=(Part(module="stem", source_module="body", slots=("stem.weight",), relative=2e-7),),
            seal=Seal(inputs="", steps="ab", values="cd"),
        ),
    )


def report(made, *checks, **more):
    return Report(
        plan=made, checks=checks, cost=Cost(plan_seconds=0.01, apply_seconds=0.3, bytes_read=12_600_000), **more
    )


names = st.lists(
    st.sampled_from(["a", "b", "layers", "norm1", "0", "1", "2", "11", "007", "weight", "bias", "x\n", "{0-2}", "\udc80"]),
    min_size=1, max_size=5,
).map(".".join)  # fmt: skip
whys = st.builds(
    Why, st.sampled_from(["same name", "prefix", "structure"]), st.sampled_from(["same name", "it is 1 of 2", ""])
)
shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
others = st.lists(
    st.builds(Alternative, st.lists(names, max_size=8).map(tuple), st.sampled_from(["why 1", ""])), max_size=2
)


@st.composite
def steps(draw, name):
    shape = draw(shapes)
    feeds = tuple(Feed(key) for key in draw(st.lists(names, max_size=3)))
    ops = (Concat(0),) if len(feeds) > 1 else ()
    rows = Rows(0, tuple(range(shape[0] // 2))) if shape and feeds and draw(st.booleans()) else None
    return Step(
        slot=slot(name, *shape, persistent=draw(st.booleans())), feeds=feeds, ops=ops, rows=rows, why=draw(whys),
        certainty=draw(st.sampled_from(Certainty)), alternatives=tuple(draw(others)), quiet=draw(st.booleans()),
    )  # fmt: skip


@st.composite
def plans(draw):
    made = [draw(steps(name)) for name in draw(st.lists(names, unique=True, max_size=25))]
    left = [
        Unused(spec=TensorSpec(name, draw(shapes), DType.F16), why=draw(whys), quiet=draw(st.booleans()),
               similar=tuple(draw(st.lists(names, max_size=3))))
        for name in draw(st.lists(names, unique=True, max_size=12))
    ]  # fmt: skip
    return plan(made, left)
