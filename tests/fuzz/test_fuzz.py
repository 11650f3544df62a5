"""Some mutants of every format, and every input that was ever found to fail. `run.py` beside this goes on for longer."""

import random

import pytest
from harness import Fault, attempt, fit, write
from run import CRASHES, once
from seeds import formats
from uses import use

NAMES = (
    "torch-zip",
    "torch-legacy",
    "torch-tar",
    "safetensors",
    "shards",
    "npy",
    "npz",
    "gguf",
    "dcp",
    "hdf5",
    "onnx",
    "flax",
)
FOUND = sorted(p for p in CRASHES.iterdir() if p.is_dir())


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    return formats(tmp_path_factory.mktemp("seeds"))


@pytest.mark.parametrize("name", NAMES)
def test_seeds_are_read(known, name, tmp_path):
    for files in known[name].seeds:
        write(files, tmp_path)
        assert isinstance(attempt(known[name].target(files, tmp_path)), dict)


@pytest.mark.parametrize("name", NAMES)
def test_mutants_are_read_or_refused(known, name, tmp_path):
    assert {once(name, known[name], seed, tmp_path) for seed in range(150)} == {"read", "refused"}


@pytest.mark.parametrize("place", FOUND, ids=[p.name for p in FOUND])
def test_what_was_found_stays_mended(place):
    opened = (place / "WHY").read_text(encoding="utf-8").splitlines()[0]
    attempt(place if opened == "folder" else place / opened)


@pytest.mark.parametrize("name", NAMES)
def test_commands_answer_for_mutants_or_refuse(known, name, tmp_path):
    form, answers = known[name], []
    mutants = [form.mutant(random.Random(seed)) for seed in range(500, 508)]  # noqa: S311
    for files in [*form.seeds[:1], *mutants]:
        write(files, tmp_path)
        answers.append(use(form.target(files, tmp_path), tmp_path))
    assert answers[0] >= 3


def test_mutants_come_from_their_seed_alone(known):
    for form in known.values():
        assert form.mutant(random.Random(7)) == form.mutant(random.Random(7))  # noqa: S311


@pytest.mark.parametrize("text", ["a\x1b[2J", "a" * 401, "use weights_only=False", "line\nline"])
def test_messages_that_are_not_fit_are_found(text):
    with pytest.raises(Fault):
        fit(text)


def test_every_format_is_fuzzed(known):
    assert tuple(known) == NAMES
