"""CRC-32 of bytes as zip files keep it, by the fastest means at hand."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def _fastest() -> Callable[[memoryview | bytes, int], int]:
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib.crc32
    found: Callable[[memoryview | bytes, int], int] = isal_zlib.crc32
    return found


crc32 = _fastest()
