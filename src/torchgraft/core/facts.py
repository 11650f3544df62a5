"""What torchgraft writes beside the tensors of a file, and how it is read back: digests, and facts that are no texts."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

# Entries of a file's metadata. DIGESTS: JSON, name -> SHA-256 (hex) of the tensor's bytes, C order and little-endian.
# FACTS: JSON of what is beside the tensors and no text. PART: run, number and index of a shard, see `part`.
DIGESTS = "torchgraft.sha256"
FACTS = "torchgraft.facts"
# Where diffusers puts what PEFT keeps in adapter_config.json (LORA_ADAPTER_METADATA_KEY in its loaders/lora_base.py).
ADAPTERS = "lora_adapter_metadata"
PART = "torchgraft.part"
# The entry of a distributed checkpoint that holds metadata, as JSON.
BESIDE = "torchgraft.beside"
# TIES is never written: what the metadata of a safetensors file says of tied names, name -> stored name.
TIES = "torchgraft.ties"
OWN = (DIGESTS, FACTS, PART, TIES)
# What readers say about a file that is true of that file only.
OF_THE_FILE = ("shards", "foreign_classes", "left_out", "optimizers")
# What readers and writers mean something by: a value of that name that lies in a file is called otherwise.
RESERVED = frozenset((*OWN, *OF_THE_FILE, "versions"))

# What the format of a checkpoint ends with that is seen through a learned conversion.
CONVERTED = ", converted"


def part(run: str, number: int, count: int, index: str) -> str:
    """Return the mark of shard `number` of `count` that `run` wrote for the index file called `index`."""
    return f"{run} {number}/{count} {index}"


def run_of(mark: object) -> str:
    """Return the run that a mark names; empty where there is no mark."""
    return str(mark).partition(" ")[0] if mark else ""


def as_texts(facts: Mapping[str, object], names: Collection[str] = ()) -> dict[str, str]:
    """Return facts as metadata: texts under their own name, everything else as JSON under one.

    A text that is one of `names`, those of the tensors, is not left alone: readers would take it for a tie.
    """
    texts = {key: value for key, value in facts.items() if isinstance(value, str) and value not in names}
    others = {key: value for key, value in facts.items() if key not in texts}
    return {**texts, FACTS: json.dumps(others, separators=(",", ":"))} if others else texts


def from_texts(metadata: Mapping[str, str]) -> dict[str, object]:
    """Return the facts that `as_texts` made into metadata; what can't be read stays text.

    The digests stay the text that they are: a million of them are slow to read, and seldom asked for. See `digests_of`.
    """
    facts: dict[str, object] = dict(metadata)
    table = _table(metadata.get(FACTS))
    if table is not None:
        del facts[FACTS]
        facts = {**table, **facts}
    config = _table(metadata.get(ADAPTERS))
    if config is not None:
        facts.setdefault("adapter_config", config)
    return facts


def stated_ties(metadata: Mapping[str, str], names: Collection[str]) -> dict[str, str]:
    """Return the ties that the metadata of a safetensors file states, as safetensors' own save_model does.

    Each is the name of no tensor, with the name of the stored one.
    """
    return {k: v for k, v in metadata.items() if v in names and k not in names and k != "format"}


def _table(text: object) -> dict[str, object] | None:
    """Return the table that a JSON text holds; None where it holds something else."""
    try:
        found = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def from_json(text: str) -> dict[str, object]:
    """Return the facts that `as_texts` made, from JSON; none where the text is something else."""
    return from_texts({k: v for k, v in (_table(text) or {}).items() if isinstance(v, str)})


def digests_of(facts: Mapping[str, object]) -> dict[str, str]:
    """Return the digests among a source's facts by the name of the tensor; empty where there are none."""
    kept = facts.get(DIGESTS)
    table = kept if isinstance(kept, dict) else _table(kept)
    return {n: d for n, d in table.items() if isinstance(d, str)} if table else {}


def merged(first: Mapping[str, object], more: Mapping[str, object]) -> dict[str, object]:
    """Return the facts of two files of one checkpoint: the first one's count, digests are put together."""
    out = {**more, **first}
    table = {**digests_of(more), **digests_of(first)}
    ties = {**ties_of(more), **ties_of(first)}
    return {**out, **({DIGESTS: table} if table else {}), **({TIES: ties} if ties else {})}


def ties_of(facts: Mapping[str, object]) -> dict[str, str]:
    """Return the stated ties among a source's facts: name -> stored name."""
    found = facts.get(TIES)
    return {k: v for k, v in found.items() if isinstance(v, str)} if isinstance(found, dict) else {}


def shown(facts: Mapping[str, object]) -> dict[str, object]:
    """Return the facts that a report lists: without what has a line of its own, or is only for programs."""
    hidden = {*OWN, "versions", "optimizers", "left_out"}
    return {key: value for key, value in facts.items() if key not in hidden}
