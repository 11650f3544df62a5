"""Real checkpoints, the models that they belong to, and changed ones. `python tests/golden/golden_models.py` writes the reports.

Each report is read by eye before it is committed: it states what the outside of the library is like.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
PNET = HERE / "files" / "mtcnn_pnet.pt"
LPIPS = HERE / "files" / "lpips_alex.pth"
_TIMES = re.compile(r"\b\d+(\.\d+)? (ms|s)\b")


class PNet(nn.Module):
    """The proposal network of MTCNN (Zhang et al., 2016), under the names of facenet-pytorch."""

    def __init__(self, *, classes: int = 2) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 10, 3)
        self.prelu1 = nn.PReLU(10)
        self.pool1 = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.conv2 = nn.Conv2d(10, 16, 3)
        self.prelu2 = nn.PReLU(16)
        self.conv3 = nn.Conv2d(16, 32, 3)
        self.prelu3 = nn.PReLU(32)
        self.conv4_1 = nn.Conv2d(32, classes, 1)
        self.conv4_2 = nn.Conv2d(32, 4, 1)


class Listed(nn.Module):
    """The same as one list of layers, with a layer inserted, one more at the end, three classes, and a third head."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 10, 3), nn.PReLU(10), nn.MaxPool2d(2, 2, ceil_mode=True),
            nn.Conv2d(10, 10, 1), nn.ReLU(),
            nn.Conv2d(10, 16, 3), nn.PReLU(16),
            nn.Conv2d(16, 32, 3), nn.PReLU(32),
            nn.Conv2d(32, 32, 3), nn.ReLU(),
        )  # fmt: skip
        self.face = nn.Conv2d(32, 3, 1)
        self.box = nn.Conv2d(32, 4, 1)
        self.landmarks = nn.Conv2d(32, 10, 1)


class Lpips(nn.Module):
    """The perceptual distance of Zhang et al. (2018): a backbone, and a linear layer for each of its five stages."""

    def __init__(self, *, shortened: bool = False) -> None:
        super().__init__()
        from torchvision.models import alexnet

        self.net = alexnet().features
        widths = [64, 192, 384, 256, 256][: 4 if shortened else 5]
        for at, width in enumerate(widths):
            setattr(self, f"lin{at}", NetLinLayer(width))


class NetLinLayer(nn.Module):
    """Dropout and a 1x1 convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Dropout(), nn.Conv2d(width, 1, 1, bias=False))


CASES: dict[str, tuple[Path, Callable[[], nn.Module], dict[str, Any]]] = {
    "pnet_itself": (PNET, PNet, {}),
    "pnet_other_head": (PNET, lambda: PNet(classes=3), {}),
    "pnet_as_a_list": (PNET, Listed, {}),
    "lpips_itself": (LPIPS, Lpips, {}),
    "lpips_shortened": (LPIPS, lambda: Lpips(shortened=True), {}),
}


def report(name: str) -> str:
    """Return what load() prints, with times taken out and the file without its folder."""
    import torchgraft as tg

    file, build, asked = CASES[name]
    text = str(tg.load(build(), file, **asked))
    return _TIMES.sub("0 s", text.replace(str(file), file.name)).rstrip() + "\n"


def golden(name: str) -> Path:
    """Return where the report of a case is kept."""
    return HERE / f"{name}.txt"


def main() -> None:
    """Write all reports."""
    for name in sys.argv[1:] or CASES:
        golden(name).write_text(report(name), encoding="utf-8")


if __name__ == "__main__":
    main()
