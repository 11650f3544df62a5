"""Counts and shares as people read them, the same wherever a message or a report shows one."""

from __future__ import annotations


def percent(part: float) -> str:
    """Return a share, rounded down; only the whole is called 100 %, and only nothing 0 %."""
    if part >= 1:
        return "100 %"
    if part <= 0:
        return "0 %"
    if part < 0.001:
        return "<0.1 %"
    return f"{min(int(part * 1000), 999) / 10:.1f} %"


def tensors(count: int) -> str:
    """Return `1 tensor`, `12 tensors`."""
    return f"{count:,} tensor{'' if count == 1 else 's'}".replace(",", " ")
