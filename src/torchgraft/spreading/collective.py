"""The processes that hold a model together, and what they must agree on.

Everything here is collective: all members call the same methods in the same order, and an error in one of them is an
error in all, so that no process waits for one that gave up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from torchgraft.core import errors
from torchgraft.core.errors import ApplyError, PlanRefusedError, TorchgraftError, UsageError, printable
from torchgraft.core.system.shield import Shield
from torchgraft.core.types import Device, ProcessGroup, Tensor

T = TypeVar("T")


class Collective:
    """The members of one process group, for one load."""

    def __init__(self, group: ProcessGroup, shield: Shield) -> None:
        """`shield` holds back signals that would take this process away from the others, but for the time of local work."""
        import torch.distributed as dist

        self.group = group
        self.shield = shield
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)
        self._over = False

    def in_all(self, work: Callable[[], T]) -> T:
        """Return what `work` gives in this process, once it has given something in all.

        Raises:
            Exception: what `work` raised here; ApplyError where it raised in another process.
        """
        found: list[T] = []
        error: BaseException | None = None
        try:
            with self.shield.opened():
                found.append(work())
        except BaseException as raised:  # noqa: BLE001  # raised again below, when the others know
            error = raised
        self._agree(error)
        return found[0]

    def in_first(self, work: Callable[[], T]) -> T:
        """Return what `work` gives in the first process; the others get a copy.

        Raises:
            TorchgraftError: what `work` raised there, of the same kind in all processes.
        """
        import torch.distributed as dist

        box: list[Any] = [None]
        if self.rank == 0:
            try:
                with self.shield.opened():
                    box[0] = (True, work())
            except BaseException as error:  # noqa: BLE001  # raised again below, in all processes
                mine = error
                box[0] = (False, _told(error))
        with _in_contact():
            dist.broadcast_object_list(box, dist.get_global_rank(self.group, 0), group=self.group, device=self._wire())
        good, value = box[0]
        if good:
            result: T = value
            return result
        raise mine if self.rank == 0 else _again(value)

    def expect_same(self, fact: str, what: str) -> None:
        """Refuse to go on where `fact` is not the same text in all processes.

        Raises:
            UsageError: in the processes that differ from the first; ApplyError in the others.
        """
        first = self.in_first(lambda: fact)

        def compare() -> None:
            if fact != first:
                raise UsageError(f"process {self.rank} has {what} than the first one; all must load the same")

        self.in_all(compare)

    def vote(self, error: BaseException | None = None, *, last: bool = False) -> None:
        """Say whether this process could do its part; raise where another one couldn't.

        After a failure, or the `last` vote, nobody waits for votes any more: later calls do nothing.

        Raises:
            ApplyError: another process failed, with its words; or, unless there is an `error`, is gone.
        """
        if self._over:
            return
        try:
            self._agree(error, own=False)
            self._over = self._over or last
        except LostContactError:
            self._over = True
            if error is None:
                raise

    def all_reduce_max(self, flags: list[int]) -> list[int]:
        """Return for each place the largest number that any process has there (0 to 255)."""
        import torch
        import torch.distributed as dist

        if not flags:
            return flags
        values = torch.tensor(flags, dtype=torch.uint8, device=self._wire())
        with _in_contact():
            dist.all_reduce(values, dist.ReduceOp.MAX, group=self.group)
        found: list[int] = values.tolist()
        return found

    def all_gather(self, fact: T) -> list[T]:
        """Return what each process has, in order of rank."""
        import torch.distributed as dist

        told: list[Any] = [None] * self.size
        with _in_contact():
            dist.all_gather_object(told, fact, group=self.group)
        return told

    def broadcast(self, value: Tensor, source: int) -> Tensor:
        """Return the tensor that process `source` of the group has; the others give memory of its shape and type."""
        import torch
        import torch.distributed as dist

        raw = value.contiguous().reshape(-1).view(torch.uint8).to(self._wire())
        with _in_contact():
            dist.broadcast(raw, dist.get_global_rank(self.group, source), group=self.group)
        return raw.cpu().view(value.dtype).reshape(value.shape)

    def _wire(self) -> Device:
        """Return the device whose tensors the group can send."""
        import torch
        import torch.distributed as dist

        backends = dist.get_backend_config(self.group) if hasattr(dist, "get_backend_config") else "cpu"
        if "cpu" in str(backends) or not torch.accelerator.is_available():
            return torch.device("cpu")
        return torch.device(torch.accelerator.current_accelerator() or "cpu")

    def _agree(self, error: BaseException | None, *, own: bool = True) -> None:
        """Find out whether all went well. `own`: raise this process's own error, too."""
        failed = self.all_reduce_max([0 if error is None else 1])[0]
        if failed:
            self._over = True
            told = self.all_gather(None if error is None else _told(error))
            if error is None:
                lines = [f"process {at}: {t[0]}: {t[1]}" for at, t in enumerate(told) if t is not None]
                raise ApplyError("nothing was loaded, because another process failed; " + "; ".join(lines[:3]))
        if error is not None and own:
            raise error


class LostContactError(ApplyError):
    """Another process is gone, or waited too long."""


@contextmanager
def _in_contact() -> Iterator[None]:
    """Say it in our own words where a collective fails."""
    try:
        yield
    except RuntimeError as error:
        said = printable(str(error).splitlines()[0] if str(error) else type(error).__name__, 200)
        raise LostContactError(
            f"nothing was loaded, because another process doesn't answer any more ({said})"
        ) from error


def _told(error: BaseException) -> tuple[str, str, tuple[Any, ...]]:
    return type(error).__name__, str(error), error.objections if isinstance(error, PlanRefusedError) else ()


def _again(told: tuple[str, str, tuple[Any, ...]]) -> TorchgraftError:
    """Return an error of the kind that another process raised."""
    kind, text, objections = told
    if objections:
        return PlanRefusedError(objections)
    known = getattr(errors, kind, None)
    if isinstance(known, type) and issubclass(known, TorchgraftError) and known is not PlanRefusedError:
        return known(text)
    return ApplyError(f"the first process failed while planning: {kind}: {text}")
