"""Values on their way to a device: through pinned memory, so that some are under way while others are read.

Each thread has a stream of the device for itself. Copies within one stream keep their order; nothing else that the device
does waits for them, so that they begin behind what was asked of it before, and are waited for before anything is asked
of it afterwards.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from torchgraft.applying.chunks import SENT, WASTE, Stretch

if TYPE_CHECKING:
    import torch

    from torchgraft.applying.memory import Bytes

BUFFERS = 2  # one is read into while the other is under way


class _Buffer(NamedTuple):
    """Pinned memory, and the event after which nothing of it is under way."""

    memory: torch.Tensor
    sent: torch.cuda.Event


class DeviceCopier:
    """Sends to one device what one thread reads. Memory: BUFFERS times SENT, pinned."""

    def __init__(self, device: torch.device, ready: torch.cuda.Event) -> None:
        """Make a copier whose first copy begins after the event `ready`."""
        import torch

        self._stream: torch.cuda.Stream = torch.cuda.Stream(device)
        self._stream.wait_event(ready)
        with torch.cuda.device(device):
            self._buffers = [_Buffer(_pinned(SENT + WASTE), _event()) for _ in range(BUFFERS)]
        self._transpose = 0

    def memory(self) -> Bytes:
        """Return memory to read into; what was sent from it before has arrived."""
        self._transpose = (self._transpose + 1) % BUFFERS
        memory, sent = self._buffers[self._transpose]
        sent.synchronize()
        data: Bytes = memory.numpy()
        return data

    def send(self, stretches: Sequence[Stretch]) -> None:
        """Have what was read into the memory last returned copied to its places. Returns before it is there."""
        import torch

        memory, sent = self._buffers[self._transpose]
        with torch.cuda.stream(self._stream):
            for stretch in stretches:
                place = stretch.transfer.value.view(-1).view(torch.uint8)[stretch.at : stretch.at + stretch.size]
                _start_copy(place, memory[stretch.aside : stretch.aside + stretch.size])
            sent.record(self._stream)

    def wait(self) -> None:
        """Return when all that was sent has arrived.

        Raises:
            RuntimeError: the device failed.
        """
        self._stream.synchronize()


def _pinned(size: int) -> torch.Tensor:
    """Return memory that a device reads by itself."""
    import torch

    return torch.empty(size, dtype=torch.uint8, device="cpu", pin_memory=True)


def _event() -> torch.cuda.Event:
    import torch

    event: torch.cuda.Event = torch.cuda.Event()
    return event


def _start_copy(place: torch.Tensor, values: torch.Tensor) -> None:
    """Have the stream at hand copy pinned `values` to the device, and return at once."""
    place.copy_(values, non_blocking=True)


class DeviceCopiers:
    """The copiers of all threads, made as they are needed."""

    def __init__(self) -> None:
        self._ready: dict[torch.device, torch.cuda.Event] = {}
        self._own = threading.local()
        self._all: list[DeviceCopier] = []

    def begin(self, devices: Iterable[torch.device]) -> None:
        """Take what the calling thread has asked of `devices` so far as what copies must wait for."""
        import torch

        for device in devices:
            self._ready[device] = torch.cuda.current_stream(device).record_event()

    def to(self, device: torch.device) -> DeviceCopier:
        """Return the calling thread's copier to a device."""
        mine: dict[torch.device, DeviceCopier] = self._own.__dict__.setdefault("copiers", {})
        if device not in mine:
            mine[device] = DeviceCopier(device, self._ready[device])
            self._all.append(mine[device])
        return mine[device]

    def wait(self) -> None:
        """Return when all that was sent has arrived, and nothing of the pinned memory is needed any more.

        Raises:
            RuntimeError: a device failed.
        """
        failures = []
        for copier in list(self._all):
            try:
                copier.wait()
            except RuntimeError as error:  # the other devices may still be at work
                failures.append(error)
        if failures:
            raise failures[0]
