"""Which tensors equal outputs prove: that a tensor is used on the way to them is not enough.

A key's bias in attention shifts all scores of a row by the same, and softmax takes it out again: outputs agree whatever it
is. So a tensor counts as shown if what is made with it at once is found in the source's run, too, in the same role and piece by
piece where only pieces are used; or if the outputs would change by more than the tolerance were it another. What is multiplied
by zeros, or computed first (`weight * 0`), is no sign of the tensor, so that the outputs alone are asked.
"""

from __future__ import annotations

from collections.abc import Iterator

from torchgraft.core.errors import UsageError
from torchgraft.core.results.recording import Operation, Recording, family
from torchgraft.core.types import Tensor
from torchgraft.verifying.divergence import Matches
from torchgraft.verifying.outputs import max_difference, pair_outputs
from torchgraft.verifying.proving.agreements import Agreement, RunPair, is_zero, producing_module, weights_behind
from torchgraft.verifying.proving.roles import Roles
from torchgraft.verifying.tracing.capture import output_sensitivity

# Operations that hand on the entries of a tensor, in another order or another type.
_REARRANGING = frozenset(
    {"t", "transpose", "permute", "view", "_unsafe_view", "reshape", "expand", "clone", "_to_copy", "flip", "roll"}
)


def proved_by_outputs(runs: RunPair, wanted: frozenset[str]) -> Agreement | None:
    """Return which of the `wanted` weights the outputs show that agree, None if no output does.

    Where it can't be told from the recordings, the target is run once more for gradients.
    """
    agreeing = {target: (source, relative) for source, target, relative in _agreeing_outputs(runs)}
    if not agreeing:
        return None
    matches, outputs = runs.matches, runs.target_run.outputs
    bits = {name: 1 << at for at, name in enumerate(sorted(wanted))}
    numbers = [n for name, n in zip(outputs, matches.target.outputs, strict=True) if name in agreeing]
    used, visible = (
        frozenset(name for name, bit in bits.items() if any(behind[n] & bit for n in numbers))
        for behind in (weights_behind(matches.target, bits, visible=only) for only in (False, True))
    )
    shown = visible & weights_with_matched_results(matches, in_parts=True)
    if open_ones := used - shown:
        sensitivity = output_sensitivity(runs.target.module, runs.target.given, open_ones, list(agreeing))
        shown |= {name for name, change in sensitivity.items() if change > runs.tolerance.limit}
    first_source = next(iter(agreeing.values()))[0]
    source_number = runs.source_run.recording.outputs[list(runs.source_run.outputs).index(first_source)]
    return Agreement(
        module=producing_module(matches.target, numbers[0]),
        source_module=producing_module(matches.source, source_number),
        weights=shown,
        relative=max(relative for _, relative in agreeing.values()),
    )


def _agreeing_outputs(runs: RunPair) -> Iterator[tuple[str, str, float]]:
    """Yield (the source's name, the target's, relative difference) of outputs that agree and aren't one number throughout."""
    if runs.source_run.recording.failure or runs.target_run.recording.failure:
        return
    try:
        pairs, _ = pair_outputs(runs.source_run.outputs, runs.target_run.outputs)
    except UsageError:
        return
    for source, target in pairs:
        value = runs.target_run.outputs[target]
        relative = max_difference(runs.source_run.outputs[source], value)[1]
        if relative <= runs.tolerance.limit and _varies(value):
            yield source, target, relative


def _varies(value: Tensor) -> bool:
    return bool(value.is_floating_point() and value.numel() and (value != value.flatten()[0]).any())


def weights_with_matched_results(matches: Matches, *, in_parts: bool = False) -> frozenset[str]:
    """Return the weights of the target whose next result is found in the source's run, whole or in the pieces that are used.

    What stands there in the role of another value counts for nothing. With `in_parts`, neither does a result that the source
    has as a whole where it hasn't all that is picked from it: the entries may stand in another order.
    """
    recording = matches.target
    results = _Results(matches, in_parts=in_parts)
    found: set[str] = set()
    for operation in recording.operations:
        if any(is_zero(recording.values[n]) for n in operation.inputs):
            continue
        used = [n for n in _inputs_that_matter(operation) if _is_weights_unchanged(recording, n)]
        names = {w for n in used for w in recording.values[n].weights} - found
        live = [n for n in operation.outputs if recording.values[n].live and results.is_used(n)]
        if names and live and all(map(results.is_matched, live)):
            found |= names
    return frozenset(found)


class _Results:
    """Which values of the target's run the source's has in the same role, whole or in all the pieces that are used."""

    def __init__(self, matches: Matches, *, in_parts: bool) -> None:
        self._matches = matches
        self._in_parts = in_parts
        self._roles = Roles(matches)
        self._users = matches.target.users()
        self._returned = frozenset(matches.target.outputs)
        self._known: dict[int, bool] = {}

    def is_used(self, number: int) -> bool:
        """Whether the run goes on with a value, or returns it."""
        return number in self._users or number in self._returned

    def is_matched(self, number: int) -> bool:
        """Whether the source's run has a value in this role."""
        if number not in self._known:
            self._known[number] = not self._roles.exchanged(number) and self._is_found(number)
        return self._known[number]

    def _is_found(self, number: int) -> bool:
        recording = self._matches.target
        value = recording.values[number]
        whole = number in self._matches.source_of and value.fingerprint is not None and not value.fingerprint.is_plain
        if whole and not self._in_parts:
            return True
        users = [recording.operations[at] for at in self._users.get(number, ())]
        if value.live and number not in self._returned and users and all(family(one.name) == "pick" for one in users):
            return all(self.is_matched(n) for one in users for n in one.outputs if self.is_used(n))
        return whole


def _inputs_that_matter(operation: Operation) -> list[int]:
    """Return the inputs that a result can depend on: a norm that takes statistics of its input only writes running ones."""
    if not operation.settings.get("training"):
        return list(operation.inputs)
    named = zip(operation.arguments, operation.inputs, strict=False)
    return [number for argument, number in named if argument not in ("running_mean", "running_var")]


def _is_weights_unchanged(recording: Recording, number: int) -> bool:
    """Return whether a value is made of weights alone, and holds them as they are: what is computed may not depend on them."""
    value = recording.values[number]
    if value.live:
        return False
    if value.op < 0:
        return True
    made = recording.operations[value.op]
    moves = made.is_view or family(made.name) in ("pick", "join") or made.name in _REARRANGING
    return moves and all(_is_weights_unchanged(recording, n) for n in made.inputs)
