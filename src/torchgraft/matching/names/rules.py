"""The caller's rules for names (`rename=`, `fan_out=`, `layers=` ...), applied to those of the file before anything is matched."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches

from torchgraft.core.errors import UsageError, printable
from torchgraft.core.formatting import suggestion
from torchgraft.core.names import above, covered, covering, ends
from torchgraft.matching.names.layer_lists import (
    NO_LAYER,
    TOP,
    before_numbers,
    is_of_stems,
    list_at,
    lists_in,
    numbers_in,
    path_in_file,
)
from torchgraft.matching.names.patterns import compiled, copied_names, copies_of, dotted, filled
from torchgraft.matching.names.renames import Renames
from torchgraft.matching.tables.dialect import WRAPPERS


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The caller's facts.

    rename: source pattern -> target pattern; `{i}` stands for a number, `{name}` for one whole segment; a pattern that
    ends with a dot is a prefix, any other is a whole name or a run of whole segments at its start.
    fan_out: source prefix -> target prefixes, one source for several places; fields as in `rename`.
    layers: path of a layer list, on either side -> number of the source layer for each target layer, repeats allowed. A path
    that ends with `{i}` is of members that are called so, `layer{i}` of `layer1` and `layer2`; no layer is told as -1.
    copies: module, of the model or else of the file -> the module beside it that starts as its copy; fields or stars as in
    patterns.
    fresh: patterns of slots that keep their initial values. zero: patterns of slots that start at zero.
    away: beginnings that renames and fan-outs give to names, and that nothing in the model has (found by `checked`).
    """

    rename: Mapping[str, str] = field(default_factory=dict)
    fan_out: Mapping[str, Sequence[str]] = field(default_factory=dict)
    layers: Mapping[str, Sequence[int]] = field(default_factory=dict)
    copies: Mapping[str, str] = field(default_factory=dict)
    fresh: Sequence[str] = ()
    zero: Sequence[str] = ()
    away: Collection[str] = ()

    def present(self, keys: Iterable[str]) -> list[tuple[str, str]]:
        """Return (name to match by, source key); a key appears once for every place that the rules send it to."""
        if not (self.rename or self.fan_out or self.layers or self.copies):
            return [(key, key) for key in keys]
        shown: list[tuple[str, str]] = []
        renames, places = Renames(self.rename), _places_of(self.layers)
        for key in keys:
            names = self._spread(renames.name_of(key))
            names = [n for name in names for n in _relayered(name, places)]
            names += [n for name in names for n in self._copied(name)]
            shown += [(name, key) for name in dict.fromkeys(names)]
        return shown

    def present_once(self, keys: Sequence[str], model: Iterable[str]) -> list[tuple[str, str]]:
        """Return what `present` does, with one key for each name, and without what rules lead out of the model.

        A rule comes before the key that is called so anyway.

        Raises:
            UsageError: the rules give several keys the same of the `model`'s names.
        """
        away = {dotted(head) for head in self.away}
        shown = [(name, key) for name, key in self.present(keys) if name == key or not _is_in(name, away)]
        claims: dict[str, list[str]] = {}
        for name, key in shown:
            claims.setdefault(name, []).append(key)
        if len(claims) == len(shown):
            return shown
        wanted, speak = set(model), self.speaker()
        once: list[tuple[str, str]] = []
        for name, claimed in claims.items():
            sent = [key for key in claimed if speak(key, name)]
            if len(sent) > 1 and any(end in wanted for end in ends(name)):
                both = " and ".join(repr(printable(key, 80)) for key in sent[:2])
                raise UsageError(
                    f"rename=, fan_out=, layers= and copies= let {both} both be {printable(name)!r}: one place takes one "
                    "tensor; leave one of them out of the rules"
                )
            once.append((name, (sent or claimed)[0]))
        return once

    def checked(
        self, keys: Sequence[str], names: Sequence[str], renamed: Collection[str]
    ) -> tuple[Rules, tuple[str, ...]]:
        """Return the rules with the paths that the file has, and remarks on those that lead nowhere.

        `keys` are the file's, `names` the model's, `renamed` old keys that the model's own code knows.

        Raises:
            UsageError: a rule means nothing in the file, or in the model.
        """
        rules = self.in_the_file(keys, names) if self.layers else self
        if self.copies:  # of what the model calls so, the rest is of the file
            rest = {old: new for old, new in self.copies.items() if not copied_names({old: new}, names)}
            rules = replace(rules, copies=rest)
        rules.check(keys)
        if rules.fresh or rules.zero or rules.layers or rules.copies:
            rules.check_slots(names)
        away = rules.astray(keys, [*names, *renamed]) if rules.rename or rules.fan_out else {}
        return replace(rules, away=tuple(away)), tuple(dict.fromkeys(away.values()))

    def counted_from(self, names: Sequence[str]) -> Rules:
        """Return the rules with what `layers` picks counted from 0, where members called `{i}` begin later in the model's `names`."""
        if not self.layers:
            return self
        later = {path: min(numbers_in(path, names), default=0) for path in self.layers if is_of_stems(path)}
        layers = {path: (*[NO_LAYER] * later.get(path, 0), *picks) for path, picks in self.layers.items()}
        return replace(self, layers=layers) if any(later.values()) else self

    def in_the_file(self, keys: Sequence[str], names: Sequence[str]) -> Rules:
        """Return the rules with each layer list that has a path of the model's, `names`, under its path in the file.

        That is the longest end of the path which leads to a list of the file, and to one only.
        """
        renames = Renames(self.rename)
        renamed = [renames.name_of(key) for key in keys]
        shown = [name for key in renamed for name in self._spread(key)]
        layers = {path_in_file(path, shown, names): picks for path, picks in self.layers.items()}
        untouched = [name for key, name in zip(keys, renamed, strict=True) if name == key]
        for path, picks in self.layers.items() if self.rename else ():
            there = path_in_file(path, untouched, names)  # of a list that a rename moves in part, the rest
            if numbers_in(there, untouched):
                layers.setdefault(there, picks)
        return replace(self, layers=layers)

    def check(self, keys: Sequence[str]) -> None:
        """Raise UsageError where a rule means no tensor of the file.

        Raises:
            UsageError: naming the rule, and what comes close to it.
        """
        renames = Renames(self.rename)
        idle = renames.idle(keys)
        for said in self.rename:
            _expect(said not in idle, "rename", said, keys)
        names = [renames.name_of(key) for key in keys]
        for old in self.fan_out:
            _expect(any(_behind(old, name) is not None for name in names), "fan_out", old, names)
        names = [n for name in names for n in self._spread(name)]
        for path, picks in self.layers.items():
            there = numbers_in(path, names)
            if not there:
                lists = dict.fromkeys(lists_in(names))
                near = [TOP] if not path and TOP in lists else get_close_matches(path, lists, n=2, cutoff=0.5)
                raise UsageError(f"layers: the file has no list of layers at {printable(path)!r}{suggestion(near)}")
            if not there.issuperset(set(picks) - {NO_LAYER}):
                absent = next(n for n in picks if n not in there and n != NO_LAYER)
                raise UsageError(
                    f"layers={{{path!r}: ...}}: there is no layer {absent} in the file; it has {min(there)} to {max(there)}"
                )
        for old, new in self.copies.items():
            if not any(True for name in names for _ in copies_of(name, old, new)):
                near = get_close_matches(old.rpartition(".")[2], _segments(names), n=2)
                raise UsageError(
                    f"copies: no module of the model or the file is called {printable(old)!r}{suggestion(near)}"
                )

    def astray(self, keys: Sequence[str], names: Iterable[str]) -> dict[str, str]:
        """Return what renames and fan-outs lead to that is nothing among `names`, the model's, each with a remark.

        That may be meant: so a tensor is left out. A rule leads somewhere if what it puts in place of a key's beginning
        is a run of whole segments of some name, apart from wrappers; or if another rule takes it further.

        Raises:
            UsageError: what a rule leads to is nearly, but not, what something in the model is called.
        """
        names = list(names)
        text = "\n".join(f".{name}." for name in names)
        renames, relaid = Renames(self.rename), _places_of(self.layers)
        heads: dict[str, list[str]] = {to: [] for to in self.rename.values()}
        for key in keys:
            found = renames.first_of(key)
            if found:
                head = filled(found.to, found.match.groupdict())
                name = head + key[found.match.end() :]
                others = [n for one in self._spread(name) for n in _relayered(one, relaid)]
                heads[found.to].append("" if others != [name] or self._copied(name) else head)
        places: dict[str, list[str]] = {place: [] for places in self.fan_out.values() for place in places}
        shown = [renames.name_of(key) for key in keys] if places else ()
        for old, wanted in self.fan_out.items():
            fields = [behind.groupdict() for name in shown if (behind := _behind(old, name)) is not None]
            for place in wanted:
                places[place] += dict.fromkeys(filled(place, found) for found in fields)
        return dict((*_astray("rename", heads, names, text), *_astray("fan_out", places, names, text)))

    def check_slots(self, names: Sequence[str]) -> None:
        """Raise UsageError where a pattern of `fresh` or `zero`, a layer or a copy means none of `names`, the model's.

        Raises:
            UsageError: naming the pattern, and what comes close to it.
        """
        for path, picks in self.layers.items():
            there = numbers_in(path, names)
            if there and len(picks) > max(there) + 1:
                before = list(picks).count(NO_LAYER)
                given, has = len(picks) - before, max(there) + 1 - before
                raise UsageError(f"layers={{{path!r}: ...}}: {given} layers are given, and the model has {has} there")
        for old, new in self.copies.items():
            if not any(f".{new}." in f".{name}." for name in names):
                near = get_close_matches(new.rpartition(".")[2], _segments(names), n=2)
                said = f"{printable(old)!r}: {printable(new)!r}"
                raise UsageError(
                    f"copies={{{said}}}: no module of the model is called {printable(new)!r}{suggestion(near)}"
                )
        is_meant = covered(names if self.fresh or self.zero else ())
        for option, patterns in (("fresh", self.fresh), ("zero", self.zero)):
            for said in patterns:
                if not is_meant(said):
                    near = _paths_to(said, names)
                    raise UsageError(
                        f"{option}: no tensor of the model is called {printable(said)!r}{suggestion(near)}"
                    )

    def is_fresh(self, name: str) -> bool:
        """Whether the caller wants the slot to stay fresh."""
        return covering(tuple(self.fresh))(name)

    def keeps(self, name: str) -> bool:
        """Whether the caller wants nothing of the file in a slot: behind what `layers` picks no other rule leads."""
        return self.is_fresh(name) or self.is_zero(name) or self.is_behind_picks(name)

    def is_behind_picks(self, name: str) -> bool:
        """Whether a slot lies in a list of layers, behind the last one that `layers` fills."""
        lists = ((list_at(path, name), picks) for path, picks in self.layers.items())
        return any(found is not None and int(found["n"]) >= len(picks) for found, picks in lists)

    def picks_from(self, path: str) -> bool:
        """Whether `layers` says which members of the list at `path`, of the model or of the file, are used."""
        return any(f".{path}".endswith(f".{said.rstrip('.')}") for said in self.layers)

    def picked_places(self) -> Iterator[tuple[str, str]]:
        """Yield the path of each layer list, and each of its layers that `layers` fills."""
        for path, picks in self.layers.items():
            for number, picked in enumerate(picks):
                if picked != NO_LAYER:
                    yield path, f"{before_numbers(path)}{number}"

    def moves(self, name: str, place: str) -> bool:
        """Whether a name that `layers` gives a tensor lies in another layer of the list than a place of the model."""
        both = ((list_at(path, name), list_at(path, place)) for path in self.layers)
        return any(ours and theirs and ours["n"] != theirs["n"] for ours, theirs in both)

    @property
    def says_something(self) -> bool:
        """Whether there is any rule."""
        return self != Rules()

    def is_zero(self, name: str) -> bool:
        """Whether the caller wants the slot to start at zero."""
        return covering(tuple(self.zero))(name)

    def speaker(self) -> Callable[[str, str], bool]:
        """Return whether rules give a key of the file a name, which may be its own, as a function of the key and the name."""
        if not (self.rename or self.fan_out or self.layers or self.copies):
            return lambda _key, _name: False
        renames = Renames(self.rename)

        def speak(key: str, name: str) -> bool:
            if key != name or renames.first_of(key):
                return True
            return any(_behind(old, key) is not None for old in self.fan_out) or any(
                list_at(path, key) for path in self.layers
            )

        return speak

    def _spread(self, name: str) -> list[str]:
        for old, places in self.fan_out.items():
            found = _behind(old, name)
            if found is not None:
                rest = found.string[found.end() :]
                return [filled(dotted(place), found.groupdict()) + rest for place in places]
        return [name]

    def _copied(self, name: str) -> list[str]:
        return [copy for old, new in self.copies.items() for copy in copies_of(name, old, new)]


def _places_of(layers: Mapping[str, Sequence[int]]) -> dict[str, dict[int, list[int]]]:
    """Return for each layer list which of the target's layers each layer of the source fills."""
    places: dict[str, dict[int, list[int]]] = {path: {} for path in layers}
    for path, picks in layers.items():
        for place, number in enumerate(picks):
            places[path].setdefault(number, []).append(place)
    return places


def _relayered(name: str, places: Mapping[str, Mapping[int, Sequence[int]]]) -> list[str]:
    for path, filled_by in places.items():
        found = list_at(path, name)
        if found:
            return [f"{found['head']}{place}{found['rest']}" for place in filled_by.get(int(found["n"]), ())]
    return [name]


def _is_in(name: str, heads: Collection[str]) -> bool:
    """Return whether a name begins with one of `heads`, which end with dots, or is one."""
    return "" in heads or any(f"{path}." in heads for path in (name, *above(name)))


def _behind(prefix: str, name: str) -> re.Match[str] | None:
    """Return where a prefix stands, at the start of a name or behind segments of wrappers; None if it isn't there."""
    pattern, left = compiled(dotted(prefix)), name
    while (found := pattern.match(left)) is None:
        wrapper, _, left = left.partition(".")
        if wrapper not in WRAPPERS or not left:
            return None
    return found


def _expect(hit: bool, option: str, said: str, names: Sequence[str]) -> None:  # noqa: FBT001  # a fact, not a mode
    """Raise UsageError unless a rule hit something."""
    if hit:
        return
    inside = sorted({name[: at + len(said)] for name in names if (at := name.find("." + said.rstrip(".")) + 1)})
    bare = said.rstrip(".")
    near = inside or [head + said[len(bare) :] for head in get_close_matches(bare, _heads(names), n=2)]
    globs = "*" in said and option in ("rename", "fan_out")
    hint = (
        "; `*` stands for itself here: write {i} for a number, {name} for a segment" if globs else suggestion(near[:2])
    )
    raise UsageError(f"{option}: no tensor of the file is called {printable(said)!r}{hint}")


def _heads(names: Iterable[str]) -> list[str]:
    """Return the first segments of names, and the first two."""
    return list(dict.fromkeys(".".join(name.split(".")[:n]) for name in names for n in (1, 2)))


def _paths_to(said: str, names: Sequence[str]) -> list[str]:
    """Return patterns of paths of the model that end as `said`, else some that come close, whatever the numbers in them."""
    every = dict.fromkeys(re.sub(r"(?<![^.])[0-9]+(?![^.])", "*", name) for name in names)
    paths = list(dict.fromkeys(path for name in every for path in (*reversed([*above(name)]), name) if path != said))
    inner = f".{said.strip('.')}"
    return [path for path in paths if path.endswith(inner)][:2] or get_close_matches(
        said, [*_heads(names), *paths], n=2
    )


def _segments(names: Iterable[str]) -> list[str]:
    return sorted({part for name in names for part in name.split(".")})


def _astray(option: str, heads: Mapping[str, list[str]], names: Sequence[str], text: str) -> Iterator[tuple[str, str]]:
    """Yield what rules put in front of names that is nothing of the model, with a remark; `text` has all names in dots."""
    for said, made in heads.items():
        parts = [_unwrapped(head) for head in dict.fromkeys(made)]
        if not made or any(not part or f".{part}." in text for part in parts):
            continue
        fact = f"{option}: nothing in the model is called {printable(said)!r}"
        size = parts[0].count(".") + 1
        near = get_close_matches(parts[0], {".".join(name.split(".")[:size]) for name in names}, n=2)
        if near:
            raise UsageError(f"{fact}; did you mean {' or '.join(repr(printable(n, 80)) for n in near)}?")
        yield from ((head, f"{fact}: what it renames stays unused") for head in made)


def _unwrapped(head: str) -> str:
    parts = head.strip(".").split(".")
    while len(parts) > 1 and parts[0] in WRAPPERS:
        del parts[0]
    return ".".join(parts)
