"""Writers that are killed at any moment, and writers and readers at the same place: run by test_kills.py in a process of
its own, which forks. Each state that is written holds one number all over, so that a mixture is seen.

    crowd.py kill FOLDER NAME ROUNDS [SHARD_SIZE]
    crowd.py folders FOLDER NAME ROUNDS
    crowd.py race FOLDER NAME ROUNDS [SHARD_SIZE]
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import torch

import torchgraft as tg


class Place:
    """Where all of them write and read."""

    def __init__(self, folder, name, shard_size):
        self.path = Path(folder, name)
        self.shard_size = shard_size
        self.reads = Path(f"{self.path}.index.json") if shard_size else self.path

    def write(self, number):
        state = {f"layers.{n}.weight": torch.full((50, 50), float(number)) for n in range(6)}
        return tg.save(self.path, state, shard_size=self.shard_size)

    def read(self):
        """Return the numbers that stand in the file: one, where it is whole."""
        with tg.open_checkpoint(self.reads) as source:
            network = source.networks[0]
            assert len(network.specs) == 6
            return {float(v) for name in network.specs for v in source.read(network.path, name).unique()}


def fork(work):
    child = os.fork()
    if child:
        return child
    try:
        work()
        os._exit(0)
    except BaseException as error:  # noqa: BLE001  # told by the exit code, and on stderr
        sys.stderr.write(f"{error!r}\n")
        sys.stderr.flush()
        os._exit(1)


def kill(place, rounds):
    """Kill a writer at a random moment, again and again; return what was seen."""
    random.seed(0)
    seen = {"old": 0, "new": 0, "torn": 0, "hidden": 0, "litter": 0}
    place.write(0)
    start = time.perf_counter()
    clean = {p.name for p in place.path.parent.iterdir()}
    took = time.perf_counter() - start
    place.write(0)
    took = time.perf_counter() - start
    for number in range(1, rounds + 1):
        child = fork(lambda number=number: place.write(number))
        time.sleep(random.uniform(0, 1.5 * took))  # noqa: S311
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found = place.read()
        before = {float(number - 1)}
        seen["new" if found == {float(number)} else "old" if found == before else "torn"] += 1
        seen["hidden"] += any(p.name.endswith(".part") for p in place.path.parent.iterdir())
        place.write(number)
        assert place.read() == {float(number)}
        left = {p.name for p in place.path.parent.iterdir()}
        seen["litter"] += len(left) > len(clean) or any(name.endswith(".part") for name in left)
    return seen


def folders(place, rounds):
    """Kill a writer of a distributed checkpoint, which is never replaced; return what was seen."""
    random.seed(0)
    seen = {"none": 0, "new": 0, "torn": 0, "hidden": 0, "litter": 0}
    home = place.path.parent

    def write(number):
        state = {f"layers.{n}.weight": torch.full((200, 200), float(number)) for n in range(6)}
        tg.save(place.path, state, file_format="dcp")

    write(0)
    shutil.rmtree(place.path)
    start = time.perf_counter()
    write(0)
    took = time.perf_counter() - start
    for number in range(1, rounds + 1):
        shutil.rmtree(place.path)
        child = fork(lambda number=number: write(number))
        time.sleep(random.uniform(0, 1.5 * took))  # noqa: S311
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if place.path.exists():
            seen["new" if place.read() == {float(number)} else "torn"] += 1
            shutil.rmtree(place.path)
        else:
            seen["none"] += 1
        seen["hidden"] += any(p.name.endswith(".part") for p in home.iterdir())
        write(number)
        seen["torn"] += place.read() != {float(number)}
        seen["litter"] += [p.name for p in home.iterdir()] != [place.path.name]
    return seen


def race(place, rounds):
    """Let two write and two read at the same time; return how many reads gave a mixture, or an error."""
    place.write(0)

    def writer(first):
        for number in range(rounds):
            while True:
                try:
                    place.write(first + 2 * number)
                    break
                except tg.WriteError as error:
                    if "another program writes shards" not in str(error):
                        raise
                    time.sleep(0.001)

    def reader():
        for _ in range(rounds):
            found = place.read()
            if len(found) != 1:
                raise ValueError(f"a mixture of {found}")

    children = [fork(lambda first=first: writer(first)) for first in (1, 2)] + [fork(reader) for _ in range(2)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return {
        "failed": sum(map(bool, codes)),
        "hidden": sum(p.name.endswith(".part") for p in place.path.parent.iterdir()),
    }


if __name__ == "__main__":
    what, folder, name, rounds, *size = sys.argv[1:]
    place = Place(folder, name, size[0] if size else None)
    sys.stdout.write(json.dumps({"kill": kill, "race": race, "folders": folders}[what](place, int(rounds))))
