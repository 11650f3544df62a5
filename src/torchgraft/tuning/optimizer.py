"""Optimizer state that goes with the weights: carried over by name for what maps one to one, fresh for the rest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, takewhile
from typing import Any, NamedTuple

from torchgraft.core.errors import UsageError
from torchgraft.core.facts import CONVERTED
from torchgraft.core.formatting import counted, listed
from torchgraft.core.grounds import Ground
from torchgraft.core.names import EMA_SEGMENTS
from torchgraft.core.objects import a_kind
from torchgraft.core.places import places
from torchgraft.core.plan import Action, Plan, Step
from torchgraft.core.registration import as_registered
from torchgraft.core.results.report import Report
from torchgraft.core.specs import Shape, Source
from torchgraft.core.types import Module, Optimizer, Tensor
from torchgraft.tuning.eval_mode import UPDATED_BUFFERS
from torchgraft.tuning.fates import plan_of
from torchgraft.tuning.stored_optimizer import StoredOptimizer, assign_parameters, stored_optimizers
from torchgraft.tuning.stored_parts import require_optimized

SpreadLike = Callable[[Tensor, Tensor, str], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class CarriedState:
    """What became of the optimizer's state.

    `carried` maps each parameter that goes on with old state to the source's parameter whose state it was; `fresh` maps
    every other parameter of the optimizer to the reason. `dropped` are fields of the file that this optimizer lacks.
    """

    carried: Mapping[str, str] = field(default_factory=dict)
    fresh: Mapping[str, str] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()

    def __str__(self) -> str:
        kept, fresh = len(self.carried), len(self.fresh)
        text = (
            f"{counted(kept, 'parameter')} keep{'s' * (kept == 1)} the old one, {fresh} start{'s' * (fresh == 1)} fresh"
        )
        lines = [f"optimizer state: {text}"]
        reasons: dict[str, list[str]] = {}
        for name, why in self.fresh.items():
            reasons.setdefault(why, []).append(name)
        lines += [f"  fresh, {why}: {listed(names)}" for why, names in reasons.items()]
        lines += [f"  not used: {', '.join(self.dropped)}"] if self.dropped else []
        return "\n".join(lines)


def carry_state(  # noqa: PLR0913  # one per choice
    model: Module,
    optimizer: Optimizer,
    report: Report | Plan,
    source: Source,
    *,
    prefer: str | None = None,
    names: Sequence[str] | None = None,
    spread_like: SpreadLike,
) -> CarriedState:
    """Put the old optimizer's state of every parameter that was copied unchanged into `optimizer`; all or nothing.

    Learning rates and other settings stay those of `optimizer`. See torchgraft.optimizer_state for the arguments;
    `spread_like` makes of a tensor one that is spread over processes as another is, whose name comes third.

    Raises:
        UsageError: the state can't be told apart, belongs to another kind of optimizer, or to other parameters.
        CheckpointError: the file can't be read.
    """
    plan = plan_of(report)
    if not hasattr(optimizer, "param_groups"):
        raise UsageError(f"optimizer is {a_kind(optimizer)}: give a torch.optim.Optimizer over the model's parameters")
    _require_unconverted(plan)
    stored, stored_number = _choose(source, plan, prefer, names)
    parameters = _parameters_of(optimizer, model, plan)
    probe = _StateProbe(type(optimizer))
    carried, fresh, states = {}, {}, []
    dropped: set[str] = set()
    for one in parameters:
        reason = _reason_for_fresh(one, stored, stored_number)
        if reason:
            fresh[one.name] = reason
            continue
        key = one.step.feeds[0].key  # type: ignore[union-attr]  # a copy has one feed
        state = _read_state(source, stored, stored_number[key], one, spread_like)
        kept = _in_form_of(state, probe.fields(one.group, one.tensor.dim()), stored, type(optimizer).__name__)
        dropped |= set(state) - set(kept)
        if kept:
            carried[one.name] = key
            states.append((one.tensor, kept))
        else:
            fresh[one.name] = "this optimizer keeps no state"
    for one in parameters:
        optimizer.state.pop(one.tensor, None)
    optimizer.state.update(states)
    return CarriedState(carried=carried, fresh=fresh, dropped=tuple(sorted(dropped)))


def _require_unconverted(plan: Plan) -> None:
    """Raise UsageError for a plan whose source was converted: its order and values are not those of the old optimizer."""
    if plan.format.endswith(CONVERTED):
        raise UsageError(
            "the checkpoint was loaded through a learned conversion, which may change the order and the values of its tensors; "
            "the optimizer's state is for what they were before: load with rename= in place of learned=, or start this "
            "optimizer fresh"
        )


def _choose(
    source: Source, plan: Plan, prefer: str | None, names: Sequence[str] | None
) -> tuple[StoredOptimizer, dict[str, str]]:
    """Return the state that is meant, and source parameter -> number in it."""
    found = stored_optimizers(source)
    wanted = [stored for stored in found if prefer in (None, stored.label) or prefer in stored.label.split("/")]
    if not wanted:
        there = ", ".join(repr(stored.label) for stored in found)
        instead = "if it lies in a file beside it (optimizer.pt, optimizer.bin), give that"
        if there:
            instead = f"it has {there}"
        elif _holds_empty_state(source.metadata):
            instead = (
                "its optimizer had none yet: SGD without momentum keeps none, others none before their first step; "
                "nothing is lost"
            )
        raise UsageError(
            f"{source.origin}: no optimizer state{'' if prefer is None else f' {prefer!r}'} in it; {instead}"
        )
    shapes = _source_parameters(plan, source)
    stored, assigned = _fitting(wanted, shapes, names, plan, source)
    if names is None:
        require_optimized(stored, assigned, shapes, plan.network, source)
    return stored, assigned


def _holds_empty_state(facts: Mapping[str, object]) -> bool:
    """Whether the state beside the weights is that of an optimizer that keeps nothing for its parameters."""
    several = [one for fact in facts.values() for one in (fact if isinstance(fact, list) else [fact])]
    return any(isinstance(one, dict) and one.get("param_groups") and one.get("state") == {} for one in several)


def _fitting(
    wanted: Sequence[StoredOptimizer],
    shapes: Mapping[str, Shape],
    names: Sequence[str] | None,
    plan: Plan,
    source: Source,
) -> tuple[StoredOptimizer, dict[str, str]]:
    """Return the one state that fits the source's parameters, and source parameter -> number in it."""
    if len(wanted) == 1:
        return wanted[0], _assigned(wanted[0], shapes, names, plan)
    fitting = []
    for stored in wanted:
        try:
            fitting.append((stored, _assigned(stored, shapes, names, plan)))
        except UsageError:
            continue
    if len(fitting) != 1:
        labels = ", ".join(repr(stored.label) for stored in wanted)
        raise UsageError(f"{source.origin} holds the state of several optimizers ({labels}); choose one with prefer=")
    return fitting[0]


def _assigned(
    stored: StoredOptimizer, shapes: Mapping[str, Shape], names: Sequence[str] | None, plan: Plan
) -> dict[str, str]:
    """Return source parameter -> number.

    Raises:
        UsageError: only their order could tell, and the file is sorted by name (safetensors files are).
    """
    if names is None and not stored.has_names and _has_lost_order(plan, shapes):
        raise UsageError(
            "the checkpoint's tensors are sorted by name, so the order in which the old optimizer numbered its parameters is "
            "lost; give names= (in the order of the old optimizer's groups; [name for name, _ in model.named_parameters()], if "
            "it had one group and this model registers its parameters as the old one did)"
        )
    for part in _parts(plan, shapes):
        inside = {name: shape for name, shape in shapes.items() if name.startswith(part)}
        if names is not None and all(part + name in inside for name in names):
            return assign_parameters(stored, shapes, [part + name for name in names])
        if names is None and len(inside) == len(stored.order):
            return assign_parameters(stored, inside, None)
    return assign_parameters(stored, shapes, names)


def _has_lost_order(plan: Plan, shapes: Mapping[str, Shape]) -> bool:
    """Whether the parameters in `shapes` may have been registered in another order than the checkpoint has them in.

    Sorted is registered where the model registers them all so; in formats that keep the order, also where it has but some of
    them. Shards of a few tensors each don't show that they are sorted.
    """
    stored_apart = plan.format == "safetensors shards"
    if not stored_apart and as_registered((key, spec.dtype) for key, spec in plan.source_specs.items()):
        return False
    fed = list(dict.fromkeys(s.feeds[0].key for s in plan.copied if s.feeds[0].key in shapes))
    wanted = set(fed)
    known = [key for key in shapes if key in wanted]
    return fed != known or (plan.format.startswith("safetensors") and len(fed) < len(shapes))


def _parts(plan: Plan, shapes: Mapping[str, Shape]) -> Iterator[str]:
    """Return the prefixes of the parts of the checkpoint from which all comes that was copied, the widest first.

    An optimizer's state is for live weights: a part that holds averages of them is none.
    """
    fed = [step.feeds[0].key for step in plan.copied if step.feeds[0].key in shapes]
    paths = accumulate(f"{segment}." for segment in fed[0].split(".")[:-1]) if fed else ()
    around = takewhile(lambda path: all(key.startswith(path) for key in fed), paths)
    return (part for part in ("", *around) if not EMA_SEGMENTS & set(part.split(".")))


def _source_parameters(plan: Plan, source: Source) -> dict[str, Shape]:
    """Return name -> shape of the source's parameters in registration order: buffers and second names left out."""
    network = next((n for n in source.networks if n.path == plan.network and n.specs == plan.source_specs), None)
    excluded = set(network.shared or ()) if network else set()
    excluded |= {u.spec.name for u in plan.unused if u.why.rule == Ground.ALIAS}
    fed = [step for step in plan.steps if step.action is Action.COPY]
    excluded |= {step.feeds[0].key for step in fed if step.slot.is_buffer}
    return {
        key: spec.shape
        for key, spec in plan.source_specs.items()
        if key not in excluded
        and spec.dtype.kind in ("float", "complex")
        and key.rpartition(".")[2] not in UPDATED_BUFFERS
    }


class _Parameter(NamedTuple):
    """A parameter of the new optimizer, with its group there and its step in the plan (None: the plan doesn't know it)."""

    name: str
    tensor: Tensor
    group: dict[str, Any]
    step: Step | None


def _parameters_of(optimizer: Optimizer, model: Module, plan: Plan) -> list[_Parameter]:
    names: defaultdict[int, list[str]] = defaultdict(list)
    for place in places(model):
        names[id(place.tensor)].append(place.name)
    out: list[_Parameter] = []
    for number, group in enumerate(optimizer.param_groups):
        for at, parameter in enumerate(group["params"]):
            own = names.get(id(parameter), [])
            step = next((plan.by_name[name] for name in own if name in plan.by_name), None)
            label = own[0] if own else f"group {number}, parameter {at}"
            if parameter.is_meta:
                raise UsageError(f"{label} is on the meta device: load the model, then make the optimizer")
            out.append(_Parameter(label, parameter, group, step))
    if not any(one.step for one in out):
        raise UsageError("the optimizer has no parameter of the model that was loaded: build it from this model")
    return out


def _reason_for_fresh(parameter: _Parameter, stored: StoredOptimizer, stored_number: Mapping[str, str]) -> str:
    """Return why a parameter starts fresh, or nothing."""
    step = parameter.step
    if step is None or step.slot.spec.shape != tuple(parameter.tensor.shape):
        return "the report doesn't know it"
    if step.action is Action.FRESH:
        return "not loaded"
    if step.action is Action.ADAPT:
        return "adapted: the old state is for other values"
    number = stored_number.get(step.feeds[0].key)
    if number is None:
        return "the old optimizer didn't have it"
    return "" if number in stored.fields else "the file holds no state for it"


class _StateProbe:
    """What an optimizer keeps for a parameter, found out by one step of a copy on a stand-in parameter."""

    def __init__(self, kind: Callable[..., Optimizer]) -> None:
        self._kind = kind
        self._known: dict[tuple[int, int], dict[str, Any] | None] = {}

    def fields(self, group: Mapping[str, Any], axes: int) -> dict[str, Any] | None:
        """Return the state after one step of a parameter with so many axes in such a group.

        None where it can't be known: it needs a closure, other arguments, or a device that is not there.
        """
        at = (id(group), axes)
        if at not in self._known:
            self._known[at] = self._tried(group, axes)
        return self._known[at]

    def _tried(self, group: Mapping[str, Any], axes: int) -> dict[str, Any] | None:
        import torch

        settings = {k: v for k, v in group.items() if k not in ("params", "param_names")}
        probe = torch.nn.Parameter(torch.zeros((2,) * axes, device="cpu"))
        probe.grad = torch.zeros_like(probe)
        try:
            twin = self._kind([{**settings, "params": [probe]}])
            twin.step()
        except Exception:  # noqa: BLE001  # the optimizer's own code; what it keeps then stays unknown
            return None
        return {name: value for name, value in twin.state[probe].items() if value is not None}


def _in_form_of(
    state: dict[str, Any], expected: Mapping[str, Any] | None, stored: StoredOptimizer, kind: str
) -> dict[str, Any]:
    """Return the fields that the new optimizer keeps, numbers as tensors or plain as it keeps them.

    Raises:
        UsageError: it keeps fields that the file lacks.
    """
    if expected is None:
        return state
    if not set(expected) <= set(state):
        raise UsageError(
            f"optimizer state {stored.label!r} keeps {', '.join(sorted(state))}, {kind} keeps "
            f"{', '.join(sorted(expected))}: it is of another kind of optimizer, or of other settings"
        )
    return {name: _in_type_of(state[name], value) for name, value in expected.items()}


def _in_type_of(value: Any, sample: Any) -> Any:
    """Return a number as a tensor where `sample` is one, and as a plain number where it is not."""
    import torch

    if isinstance(sample, torch.Tensor):
        return (
            value if isinstance(value, torch.Tensor) else torch.tensor(float(value), dtype=sample.dtype, device="cpu")
        )
    plain = value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else value
    return type(sample)(plain) if isinstance(sample, (int, float)) else plain


def _read_state(
    source: Source, stored: StoredOptimizer, number: str, parameter: _Parameter, spread_like: SpreadLike
) -> dict[str, Any]:
    """Return the state of one parameter where it is, on its device and in its type, in memory of its own.

    The step stays in float32 on the CPU unless the optimizer counts on the device, as torch's own
    `Optimizer.load_state_dict` has it.
    """
    state: dict[str, Any] = dict(stored.numbers.get(number, {}))
    for name in stored.fields[number]:
        value = source.read(stored.network, stored.key(number, name)).detach()
        dtype = parameter.tensor.dtype if value.is_floating_point() and name != "step" else value.dtype
        on_device = name != "step" or parameter.group.get("capturable") or parameter.group.get("fused")
        if value.ndim:
            value = spread_like(value, parameter.tensor, parameter.name)
        state[name] = value.to(parameter.tensor.device if on_device else "cpu", dtype, copy=True)
    return state
