"""Which tensors the outputs of two runs show: that a tensor is used on the way to them is not enough.

A key's bias in attention shifts all scores of a row by the same, and softmax takes it out again: outputs agree whatever it
is. So a tensor counts as shown if what is made with it at once is found in the source's run, too, or if the outputs
would change by more than the tolerance were it another. What is multiplied by zeros, or computed first (`weight * 0`), is no
sign of the tensor, so that the outputs alone are asked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from torchgraft.core.errors import UsageError
from torchgraft.core.families import family
from torchgraft.core.results.recording import Operation, Recording, Value
from torchgraft.core.types import Tensor
from torchgraft.verifying.divergence import Matches
from torchgraft.verifying.outputs import distance, paired
from torchgraft.verifying.proving.agreements import Agreed, Runs, module_of, weights_behind
from torchgraft.verifying.tracing.capture import influences

# Operations that hand on the entries of a tensor, in another order or another type.
_MOVES = frozenset(
    {"t", "transpose", "permute", "view", "_unsafe_view", "reshape", "expand", "clone", "_to_copy", "flip", "roll"}
)


def shown_by_outputs(ran: Runs, wanted: frozenset[str]) -> Agreed | None:
    """Return which of the `wanted` weights the outputs show that agree, None if no output does.

    Where it can't be told from the recordings, the target is run once more for gradients.
    """
    agreeing = {mine: (theirs, relative) for theirs, mine, relative in _agreeing(ran)}
    if not agreeing:
        return None
    matches, run = ran.matches, ran.mine
    bits = {name: 1 << at for at, name in enumerate(sorted(wanted))}
    behind = weights_behind(matches.target, bits)
    numbers = [n for name, n in zip(run.outputs, matches.target.outputs, strict=True) if name in agreeing]
    used = frozenset(name for name, bit in bits.items() if any(behind[n] & bit for n in numbers))
    shown = used & at_hand(matches)
    if doubtful := used - shown:
        felt = influences(ran.target.module, ran.target.given, doubtful, list(agreeing))
        shown |= {name for name, influence in felt.items() if influence > ran.measure.limit}
    first = next(iter(agreeing))
    theirs = ran.theirs.recording.outputs[list(ran.theirs.outputs).index(agreeing[first][0])]
    return Agreed(
        module=module_of(matches.target, numbers[0]),
        source_module=module_of(matches.source, theirs),
        weights=shown,
        relative=max(relative for _, relative in agreeing.values()),
    )


def _agreeing(ran: Runs) -> Iterator[tuple[str, str, float]]:
    """Yield (the source's name, the target's, relative difference) of outputs that agree and aren't one number throughout."""
    if ran.theirs.recording.failure or ran.mine.recording.failure:
        return
    try:
        pairs, _ = paired(ran.theirs.outputs, ran.mine.outputs)
    except UsageError:
        return
    for theirs, mine in pairs:
        value = ran.mine.outputs[mine]
        relative = distance(ran.theirs.outputs[theirs], value)[1]
        if relative <= ran.measure.limit and _says_something(value):
            yield theirs, mine, relative


def _says_something(value: Tensor) -> bool:
    return bool(value.is_floating_point() and value.numel() and (value != value.flatten()[0]).any())


def at_hand(matches: Matches) -> frozenset[str]:
    """Return the weights of the target whose very next result, or all that is picked from it, the source has, too."""
    recording = matches.target
    users = _users(recording)
    returned = frozenset(recording.outputs)
    held: dict[int, bool] = {}

    def is_held(number: int) -> bool:
        if number not in held:
            value = recording.values[number]
            look = value.fingerprint
            plain = number in matches.found and look is not None and not look.is_plain
            held[number] = plain or (value.live and number not in returned and picks_held(number))
        return held[number]

    def picks_held(number: int) -> bool:
        by = [recording.operations[at] for at in users.get(number, ())]
        if not by or not all(family(one.name) == "pick" for one in by):
            return False
        return all(is_held(n) for one in by for n in one.outputs if n in users or n in returned)

    found: set[str] = set()
    for operation in recording.operations:
        if any(_is_zero(recording.values[n]) for n in operation.inputs):
            continue
        used = [n for n in _read_by(operation) if _is_moved(recording, n)]
        names = {w for n in used for w in recording.values[n].weights} - found
        live = [n for n in operation.outputs if recording.values[n].live and (n in users or n in returned)]
        if names and live and all(map(is_held, live)):
            found |= names
    return frozenset(found)


def _read_by(operation: Operation) -> list[int]:
    """Return the inputs that a result can depend on: a norm that takes statistics of its input only writes running ones."""
    if not operation.settings.get("training"):
        return list(operation.inputs)
    named = zip(operation.arguments, operation.inputs, strict=False)
    return [number for argument, number in named if argument not in ("running_mean", "running_var")]


def _is_zero(value: Value) -> bool:
    """Return whether a value of the run is zero throughout: a weight that is multiplied by it may be any."""
    look = value.fingerprint
    return value.live and look is not None and look.least == look.greatest == look.huge == 0


def _is_moved(recording: Recording, number: int) -> bool:
    """Return whether a value is made of weights alone, and holds them as they are: what is computed may not depend on them."""
    value = recording.values[number]
    if value.live:
        return False
    if value.op < 0:
        return True
    made = recording.operations[value.op]
    moves = made.is_view or family(made.name) in ("pick", "join") or made.name in _MOVES
    return moves and all(_is_moved(recording, n) for n in made.inputs)


def _users(recording: Recording) -> Mapping[int, list[int]]:
    """Return the operations that use each value."""
    users: defaultdict[int, list[int]] = defaultdict(list)
    for at, operation in enumerate(recording.operations):
        for number in dict.fromkeys(operation.inputs):
            users[number].append(at)
    return dict(users)
