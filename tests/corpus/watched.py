"""Reads the whole corpus in one process under an audit hook, and prints as JSON what happened that must not.

Run by test_audit.py in a process of its own: a hook can't be taken away again.
"""

from __future__ import annotations

import codecs
import gc
import importlib
import json
import os
import pickle
import pkgutil
import sys
import warnings
from pathlib import Path
from typing import Any

sys.path[:0] = [
    str(Path(__file__).parent),
    *(str(Path(__file__).parents[1] / part) for part in ("fuzz", "differential")),
]

import corpus_details
import corpus_others
import corpus_published
import corpus_torch
import corpus_unlike
import numpy as np
import torch
from harness import attempt

import torchgraft.reading

CASES = [*corpus_torch.ALL, *corpus_others.ALL, *corpus_details.ALL, *corpus_published.ALL, *corpus_unlike.ALL]
READS = ("open", "os.listdir", "os.scandir")
# Beside these, events of no consequence pass: garbage collection, frames, memory, lookups of attributes.
FORBIDDEN = (
    "import", "exec", "compile", "subprocess.Popen", "pty.spawn", "ctypes.", "socket.", "shutil.", "tempfile.", "webbrowser.",
    "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link",
    "os.symlink", "os.truncate", "os.chmod", "os.chown", "os.putenv", "os.unsetenv", "os.chdir", "os.kill", "os.utime", "os.setxattr",
    "pickle.find_class", "marshal.", "code.__new__", "urllib.", "http.", "ftplib.", "sqlite3.", "syslog.", "mmap.__new__",
)  # fmt: skip


def inside(path: Any, folder: str) -> bool:
    """Whether a path that was opened lies in `folder`; names without a folder are opened relative to one of ours."""
    if isinstance(path, int):
        return True
    name = os.fsdecode(path)
    return os.path.realpath(name).startswith(folder) if os.sep in name else True


def load_all() -> None:
    """Import all of the readers, and the codecs that texts in old pickles need, so that no import is left to watch."""
    for module in pkgutil.walk_packages(torchgraft.reading.__path__, "torchgraft.reading."):
        importlib.import_module(module.name)
    for codec in ("unicode_escape", "raw_unicode_escape", "latin-1"):
        codecs.lookup(codec)


def facts() -> dict[str, Any]:
    """What of the process a reader could leave changed."""
    return {
        "environment": dict(os.environ), "folder": str(Path.cwd()), "filters": list(map(str, warnings.filters)), "dtype": str(torch.get_default_dtype()),
        "threads": torch.get_num_threads(), "collects": gc.isenabled(), "limit": sys.getrecursionlimit(), "errors": np.geterr(), "path": list(sys.path),
    }  # fmt: skip


def main(folder: Path) -> None:
    """Write the corpus below `folder`, watch, do what must be seen, and read the corpus."""
    paths = [case.write(folder / f"{i}") for i, case in enumerate(CASES)]
    good = folder / "good.pt"
    good.write_bytes(corpus_torch.GOOD)
    load_all()
    expected, before = attempt(good), facts()
    home = os.path.realpath(folder)
    found: list[str] = []
    watching, now = True, ""

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if not watching:
            return
        if event in READS:
            fine = inside(args[0], home) and not (
                event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
            )
        elif event == "import":
            fine = args[0] in sys.modules
        else:
            fine = not event.startswith(FORBIDDEN)
        if not fine:
            found.append(f"{now}: {event} {args!r:.120}")

    sys.addaudithook(hook)
    now = "trial"
    pickle.loads(b'cposixpath\nexists\n(S"/"\ntR.')
    Path(__file__).read_bytes()
    trial = found.copy()
    found.clear()
    for case, path in zip(CASES, paths, strict=True):
        now = case.name
        attempt(path)
        if attempt(good) != expected:
            found.append(f"{now}: a good file is read in another way afterwards")
    watching = False
    after = facts()
    found += [f"{key} is not what it was" for key in before if before[key] != after[key]]
    found += [f"a payload ran: {p}" for p in [*folder.rglob("ran"), *Path.cwd().glob("ran")]]
    print(json.dumps({"cases": len(CASES), "found": found, "trial": trial}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
