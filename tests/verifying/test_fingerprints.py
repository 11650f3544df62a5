"""A fingerprint is of the entries, however they lie in memory and however many pieces they are looked at in."""

import pytest
import torch

from torchgraft.verifying.tracing import fingerprints

LAYOUTS = {
    "whole": lambda t: t,
    "turned": lambda t: t.transpose(0, 2),
    "every other column": lambda t: t[..., ::2],
    "every other row": lambda t: t[::2],
    "one part": lambda t: t[1:4, 2:5],
    "spread out": lambda t: t[:, :1].expand(-1, 9, -1),
}


@pytest.mark.parametrize("piece", [1 << 20, 16, 5, 1])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_pieces_add_up_to_the_whole(layout, piece, monkeypatch):
    monkeypatch.setattr(fingerprints, "PIECE", piece)
    values = LAYOUTS[layout](torch.randn(6, 7, 8, dtype=torch.float64) * 10)
    found = fingerprints.fingerprint(values)
    expected = values.sum().item(), (values**2).sum().item()
    assert (found.numel, found.huge) == (values.numel(), 0)
    assert (found.total, found.squares) == pytest.approx(expected)
    assert (found.least, found.greatest) == (values.min().item(), values.max().item())


def test_what_is_huge_is_counted_in_every_piece(monkeypatch):
    monkeypatch.setattr(fingerprints, "PIECE", 5)
    values = torch.randn(6, 7)[:, ::2].clone()
    values[::2, 0] = -1e9
    found = fingerprints.fingerprint(values.T)
    assert (found.huge, found.numel) == (3, 24)
    assert found.least > -5000
