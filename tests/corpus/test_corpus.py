"""Every kind of bad file that we know: the right class, a message that says what is wrong, and nothing else happens."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path[:0] = [
    str(Path(__file__).parent),
    *(str(Path(__file__).parents[1] / part) for part in ("fuzz", "differential")),
]

import corpus_details
import corpus_others
import corpus_published
import corpus_torch
import corpus_unlike
from corpus_tools import RAN
from harness import attempt

from torchgraft.core.errors import CheckpointError
from torchgraft.reading import open_checkpoint

CASES = [*corpus_torch.ALL, *corpus_others.ALL, *corpus_details.ALL, *corpus_published.ALL, *corpus_unlike.ALL]
# Published faults of other readers that a file of one of our formats can show (CVE, GHSA, or repository and number).
PUBLISHED = {known: [c for c in CASES if known in c.known] for known in sorted({k for c in CASES for k in c.known})}


def check(case, folder):
    path = case.write(folder)
    out = attempt(path)
    assert not list(folder.rglob(RAN)), "the payload ran"
    assert not Path(RAN).exists(), "the payload ran"
    if case.error:
        assert isinstance(out, CheckpointError), f"was read: {list(out)[:3]}"
        assert type(out).__name__ == case.error, out
        assert re.search(case.words, str(out)), out
        return
    assert isinstance(out, dict), out
    with open_checkpoint(path) as source:
        assert re.search(case.words, "\n".join(source.warnings)), source.warnings


def test_names_of_cases_are_their_own():
    assert len({c.name for c in CASES}) == len(CASES) > 250


@pytest.mark.parametrize("case", CASES, ids=[c.name for c in CASES])
def test_each_file_is_refused_or_read_as_it_must_be(case, tmp_path):
    check(case, tmp_path)


@pytest.mark.parametrize("known", PUBLISHED)
def test_published_faults_of_readers_are_not_ours(known, tmp_path):
    for case in PUBLISHED[known]:
        check(case, tmp_path / case.name)


def test_many_published_faults_are_covered():
    assert len(PUBLISHED) >= 25
