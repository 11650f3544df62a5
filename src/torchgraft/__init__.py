"""Put the weights of a checkpoint into a PyTorch model that is not quite the one they were saved from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchgraft.adapting import AxisNames
    from torchgraft.api import build, load, plan
    from torchgraft.arguments import Arguments
    from torchgraft.conversions import convert, inverse, learn
    from torchgraft.core.errors import (
        ApplyError,
        CheckpointError,
        CorruptCheckpointError,
        LimitExceededError,
        MissingFileError,
        ModelLostError,
        PlanRefusedError,
        TorchgraftError,
        UninitialisedError,
        UnsafeCheckpointError,
        UnsupportedCheckpointError,
        UsageError,
        WriteError,
    )
    from torchgraft.core.objections import Objection
    from torchgraft.core.plan import (
        Action,
        Certainty,
        Plan,
        Step,
        Unused,
    )
    from torchgraft.core.policy import Policy, Verdict
    from torchgraft.core.results.diff import Diff
    from torchgraft.core.results.inspection import Inspection
    from torchgraft.core.results.report import Report, Saved
    from torchgraft.core.results.verification import Hyperparameters, Verification
    from torchgraft.inspecting import diff, inspect
    from torchgraft.learning import Learned
    from torchgraft.proofs import compare_hyperparameters, record, verify
    from torchgraft.reading import open_checkpoint
    from torchgraft.saving import read_plan, save, save_model, save_plan
    from torchgraft.training import measure_benefit, optimizer_state
    from torchgraft.tuning import Benefit, CarriedState, Frozen, freeze, loaded_masks, param_groups
    from torchgraft.verifying.golden import Golden

__version__ = "0.1.0"

# Where each public name lives; looked up on first use, so that importing torchgraft costs next to nothing (PEP 562).
_NAMES = {
    "api": "load plan build",
    "inspecting": "inspect diff",
    "training": "optimizer_state measure_benefit",
    "saving": "save save_model save_plan read_plan",
    "tuning": "freeze loaded_masks param_groups Frozen CarriedState Benefit",
    "arguments": "Arguments",
    "verifying.golden": "Golden",
    "proofs": "verify compare_hyperparameters record",
    "core.errors": "TorchgraftError UsageError CheckpointError CorruptCheckpointError UnsafeCheckpointError "
    "UnsupportedCheckpointError LimitExceededError PlanRefusedError WriteError ApplyError ModelLostError "
    "UninitialisedError MissingFileError",
    "core.policy": "Policy Verdict",
    "adapting": "AxisNames",
    "core.plan": "Plan Step Unused Objection Action Certainty",
    "core.results.diff": "Diff",
    "core.results.inspection": "Inspection",
    "core.results.report": "Report Saved",
    "learning": "Learned",
    "conversions": "convert inverse learn",
    "core.results.verification": "Verification Hyperparameters",
    "reading": "open_checkpoint",
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names.split()}

__all__ = [  # the names of _HOMES, spelled out for type checkers and readers
    "Action", "ApplyError", "Arguments", "AxisNames", "Benefit", "CarriedState", "Certainty", "CheckpointError",
    "CorruptCheckpointError", "Diff", "Frozen", "Golden", "Hyperparameters", "Inspection", "Learned",
    "LimitExceededError", "MissingFileError", "ModelLostError", "Objection", "Plan", "PlanRefusedError", "Policy", "Report",
    "Saved", "Step", "TorchgraftError", "UninitialisedError", "UnsafeCheckpointError", "UnsupportedCheckpointError", "Unused",
    "UsageError", "Verdict", "Verification", "WriteError", "__version__", "build", "compare_hyperparameters",
    "convert", "diff", "freeze", "inspect", "inverse", "learn", "load", "loaded_masks", "measure_benefit",
    "open_checkpoint", "optimizer_state", "param_groups", "plan", "read_plan", "record", "save", "save_model",
    "save_plan", "verify",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'torchgraft' has no attribute {name!r}")
    from importlib import import_module

    from torchgraft.core.system.fast_objects import collector_paused

    with collector_paused():  # else it looks at all that torch has made, for the sake of what importing makes
        value = getattr(import_module(f"torchgraft.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
