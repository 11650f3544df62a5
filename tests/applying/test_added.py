"""Which adapters were added to which values is remembered, and not without end."""

from torchgraft.applying import added


def test_the_oldest_are_forgotten(monkeypatch):
    monkeypatch.setattr(added, "_PARTS", {})
    monkeypatch.setattr(added, "MOST", 3)
    for number in range(5):
        added.note("w", number, number + 100, [7, number])
    assert [added.holds("w", number + 100, [7, number]) for number in range(5)] == [False, False, True, True, True]


def test_adapters_add_up():
    added.note("w", 1, 2, [5])
    added.note("w", 2, 3, [6])
    assert added.holds("w", 3, [5])
    assert added.holds("w", 3, [6])
    assert not added.holds("w", 2, [6])
