"""Lists of names in a checkpoint that say what rows mean: classes, tokens, speakers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torchgraft.core.errors import printable
from torchgraft.core.listing import listed
from torchgraft.core.plan import Action, Plan

# What such lists are called: OpenMMLab's CLASSES, Ultralytics' names, transformers' id2label, torchtext's itos, ESPnet's
# token_list.
LISTS = frozenset({
    "classes", "class_names", "names", "labels", "label_names", "id2label", "categories", "vocab", "tokens", "itos",
    "token_list", "speakers",
})  # fmt: skip
DEEPEST = 4
MOST = 3


def row_meaning(plan: Plan, facts: Mapping[str, object]) -> Iterator[str]:
    """Yield that the file says what the rows of some copied tensors mean, which nobody has compared with the model's.

    `facts` is what lies beside the tensors. A dictionary of other names, or in another order, has the same shapes.
    """
    for path, names in _lists(facts):
        rows = tuple(
            s.slot.name for s in plan.steps
            if s.slot.role == "weight" and len(s.slot.spec.shape) > 1 and s.slot.spec.shape[0] == len(names)
            and s.action is Action.COPY
        )  # fmt: skip
        if 0 < len(rows) <= MOST:
            first = ", ".join(repr(printable(name, 20)) for name in names[:2])
            yield (
                f"the file names {len(names)} rows ({printable(path)}: {first}, …), as many as there are in {listed(rows)}: whether "
                "the model's mean the same was not checked; class_names= moves rows by their names"
            )


def _lists(facts: object, path: str = "", depth: int = 0) -> Iterator[tuple[str, list[str]]]:
    """Yield the path of each list of names, and the names in the order of the rows."""
    if not isinstance(facts, dict) or depth > DEEPEST:
        return
    for key, value in facts.items():
        if isinstance(key, str):
            here = f"{path}/{key}" if path else key
            names = _names(value) if key.lower() in LISTS else []
            if names:
                yield here, names
            else:
                yield from _lists(value, here, depth + 1)


def _names(value: object) -> list[str]:
    """Return names in the order of their rows; nothing for what is no list of several."""
    if isinstance(value, dict) and all(str(key).isdecimal() for key in value):
        value = [value[key] for key in sorted(value, key=lambda key: int(str(key)))]
    if not isinstance(value, list | tuple) or len(value) < 2 or not all(isinstance(name, str) for name in value):
        return []
    names = list(value)
    unnamed = [f"LABEL_{row}" for row in range(len(names))]  # what transformers calls classes that nobody named
    return [] if names == unnamed else names
