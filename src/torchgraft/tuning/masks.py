"""Which elements of a model came from the checkpoint, and holding them where they are while the others learn.

A gradient of zero holds an element under plain SGD, and under Adam, Adagrad, RMSprop and momentum that start with it.
It doesn't hold under weight decay, which shrinks weights by their size (decoupled decay, as in AdamW, too), nor under
moments that were gathered before. What an optimizer changes all the same, `restore_after_steps` puts back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torchgraft.core.errors import UsageError
from torchgraft.core.plan import Rows
from torchgraft.core.types import Module, Optimizer, Tensor
from torchgraft.tuning.fates import Fate, Loads, tensor_fates


def loaded_masks(model: Module, report: Loads) -> dict[str, Tensor]:
    """Return for each tensor of `model` (its first name) which elements came from the checkpoint, as booleans of its shape.

    After several loads, `report` is a list of theirs, in that order.

    Resized tensors came as a whole. Masks of tensors that came in part are expanded views along one axis: cheap to hold,
    not to be written to.

    Raises:
        UsageError: the report is for another model.
    """
    import torch

    out = {}
    for tensor in tensor_fates(model, report).tensors:
        value = tensor.tensor
        if tensor.known is None:
            whole = tensor.fate in (Fate.LOADED, Fate.ADAPTED)
            out[tensor.name] = torch.tensor(whole, device=value.device).expand(value.shape)
        else:
            out[tensor.name] = mask_of(tensor.known, value)
    return out


def mask_of(rows: Rows, value: Tensor) -> Tensor:
    """Return booleans of the shape and on the device of `value`, true at the indices of `rows`."""
    import torch

    flags = torch.zeros(value.shape[rows.dim], dtype=torch.bool, device=value.device)
    flags[list(rows.indices)] = True
    return flags.reshape(-1, *[1] * (value.ndim - rows.dim - 1)).expand(value.shape)


@dataclass(frozen=True, slots=True)
class ZeroGradientHook:
    """A hook on a parameter: the gradient of its held part is zero, also of sparse gradients (embeddings)."""

    rows: Rows

    def __call__(self, gradient: Tensor) -> Tensor:
        """Return the gradient without the held part; the one that is given isn't changed."""
        if not gradient.is_sparse:
            return gradient.masked_fill(mask_of(self.rows, gradient), 0)
        return self._masked_sparse(gradient.coalesce())

    def _masked_sparse(self, gradient: Tensor) -> Tensor:
        import torch

        indices, values = gradient.indices(), gradient.values()
        if self.rows.dim >= gradient.sparse_dim():
            inner = type(self.rows)(self.rows.dim - gradient.sparse_dim() + 1, self.rows.indices)
            values = values.masked_fill(mask_of(inner, values), 0)
        else:
            held = torch.isin(indices[self.rows.dim], torch.tensor(self.rows.indices, device=indices.device))
            indices, values = indices[:, ~held], values[~held]
        return torch.sparse_coo_tensor(indices, values, gradient.shape, is_coalesced=True, check_invariants=False)


def hold_rows(parameter: Tensor, rows: Rows) -> Callable[[], None]:
    """Give the gradients of `parameter` no part in `rows` from now on; return what takes that back."""
    gradient = parameter.grad
    handle = parameter.register_hook(ZeroGradientHook(rows))
    parameter.grad = None

    def undo() -> None:
        handle.remove()
        if parameter.grad is None:
            parameter.grad = gradient

    return undo


def held_rows(parameter: Tensor) -> Rows | None:
    """Return the part of a parameter that is held, None when none is."""
    hooks = (parameter._backward_hooks or {}).values()  # noqa: SLF001  # torch has no public way to ask for them
    return next((hook.rows for hook in hooks if isinstance(hook, ZeroGradientHook)), None)


def restore_after_steps(optimizer: Optimizer, parameters: Sequence[Tensor]) -> Callable[[], None]:
    """Put the held parts of `parameters` back after each step of `optimizer`; return what takes that back.

    Holds a copy of these parts.

    Raises:
        UsageError: the optimizer changes none of the parameters.
    """
    optimised = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    parts = [(p, rows) for p in parameters if id(p) in optimised and (rows := held_rows(p)) is not None]
    if not parts:
        raise UsageError(
            "nothing to keep: the optimizer has no parameter that is held in part; make it over the parameters of this "
            "model, after freeze(partly='hold')"
        )
    copies = [(parameter, *_copy_of_rows(parameter, rows)) for parameter, rows in parts]

    def put_back(*_: object) -> None:
        for parameter, dim, indices, values in copies:
            parameter.data.index_copy_(dim, indices, values)

    return optimizer.register_step_post_hook(put_back).remove


def _copy_of_rows(parameter: Tensor, rows: Rows) -> tuple[int, Tensor, Tensor]:
    """Return the axis, the indices, and a copy of the values there."""
    import torch

    indices = torch.tensor(rows.indices, device=parameter.device)
    return rows.dim, indices, parameter.detach().index_select(rows.dim, indices)
