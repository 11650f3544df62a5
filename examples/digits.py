"""Train a tiny network on some digits, put its weights into a changed network for other digits, and see if it helped.

    python examples/digits.py [--seeds 8] [--epochs 60] [--per-class 5]

The data ships with scikit-learn: 1,797 images of 8x8 pixels. The first network learns to tell 0 to 5 apart and is saved.
The second is to learn 6, 7, 8 and 9 from a few images each, and differs: four classes, a layer inserted in the stem (so
that the numbers in its names shift), one more block. It is trained on the same images with what was loaded and without
it, once with all loaded parts frozen, once as a whole, fresh parts faster. All runs fit into a minute on two cores.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

import torchgraft as tg

FIRST_EPOCHS = 12
Data = tuple[Tensor, Tensor]
Way = Callable[[nn.Module, "tg.Report | None"], list[dict[str, Any]]]


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


def few_of_each(data: Data, count: int) -> tuple[Data, Data]:
    """Return `count` images of each class to train on, and all others to test on."""
    x, y = data
    order = torch.randperm(len(y))
    picked = torch.cat([order[y[order] == c][:count] for c in y.unique()])
    rest = torch.ones(len(y), dtype=torch.bool)
    rest[picked] = False
    return (x[picked], y[picked]), (x[rest], y[rest])


def train(model: nn.Module, optimizer: torch.optim.Optimizer, data: Data, epochs: int) -> None:
    """Train on batches of 32."""
    x, y = data
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(y)).split(32):
            optimizer.zero_grad()
            functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, data: Data) -> float:
    """Return the share of right answers, in percent."""
    model.eval()
    return 100 * (model(data[0]).argmax(1) == data[1]).float().mean().item()


def changed() -> Net:
    """Return the second network, untrained."""
    return Net(4, blocks=3, inserted=True)


def frozen(model: nn.Module, report: tg.Report | None) -> list[dict[str, Any]]:
    """Train only what is fresh; from scratch, everything."""
    if report is None:
        return [{"params": list(model.parameters()), "lr": 3e-3}]
    tg.freeze(model, report)
    return tg.param_groups(model, report, lr=3e-3)


def tuned(model: nn.Module, report: tg.Report | None) -> list[dict[str, Any]]:
    """Train all, what is fresh at a higher rate."""
    if report is None:
        return [{"params": list(model.parameters()), "lr": 3e-3}]
    return tg.param_groups(model, report, lr=1e-3, fresh_lr=3e-3, weight_decay=0.01)


def compare(checkpoint: Path, seeds: int, epochs: int, per_class: int) -> None:
    """Train with the load and without it, on the same draws of images, and print what it was worth."""
    data = digits(range(6, 10))
    print(f"\naccuracy on unseen 6, 7, 8, 9 after {epochs} epochs on {per_class} images of each, in percent")
    for way in (frozen, tuned):

        def score(model: nn.Module, report: tg.Report | None, way: Way = way) -> float:
            few, rest = few_of_each(data, per_class)
            train(model, torch.optim.AdamW(way(model, report)), few, epochs)
            return accuracy(model, rest)

        print(f"\n{way.__name__}: {tg.measure_benefit(changed, checkpoint, score, seeds=range(seeds))}")


def main() -> None:
    """Do all of it."""
    parser = argparse.ArgumentParser(description="Does a checkpoint of other digits help?")
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--per-class", type=int, default=5)
    asked = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "digits.pt"
        torch.manual_seed(0)
        first = Net(6, blocks=2)
        old = digits(range(6))
        train(first, torch.optim.AdamW(first.parameters(), lr=3e-3), old, FIRST_EPOCHS)
        torch.save({"model": first.state_dict(), "epochs": FIRST_EPOCHS}, checkpoint)
        print(f"trained on 0 to 5, {accuracy(first, old):.1f} % right on what it saw; saved\n")

        second = changed()
        print(str(tg.plan(second, checkpoint)).splitlines()[0], "\n")
        report = tg.load(second, checkpoint)
        print(report, "\n")
        print(tg.freeze(second, report))
        print("groups:", {g["name"]: len(g["params"]) for g in tg.param_groups(second, report, lr=1e-3)})
        compare(checkpoint, asked.seeds, asked.epochs, asked.per_class)


if __name__ == "__main__":
    main()
