"""A writer that is killed at any moment leaves the old file or the new one; readers beside writers see whole files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

WAYS = [("m.safetensors",), ("m.pt",), ("m.safetensors", "25kB")]
CROWD = str(Path(__file__).parent / "crowd.py")


def crowd(what, folder, rounds, name, *size):
    call = [sys.executable, CROWD, what, str(folder), name, str(rounds), *size]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def check_kills(folder, rounds, way):
    seen, _ = crowd("kill", folder, rounds, *way)
    assert (seen["torn"], seen["litter"]) == (0, 0), seen
    return seen


@pytest.mark.parametrize("way", WAYS)
def test_kills(tmp_path, way):
    seen = check_kills(tmp_path, 8, way)
    assert seen["old"] + seen["new"] == 8


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_two_hundred_kills(tmp_path, way):
    seen = check_kills(tmp_path, 200, way)
    assert min(seen["old"], seen["new"], seen["hidden"]) > 0, "the moments of the kills tell nothing"


@pytest.mark.parametrize("rounds", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_kills_of_writers_of_folders(tmp_path, rounds):
    seen, _ = crowd("folders", tmp_path, rounds, "out")
    assert (seen["torn"], seen["litter"], seen["none"] + seen["new"]) == (0, 0, rounds), seen


def check_race(folder, rounds, way):
    seen, said = crowd("race", folder, rounds, *way)
    assert seen == {"failed": 0, "hidden": 0}, said


@pytest.mark.parametrize("way", WAYS)
def test_two_writers_and_two_readers(tmp_path, way):
    check_race(tmp_path, 8, way)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_two_writers_and_two_readers_for_long(tmp_path, way):
    check_race(tmp_path, 200, way)
