"""Everything that speaks against a plan, as facts with both sides and the remedy. The policy decides later."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from torchgraft.adapting.adapter_names import OTHER_ADAPTERS, adapted_network, are_mergeable, is_adapter
from torchgraft.adapting.coverage import ANOTHER_FILE, coverage_objections, other_variant
from torchgraft.adapting.orientation import last_list
from torchgraft.adapting.rotary import is_named, names_differ
from torchgraft.adapting.tables import FLATTENED, PACKED_ROLES
from torchgraft.core.dtypes import DType
from torchgraft.core.errors import printable
from torchgraft.core.formatting import listed, tensors
from torchgraft.core.grounds import Ground
from torchgraft.core.names import ends, patterns_of
from torchgraft.core.objections import Objection
from torchgraft.core.plan import Action, Plan, Step
from torchgraft.core.policy import Verdict
from torchgraft.core.specs import TensorSpec
from torchgraft.ops import RotaryLayout

# An argument that a text names.
OPTION = re.compile(r"\b[a-z]+(?:_[a-z]+)*=(?!=)")
MOST_RULES = 3
DEQUANTISE = "dequantise the file with the library that packed it"


def objections_to(plan: Plan) -> tuple[Objection, ...]:
    """Return all objections to a plan, most serious first."""
    partial = tuple(_partial(plan))
    coverage = () if partial else tuple(coverage_objections(plan))
    hindered = _is_hindered(plan)
    return (
        *partial,
        *packed(plan),
        *(() if hindered else coverage),
        *_adapters(plan),
        *_rotary(plan),
        *_doubt(plan),
        *(coverage if hindered else ()),
        *_lossy(plan),
        *_missing(plan),
        *_unused(plan),
    )


def _is_hindered(plan: Plan) -> bool:
    """Whether most of the model can't be filled from what corresponds to it, as doubts say: little coverage comes of that."""
    hindered = sum(step.slot.spec.numel for step in plan.doubtful if not (step.feeds or step.ops))
    return 2 * hindered > plan.coverage.target_elements


def _partial(plan: Plan) -> Iterator[Objection]:
    """The file of one of several processes: parameters that others hold are empty, or all are one flat tensor."""
    flat = tuple(key for key in plan.source_specs if "flat_param" in key and FLATTENED & set(key.split(".")))
    if flat:
        yield Objection(
            "partial",
            f"{listed(flat)}: parameters flattened and shared out by FSDP, of which a file holds one process's share",
            flat,
            "gather them before saving (StateDictType.FULL_STATE_DICT), or put all shares together with "
            "torch.distributed.checkpoint",
        )
    empty = [key for key, spec in plan.source_specs.items() if 0 in spec.shape]
    wanted = {name: step for step in plan.steps if step.slot.spec.numel for name in step.slot.names} if empty else {}
    lost = {key: wanted[end] for key in empty for end in ends(key) if end in wanted}
    if lost:
        key, step = next(iter(lost.items()))
        shapes = f"{list(plan.source_specs[key].shape)} in the file, {list(step.slot.spec.shape)} in the model"
        yield Objection(
            "partial",
            f"{tensors(len(lost))} of the file {'is' if len(lost) == 1 else 'are'} empty where the model's are not, e.g. "
            f"{printable(key)} ({shapes}): saved by one of several processes that shared the parameters out (ZeRO-3, FSDP)",
            tuple(lost),
            "gather them before saving, or convert the shares with the tool of the trainer (zero_to_fp32.py)",
        )


def _adapters(plan: Plan) -> Iterator[Objection]:
    merged = {
        adapted_network(feed.key) for step in plan.steps if step.why.rule == Ground.ADAPTER for feed in step.feeds
    }
    left = [u.spec.name for u in plan.unused if is_adapter(u.spec.name)]
    names = tuple(name for name in left if adapted_network(name) not in merged)
    if names and plan.coverage.target_filled:
        why = "the model has nothing of the networks of these names" if merged else "the weights are those without them"
        said = f"{tensors(len(names))} of adapters in the file {'is' if len(names) == 1 else 'are'} not merged"
        shown = listed([adapted_network(name) for name in names] if merged else names)
        more = "merge_lora=True adds them" if are_mergeable(names) else OTHER_ADAPTERS
        yield Objection("adapters", f"{said}: {shown}; {why}", names, "" if merged else more)


def _rotary(plan: Plan) -> Iterator[Objection]:
    """The two sides name queries and keys by different conventions: the rows may be in another order."""
    names = []
    for step in plan.steps:
        own = step.slot.owner
        if len(step.feeds) < 2 and not is_named(own):
            continue  # the one feed can't be of both conventions
        if any(isinstance(op, RotaryLayout) for feed in step.feeds for op in (*feed.ops, *step.ops)):
            continue
        if names_differ(own, *(feed.key.rpartition(".")[0] for feed in step.feeds)):
            names.append(step.slot.name)
    if names:
        yield Objection(
            "rotary",
            f"{listed(names)}: if the model has rotary embeddings, names like wq and wk go with rows in pairs beside each "
            "other, and q_proj and k_proj with pairs half a head apart; the rows are copied as they are",
            tuple(names),
            "convert the file with the script of the model's library first, unless you know that both sides agree",
        )


def _doubt(plan: Plan) -> Iterator[Objection]:
    """Yield one objection for each reason of doubt; only one for a file of another variant, which explains them all."""
    groups: dict[str, list[Step]] = {}
    for step in plan.doubtful:
        if step.why.rule == Ground.QUANTISED:
            continue  # has an objection of its own
        groups.setdefault(step.why.doubt or step.why.text, []).append(step)
    variant = other_variant(plan) if groups else ""
    if variant and len(groups) > 1:
        names = tuple(step.slot.name for steps in groups.values() for step in steps)
        fact = f"{variant}. So {tensors(len(names))} are in doubt: {listed(names, 3)}"
        yield Objection(
            "doubt", fact, names, f"{ANOTHER_FILE}; or keep all that is in doubt fresh with on_doubt='skip'"
        )
        return
    for text, steps in groups.items():
        names = tuple(s.slot.name for s in steps)
        fact = _doubtful(names, steps, text)
        patterns = patterns_of(names, _filled_names(plan))
        if patterns:
            fact = fact.replace("grow_rows=)", f"grow_rows={patterns})")
        way_out = _which_layers(plan, steps) + _way_out(text, patterns, steps, _as_read(plan, steps))
        if variant:
            fact, way_out = f"{variant}. So {fact}", f"{ANOTHER_FILE}; {way_out}"
        yield Objection("doubt", fact, names, way_out)


def _doubtful(names: Sequence[str], steps: Sequence[Step], text: str) -> str:
    """Return in words which slots are in doubt, what would feed them, why, and what else could."""
    fed = [feed.key for step in steps for feed in step.feeds]
    source = f" <- {listed(fed, 3)}" if fed and fed != list(names) else ""
    others = [key for step in steps if step.alternatives for key in step.alternatives[0].keys]
    hint = f"; or else from {listed(others, 2)}" if others else ""
    return f"{listed(names)}{source} {'is' if len(steps) == 1 else 'are'} in doubt: {text}{hint}"


def _which_layers(plan: Plan, steps: Iterable[Step]) -> str:
    """Return the argument that says which layers of the file are meant, "" where the doubt is none about layers of a longer list.

    It is one where two members of a list of the file could be the same layer, the model's list is shorter, and not all
    members are used: else two lists of the model may be one of the file.
    """
    for step in steps:
        if not (step.feeds and step.alternatives and step.alternatives[0].keys):
            continue
        key = step.feeds[0].key
        path = _list_apart(key, step.alternatives[0].keys[0])
        ours = _list_there(step.slot.name, key.count(".") - path.count("."))
        theirs = _members(path, plan.source_specs)
        here = _members(ours, (one.slot.name for one in plan.steps))
        if path and ours and theirs > here and theirs > _members(path, _used_keys(plan)):
            return f"layers= says which {here} of the file's {theirs} in {printable(path)} are meant; or "
    return ""


def _list_there(name: str, inside: int) -> str:
    """Return the path of the list whose number is `inside` segments from the end of a name; else of the last list in it."""
    segments = name.split(".")
    if inside < len(segments) and segments[-inside].isdecimal():
        return ".".join(segments[:-inside])
    return last_list(name)[0]


def _list_apart(one: str, other: str) -> str:
    """Return the path of the list in whose number alone two names differ, "" where they differ otherwise."""
    a, b = one.split("."), other.split(".")
    apart = [at for at, pair in enumerate(zip(a, b, strict=False)) if pair[0] != pair[1]]
    if len(a) != len(b) or len(apart) != 1 or not (a[apart[0]].isdecimal() and b[apart[0]].isdecimal()):
        return ""
    return ".".join(a[: apart[0]])


def _members(path: str, names: Iterable[str]) -> int:
    """Return how many members the list at a path has."""
    return len({name[len(path) + 1 :].partition(".")[0] for name in names if name.startswith(f"{path}.")})


def _used_keys(plan: Plan) -> Iterator[str]:
    """Yield the keys of the file that feed something."""
    return (feed.key for step in plan.steps for feed in step.feeds)


def _filled_names(plan: Plan) -> Iterator[str]:
    """Yield the names of all slots that don't stay fresh anyway."""
    return (name for step in plan.steps if step.action is not Action.FRESH for name in step.slot.names)


def _as_read(plan: Plan, steps: Iterable[Step]) -> Mapping[str, str]:
    """Return rules of `rename` that confirm what is in doubt as it was read; none where that takes many of them.

    A rule is for everything that the file has under a name, so all of that must be in doubt.
    """
    rules: dict[str, str] = {}
    fed = set()
    for step in steps:
        if len(step.feeds) != 1 or step.feeds[0].key in step.slot.names:
            return {}
        key, name = step.feeds[0].key.split("."), step.slot.name.split(".")
        while len(key) > 1 and len(name) > 1 and key[-1] == name[-1]:
            del key[-1], name[-1]
        if rules.setdefault(".".join(key), ".".join(name)) != ".".join(name):
            return {}
        fed.add(step.feeds[0].key)
    known = len(rules) <= MOST_RULES and not any("{" in name for pair in rules.items() for name in pair)
    meant = known and all(key in fed for key in plan.source_specs for old in rules if f"{key}.".startswith(f"{old}."))
    return rules if meant else {}


def _way_out(text: str, patterns: Sequence[str], steps: Sequence[Step], rules: Mapping[str, str]) -> str:
    """Return what settles a doubt about `steps`: an argument that `text` doesn't name yet.

    `patterns` cover what they fill, if few do; `rules` of `rename` say that it is as it was read.
    """
    them = "it" if len(steps) == 1 else "them"
    fresh = (
        f"keep {them} fresh with fresh={patterns}"
        if patterns
        else "keep all that is in doubt fresh with on_doubt='skip'"
    )
    take = "take this reading with on_doubt='take'"
    readable = any(step.feeds or step.ops for step in steps)
    if OPTION.search(text):
        return f"or {fresh}, or {take}" if readable else f"or {fresh}"
    if not readable:
        return fresh
    # for each other reading: is it of other tensors (True), or of the same ones in another layout (False)?
    apart = {
        set(other.keys).isdisjoint(feed.key for feed in step.feeds) for step in steps for other in step.alternatives
    }
    turned = all(len(shape := step.slot.spec.shape) == 2 and shape[0] == shape[1] for step in steps)
    layout = f"permute={dict.fromkeys(patterns, (1, 0))}" if turned and patterns else "permute="
    tensor = f"rename={rules} (this tensor, or another)" if rules else "rename= (which tensor)"
    ways = [tensor] * (apart != {False}) + [f"{layout} (which layout)"] * (apart != {True})
    return f"settle it with {' or '.join(ways)}, {fresh}, or {take}"


def _lossy(plan: Plan) -> Iterator[Objection]:
    kinds = {spec.dtype for spec in plan.source_specs.values()} | {step.slot.spec.dtype for step in plan.steps}
    for step in plan.steps if len(kinds) > 1 else ():
        if not step.feeds or not step.feeds[0].key:
            continue
        stored = plan.source_specs[step.feeds[0].key].dtype
        wanted = step.slot.spec.dtype
        if stored is wanted:
            continue
        order = {"bool": 0, "uint": 1, "int": 1, "float": 2, "complex": 3}
        if order[stored.kind] > order[wanted.kind] and not step.ops:
            fact = (
                f"{printable(step.slot.name)} is {wanted} in the model and {stored} in the file: the cast loses values"
            )
            yield Objection(
                "lossy",
                fact,
                (step.slot.name,),
                f"keep it fresh with fresh={[step.slot.name]}, or allow it with policy=tg.Policy(lossy=tg.Verdict.ACCEPT)",
            )


def _missing(plan: Plan) -> Iterator[Objection]:
    names = tuple(s.slot.name for s in plan.fresh if s.why.rule != Ground.USER_RULE)
    if names:
        refused = plan.policy.verdict("missing") is Verdict.REFUSE
        patterns = patterns_of(names, _filled_names(plan)) if refused else []
        remedy = f"if that is meant, say fresh={patterns}" if patterns else "name them in fresh= if that is meant"
        yield Objection(
            "missing",
            f"{tensors(len(names))} of the model {'stays' if len(names) == 1 else 'stay'} fresh: {listed(names)}",
            names,
            remedy,
        )


def _unused(plan: Plan) -> Iterator[Objection]:
    names = tuple(u.spec.name for u in plan.unused if not u.quiet)
    if names:
        yield Objection(
            "unused",
            f"{tensors(len(names))} of the checkpoint {'finds' if len(names) == 1 else 'find'} no place: {listed(names)}",
            names,
        )


def packed(plan: Plan) -> Iterator[Objection]:
    """Yield what is packed in a way that can't be decoded, and values that stand for others by a scale that is missing."""
    known = [s for s in plan.steps if s.why.rule == Ground.QUANTISED]
    names = tuple(s.slot.name for s in known)
    if names:
        text = known[0].why.text
        yield Objection("quantised", f"{listed(names)}: {text}", names, DEQUANTISE)
    unknown = tuple(u.spec.name for u in plan.unused if _is_packed(u.spec, plan))
    if unknown:
        yield Objection(
            "quantised",
            f"{listed(unknown)}: packed (quantised) weights, which are not decoded",
            unknown,
            DEQUANTISE,
        )
    told = {s.why.text for s in known}
    other = [u for u in plan.unused if u.why.rule == Ground.SHAPE and u.why.text not in told]
    whole = tuple([u.spec.name for u in other if _is_integer_weight(u.spec)])
    if whole:
        yield Objection(
            "quantised",
            f"{listed(whole)}: whole numbers in the file where the model has a weight of another shape, as quantised weights "
            "are packed",
            whole,
            DEQUANTISE,
        )
    yield from _unscaled(plan)
    yield from _uncut(plan)


def _uncut(plan: Plan) -> Iterator[Objection]:
    """Scaled weights are matched whole: one that holds the parts of a module leaves those fresh, though the file has them."""
    scaled = {u.spec.name: held for u in plan.unused if (held := _values_scaled(u.spec, plan))}
    parts: dict[tuple[object, ...], list[int]] = {}
    for step in plan.fresh if scaled else ():
        if step.why.rule == Ground.NO_COUNTERPART and len(step.slot.spec.shape) > 1:
            around = (step.slot.owner.rpartition(".")[0], *step.slot.spec.shape[1:])
            parts.setdefault(around, []).append(step.slot.spec.numel)
    joined = {sum(sizes) for sizes in parts.values() if len(sizes) > 1}
    names = tuple(name for name, held in scaled.items() if held in joined)
    if names:
        yield Objection(
            "quantised",
            f"{listed(names)}: scaled numbers, as many as weights of the model that stay fresh have together: scaled weights are "
            "not cut into parts",
            names,
            DEQUANTISE,
        )


def _values_scaled(spec: TensorSpec, plan: Plan) -> int:
    """Return how many values a weight of scaled numbers has, 8-bit floats or packed codes of 4 bits; 0 for other tensors."""
    if len(spec.shape) > 1 and spec.dtype.label.startswith("float8"):
        return spec.numel
    return 2 * spec.numel if spec.dtype is DType.U8 and f"{spec.name}.absmax" in plan.source_specs else 0


def _is_packed(spec: TensorSpec, plan: Plan) -> bool:
    """Return whether a tensor is packed by its name, or is bytes called blocks beside their scales (MXFP4 of gpt-oss)."""
    stem = spec.name.removesuffix("_blocks")
    blocks = stem != spec.name and spec.dtype is DType.U8 and f"{stem}_scales" in plan.source_specs
    return blocks or spec.name.rpartition(".")[2] in PACKED_ROLES


def _is_integer_weight(spec: TensorSpec) -> bool:
    return spec.name.rpartition(".")[2] == "weight" and spec.dtype.kind in ("int", "uint")


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
                f"{listed(names)}: {said} in the file, which no scale that is known here turns into weights",
                names,
                f"{DEQUANTISE}, or, if these are the weights, say policy=tg.Policy(quantised=tg.Verdict.ACCEPT)",
            )


def _stored(step: Step, plan: Plan) -> str:
    spec = plan.source_specs.get(step.feeds[0].key)
    return str(spec.dtype) if spec and spec.numel > 1 else ""


def _is_wider(step: Step) -> bool:
    return step.slot.spec.dtype.is_float and step.slot.spec.dtype.itemsize > 1


def _decoded(step: Step) -> bool:
    ops = [*step.ops, *(op for feed in step.feeds for op in feed.ops)]
    return any(op.to_dict()["op"] in ("dequant_blocks", "dequant_4bit") for op in ops)
