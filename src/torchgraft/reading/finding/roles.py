"""What a part of a checkpoint is for, by the name of its container: weights, averaged weights, training state."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torchgraft.core.names import words
from torchgraft.core.specs import TensorSpec

_OPTIMIZER = frozenset({
    "optimizer", "optimizers", "optim", "opt", "optims", "scheduler", "schedulers", "sched", "scaler", "scalers",
    "gradscaler", "amp",
})  # fmt: skip
_EMA = frozenset({"ema", "swa", "polyak", "averaged", "avg", "shadow"})
_OTHER = frozenset({
    "rng", "rngs", "random", "history", "losses", "metrics", "callbacks", "loops", "callback", "hyper", "hparams",
    "config", "configs", "cfg", "args", "logs", "log", "results", "stats", "constants",
})  # fmt: skip
# Scalars of the training loop that lie beside a state dict as 0-d tensors.
_COUNTERS = frozenset({
    "epoch", "epochs", "step", "steps", "iteration", "iter", "iterations", "best", "loss", "acc", "accuracy", "score",
    "lr", "seed", "fitness", "prec1", "acc1", "top1", "metric", "map", "bleu", "wer", "cer", "updates", "decay",
})  # fmt: skip
# What torch.optim's optimizers keep for each parameter (their documentation names the moments; the sources the keys).
_MOMENTS = frozenset(
    {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "momentum_buffer", "square_avg", "acc_delta"}
)
_STATE = _MOMENTS | {"step", "grad_avg", "eta", "mu", "ax", "sum", "prev", "step_size", "mu_product"}
# States of the Mersenne Twister, as torch writes them for the CPU and numpy does, and of CUDA's generator.
_GENERATORS = frozenset({("uint8", (5056,)), ("uint32", (624,)), ("uint8", (16,))})


def role_of(key: str, value: Any, inherited: str) -> str:
    """Return the role of the part under `key`: "model", "ema", "optimizer" or "other"."""
    if inherited in ("optimizer", "other"):
        return inherited
    parts = set(words(key)) if "." not in key else set()
    if parts & _OPTIMIZER or is_optimizer(value):
        return "optimizer"
    if parts & _OTHER and not parts & {"state", "model", "net", "weights"} - ({"state"} if "rng" in parts else set()):
        return "other"
    if parts & _EMA:
        return "ema"
    return inherited


def is_counter(key: str, numel: int) -> bool:
    """Return whether a lone tensor beside state dicts is the training loop's, not the model's."""
    if "." in key:
        return False
    parts = set(words(key))
    return "rng" in parts or (numel <= 1 and bool(parts & _COUNTERS))


def are_moments(names: Iterable[str]) -> bool:
    """Return whether all names are those of an optimizer's state, as flat files have them: `state.0.exp_avg`."""
    lasts = set()
    for name in names:
        last = name.rpartition(".")[2]
        if last not in _STATE:
            return False
        lasts.add(last)
    return bool(lasts & _MOMENTS)


def are_generators(specs: Iterable[TensorSpec]) -> bool:
    """Return whether all tensors are states of random generators, of which torch's are bytes and numpy's are words."""
    return all((str(spec.dtype), spec.shape) in _GENERATORS for spec in specs)


def is_optimizer(value: Any) -> bool:
    """Return whether `value` is what an optimizer's `state_dict()` gives."""
    return isinstance(value, dict) and "param_groups" in value and "state" in value
