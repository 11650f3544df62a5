"""Fingerprints of tensors, piece by piece, so that no second copy of an activation is ever made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from torchgraft.core.layout import is_dense
from torchgraft.core.results.recording import Fingerprint

PIECE = 1 << 17
HUGE = 5000.0


def fingerprint(tensor: torch.Tensor) -> Fingerprint | None:
    """Return the figures of a tensor in any layout; None for tensors without plain values (meta, sparse, empty)."""
    if tensor.is_meta or tensor.layout is not torch.strided or tensor.is_quantized or not tensor.numel():
        return None
    plain = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor.detach()
    figures = _figures(plain, limited=False)
    if not (figures[2] > -HUGE and figures[3] < HUGE):
        figures = _figures(plain, limited=True)
    total, squares, least, greatest, huge = figures
    return Fingerprint(tensor.numel(), total, squares, least, greatest, int(huge))


def ordered_fingerprint(tensor: torch.Tensor) -> Fingerprint | None:
    """Return the fingerprint with the figure that tells permutations of the entries apart (`order`)."""
    found = fingerprint(tensor)
    if found is None:
        return None
    plain = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor.detach()
    total = 0.0
    for number, piece in enumerate(torch.split(plain.reshape(-1), PIECE)):
        exact = piece.to(torch.float64)
        exact = torch.where(exact.abs() < HUGE, exact, 0.0) if found.huge else exact
        places = torch.arange(len(piece), dtype=torch.float64, device=exact.device) + number * PIECE
        total += float(exact.dot(places)) / plain.numel()
    return replace(found, order=total)


def scaled(found: Fingerprint, times: int) -> Fingerprint:
    """Return the fingerprint of a tensor that holds every entry `times` times."""
    return Fingerprint(
        found.numel * times, found.total * times, found.squares * times, found.least, found.greatest, found.huge * times
    )


def _figures(tensor: torch.Tensor, *, limited: bool) -> list[float]:
    """Return sum, sum of squares, least and greatest; with `limited` only of ordinary entries, and the number of others."""
    rows = []
    for piece in _pieces(tensor):
        exact = piece.to(torch.float64)
        huge = exact.new_zeros(())
        if limited:
            ordinary = exact.abs() < HUGE
            huge = (~ordinary).sum().to(torch.float64)
            exact = torch.where(ordinary, exact, 0.0)
        least, greatest = exact.aminmax()
        rows.append(torch.stack([exact.sum(), exact.dot(exact), least, greatest, huge]))
    if len(rows) == 1:
        return list(map(float, rows[0].tolist()))
    table = torch.stack(rows)
    sums, lows, highs = table.sum(0).tolist(), table[:, 2].min().item(), table[:, 3].max().item()
    return [sums[0], sums[1], lows, highs, sums[4]]


def _pieces(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield all entries as flat tensors of at most about `PIECE` entries; in memory order where there are no gaps."""
    if tensor.dim() <= 1 or is_dense(tensor):
        flat = tensor if tensor.dim() == 1 else torch.as_strided(tensor, (tensor.numel(),), (1,))
        yield from torch.split(flat, PIECE)
        return
    if tensor.numel() <= PIECE:
        yield tensor.reshape(-1)
        return
    per_row = tensor.numel() // tensor.shape[0]
    if per_row > PIECE:
        for row in tensor.unbind(0):
            yield from _pieces(row)
        return
    for rows in torch.split(tensor, PIECE // per_row):
        yield rows.reshape(-1)
