"""Train a tiny network on some digits, put its weights into a changed network for other digits, and see if it helped.

    python examples/digits.py [--seeds 8] [--epochs 60] [--per-class 5]

The data ships with scikit-learn: 1,797 images of 8x8 pixels. The first network learns to tell 0 to 5 apart and is saved.
The second is to learn 6, 7, 8 and 9 from a few images each, and differs: four classes, a layer inserted in the stem (so
that the numbers in its names shift), one more block. Three ways to train it are compared on the same images: from
scratch; all loaded parts frozen; all of it, fresh parts faster. All runs fit into half a minute on two cores.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path
from statistics import mean, stdev

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

import torchgraft as tg

FIRST_EPOCHS = 12
Data = tuple[Tensor, Tensor]
T95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}  # Student's t, n values


class Block(nn.Module):
    """Two convolutions beside a shortcut. The last norm starts at zero: a new block changes nothing at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        nn.init.zeros_(self.norm2.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return x plus what the block adds to it."""
        y = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(x + self.norm2(self.conv2(y)))


class Net(nn.Module):
    """A stem, a few blocks, and a head."""

    def __init__(self, classes: int, blocks: int, *, inserted: bool = False) -> None:
        super().__init__()
        stem = [nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
        if inserted:
            stem += [nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16), nn.ReLU()]
            nn.init.dirac_(stem[3].weight)  # a layer in the middle starts best as one that changes nothing
            nn.init.zeros_(stem[3].bias)
        stem += [nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
        self.stem = nn.Sequential(*stem)
        self.blocks = nn.Sequential(*(Block(32) for _ in range(blocks)))
        self.head = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def digits(which: range) -> Data:
    """Return all images of some digits, and their classes from 0."""
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    y = torch.tensor(labels)
    chosen = (y >= which.start) & (y < which.stop)
    return x[chosen], y[chosen] - which.start


def few_of_each(data: Data, count: int, seed: int) -> tuple[Data, Data]:
    """Return `count` images of each class to train on, and all others to test on."""
    x, y = data
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    picked = torch.cat([order[y[order] == c][:count] for c in y.unique()])
    rest = torch.ones(len(y), dtype=torch.bool)
    rest[picked] = False
    return (x[picked], y[picked]), (x[rest], y[rest])


def train(model: nn.Module, optimizer: torch.optim.Optimizer, data: Data, epochs: int, seed: int) -> None:
    """Train on batches of 32."""
    x, y = data
    shuffle = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(y), generator=shuffle).split(32):
            optimizer.zero_grad()
            functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, data: Data) -> float:
    """Return the share of right answers, in percent."""
    model.eval()
    return 100 * (model(data[0]).argmax(1) == data[1]).float().mean().item()


def changed(seed: int) -> Net:
    """Return the second network, untrained."""
    torch.manual_seed(seed)
    return Net(4, blocks=3, inserted=True)


def from_scratch(checkpoint: Path, data: Data, epochs: int, seed: int) -> Net:
    """Train everything from its initial values."""
    del checkpoint
    model = changed(seed)
    train(model, torch.optim.AdamW(model.parameters(), lr=3e-3), data, epochs, seed)
    return model


def frozen(checkpoint: Path, data: Data, epochs: int, seed: int) -> Net:
    """Load; train only what is fresh."""
    model = changed(seed)
    report = tg.load(model, checkpoint)
    tg.freeze(model, report)
    train(model, torch.optim.AdamW(tg.param_groups(model, report, lr=3e-3)), data, epochs, seed)
    return model


def tuned(checkpoint: Path, data: Data, epochs: int, seed: int) -> Net:
    """Load; train all, what is fresh at a higher rate."""
    model = changed(seed)
    report = tg.load(model, checkpoint)
    groups = tg.param_groups(model, report, lr=1e-3, fresh_lr=3e-3, weight_decay=0.01)
    train(model, torch.optim.AdamW(groups), data, epochs, seed)
    return model


def spread(values: list[float]) -> float:
    """Return half the width of the 95 % interval of the mean."""
    count = len(values)
    return T95.get(count, 2.26) * stdev(values) / math.sqrt(count) if count > 1 else math.nan


def compare(checkpoint: Path, seeds: int, epochs: int, per_class: int) -> None:
    """Train in three ways on the same draws of images, and print accuracies and their differences."""
    ways = {"from scratch": from_scratch, "loaded, frozen": frozen, "loaded, tuned": tuned}
    data = digits(range(6, 10))
    scores: dict[str, list[float]] = {name: [] for name in ways}
    for seed in range(seeds):
        few, rest = few_of_each(data, per_class, seed)
        for name, way in ways.items():
            scores[name].append(accuracy(way(checkpoint, few, epochs, seed), rest))
    print(f"\naccuracy on unseen 6, 7, 8, 9 after {epochs} epochs on {per_class} images of each, {seeds} draws")
    base = scores["from scratch"]
    for name, values in scores.items():
        gains = [a - b for a, b in zip(values, base, strict=True)]
        gain = "" if values is base else f"   {mean(gains):+.1f} ± {spread(gains):.1f} against scratch"
        print(f"  {name:15} {mean(values):5.1f} ± {spread(values):.1f} %{gain}")
    print("  (± is the 95 % interval over draws; differences are taken draw by draw)")


def main() -> None:
    """Do all of it."""
    parser = argparse.ArgumentParser(description="Does a checkpoint of other digits help?")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--per-class", type=int, default=5)
    asked = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "digits.pt"
        torch.manual_seed(0)
        first = Net(6, blocks=2)
        old = digits(range(6))
        train(first, torch.optim.AdamW(first.parameters(), lr=3e-3), old, FIRST_EPOCHS, seed=0)
        torch.save({"model": first.state_dict(), "epochs": FIRST_EPOCHS}, checkpoint)
        print(f"trained on 0 to 5, {accuracy(first, old):.1f} % right on what it saw; saved\n")

        second = changed(seed=0)
        print(tg.plan(second, checkpoint), "\n")
        report = tg.load(second, checkpoint)
        print(report, "\n")
        print(tg.freeze(second, report))
        print("groups:", {g["name"]: len(g["params"]) for g in tg.param_groups(second, report, lr=1e-3)})
        compare(checkpoint, asked.seeds, asked.epochs, asked.per_class)


if __name__ == "__main__":
    main()
