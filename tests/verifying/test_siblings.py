"""What takes no part in a run, such as a counter, comes from the module that its neighbours were found to come from."""

from torchgraft.core.dtypes import DType
from torchgraft.core.plan import Feed, Plan, Step, Why
from torchgraft.core.specs import Slot, TensorSpec
from torchgraft.verifying.settling import follow_siblings

ROLES = ("weight", "bias", "num_batches_tracked")


def spec(name):
    return TensorSpec(name, () if name.endswith("tracked") else (4,), DType.F32)


def followed(moved, *, homes=("old.a", "old.b"), lacking=()):
    """Return which tensor feeds each slot of `new`, after the numbers moved `moved` of them, slot role by module."""
    specs = {name: spec(name) for home in homes for name in (f"{home}.{role}" for role in ROLES) if name not in lacking}
    steps = {}
    for role in ROLES:
        home, rule = (moved[role], "numbers") if role in moved else ("old.a", "same name")
        slot, why = Slot(spec=spec(f"new.{role}")), Why(rule, rule)
        steps[slot.name] = Step(slot=slot, feeds=(Feed(f"{home}.{role}"),), why=why, alternatives=("old.b",))
    follow_siblings(steps, Plan(steps=tuple(steps.values()), source_specs=specs))
    return {name: (step.feeds[0].key, step.why.rule) for name, step in steps.items()}


def test_a_counter_follows():
    found = followed({"weight": "old.b", "bias": "old.b"})
    assert found["new.num_batches_tracked"] == ("old.b.num_batches_tracked", "numbers")


def test_it_stays_where_its_neighbours_come_from_several_modules():
    found = followed({"weight": "old.b", "bias": "old.a"})
    assert found["new.num_batches_tracked"] == ("old.a.num_batches_tracked", "same name")


def test_it_stays_where_it_is_already_or_where_there_is_none():
    assert followed({"weight": "old.a"})["new.num_batches_tracked"] == ("old.a.num_batches_tracked", "same name")
    found = followed({"weight": "old.b", "bias": "old.b"}, lacking=("old.b.num_batches_tracked",))
    assert found["new.num_batches_tracked"] == ("old.a.num_batches_tracked", "same name")
