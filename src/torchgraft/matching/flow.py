"""A matching from end to end: the file section by section, then what the caller's rules displaced.

What is done with a section (read, pair, complete, review) is in `one_section`.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace

from torchgraft.core.match import Matching
from torchgraft.core.specs import TensorSpec
from torchgraft.matching.completing.copies import with_copies, with_stated_copies
from torchgraft.matching.completing.displaced import with_displaced_doubted
from torchgraft.matching.names.rules import Rules
from torchgraft.matching.names.said import said_of
from torchgraft.matching.names.second_names import by_telling_names
from torchgraft.matching.names.sections import keep_part, without_averages
from torchgraft.matching.one_section import Common, Known, match_section
from torchgraft.matching.parts.sides import targets_of
from torchgraft.matching.source_model import in_order
from torchgraft.matching.tables.stated import NOTHING, Models


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the caller asks for: rules for names, a part of the file, and slots that get their values in other ways.

    `prefer` is a segment of keys: of the part of the state dict to take, whose rest then serves only buffers that the part
    lacks. Slots in `filled` are filled by other means, those in `started` start as the caller said.
    """

    rules: Rules = field(default_factory=Rules)
    prefer: str | None = None
    filled: Container[str] = ()
    started: Container[str] = ()


NOTHING_ASKED, NOTHING_KNOWN = Asked(), Known()


def match(
    specs: Mapping[str, TensorSpec], models: Models, asked: Asked = NOTHING_ASKED, known: Known = NOTHING_KNOWN
) -> Matching:
    """Return who feeds whom, every claim with its ground and how sure it is.

    Raises:
        UsageError: a rule means nothing in the file or in the model, or contradicts another.
    """
    slots = models.target.slots
    names = [name for slot in slots for name in slot.names]
    rules, notes = asked.rules.checked([*specs, *known.placed], names, known.renamed)
    said = said_of(asked.rules, rules, slots, asked.started, specs)
    common = Common(specs=specs, models=models, said=said, known=known)
    found = _by_sections(common, asked)
    if asked.rules.says_something:
        unasked = said_of(Rules(), Rules(), slots, (), specs)
        found = with_displaced_doubted(found, said, lambda: _by_sections(replace(common, said=unasked), asked), specs)
    found = with_stated_copies(with_copies(found, slots, said.keeps), said.copied, slots)
    return replace(found, notes=(*found.notes, *notes))


def _by_sections(common: Common, asked: Asked) -> Matching:
    """Return who feeds whom, section by section: what is meant, averages beside it, what the caller doesn't prefer."""
    meant, averages, outside = _sections(common, asked)
    places = by_telling_names(targets_of(common.models), {key: spec.shape for key, spec in common.specs.items()})
    trained = common.said.trained
    places = [leaf for leaf in places if not any(key in asked.filled or key in trained for key in leaf.keys)]
    found = match_section(in_order(meant, common.models.source), places, common)
    if averages:
        found = _merged(found, match_section(averages, (), common))
    if outside:
        buffers = [leaf for leaf in found.free_targets if leaf.is_buffer]
        unstated = replace(common, models=replace(common.models, stated=NOTHING))
        found = _merged(found, match_section(outside, buffers, unstated))
    return found


def _sections(common: Common, asked: Asked) -> tuple[list[str], list[str], list[str]]:
    """Return the keys that are meant, those of averages of them, and those outside of the part that the caller prefers.

    Averages are set aside where nothing is said of any name.
    """
    rules = common.said.rules
    inside, outside = keep_part(common.specs, asked.prefer)
    if asked.prefer is not None or rules.rename or rules.fan_out or common.known.renamed:
        return inside, [], outside
    live, averages = without_averages(
        common.specs, [name for slot in common.models.target.slots for name in slot.names]
    )
    return live, averages, outside


def _merged(first: Matching, second: Matching) -> Matching:
    """Return what two sections say together; the first says which part of the file was chosen."""
    fed = {m.target.name for m in second.matches}
    return replace(
        first,
        matches=(*first.matches, *second.matches),
        free_targets=tuple(leaf for leaf in first.free_targets if leaf.name not in fed),
        free_sources=(*first.free_sources, *second.free_sources),
        derived={**first.derived, **second.derived},
    )
