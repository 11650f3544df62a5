"""An output that can't be written is refused before the work, and for the reason that is true."""

import errno
import os
from types import SimpleNamespace

import pytest

from torchgraft.core.errors import WriteError
from torchgraft.core.system.commit import expect_writable


@pytest.mark.parametrize(
    ("flags", "said"), [(os.ST_RDONLY, "the file system is read-only"), (0, "the folder does not permit it")]
)
def test_a_folder_that_takes_no_writes_says_why(tmp_path, monkeypatch, flags, said):
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=flags))
    with pytest.raises(WriteError, match=said):
        expect_writable(tmp_path / "out.safetensors")


def test_a_folder_that_is_not_there_is_told_as_such(tmp_path):
    with pytest.raises(WriteError, match=rf"does not exist \({os.strerror(errno.ENOENT)}\)"):
        expect_writable(tmp_path / "nowhere" / "out.safetensors")
