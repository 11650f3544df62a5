"""Ctrl-C while torch is imported ends the command, though torch itself goes on without numpy then."""

import signal
from contextlib import suppress

import pytest

from torchgraft.cli import targets


def test_ctrl_c_is_not_lost_where_an_import_would_swallow_it(monkeypatch):
    seen = []

    def importing(name):
        seen.append(name)
        with suppress(KeyboardInterrupt):  # as torch does for what goes wrong while it imports numpy
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(targets, "import_module", importing)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs don't hear it
    try:
        with pytest.raises(KeyboardInterrupt):
            targets.for_loading("nets:build", None)
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == ["torch"]
