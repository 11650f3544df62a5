"""Put the weights of a checkpoint into a PyTorch model that is not quite the one they were saved from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchgraft.api import load as load
    from torchgraft.api import plan as plan

__version__ = "0.1.0"

# Where each public name lives; looked up on first use, so that importing torchgraft costs next to nothing (PEP 562).
_HOMES = {
    "load": "api",
    "plan": "api",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'torchgraft' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"torchgraft.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
