"""What a model's own loading code would do beside filling tensors, and torchgraft doesn't do: said in notes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torchgraft.core.formatting import listed
from torchgraft.core.places import Walk, walk_of
from torchgraft.core.types import Module

SHOWN = 3


def skipped_code(model: Module | Walk) -> Iterator[str]:
    """Yield a note for each kind of loading code of `model` that is not run: none for most models."""
    walk = walk_of(model)
    kinds = set(walk.kinds)  # a large model has few classes
    keeping = {kind for kind in kinds if _is_foreign(kind, "set_extra_state")}
    if keeping:
        said = _listed_modules([path for path, module in walk.modules if type(module) in keeping])
        yield (
            f"state beside the tensors of {said} (set_extra_state) is not loaded: hand it over yourself, or save and load it "
            "by torch"
        )
    hooked = [path for path, module in walk.hooked if any(map(_is_from_elsewhere, _post_hooks(module)))]
    if hooked:
        yield (
            f"code that {_listed_modules(hooked)} would run after load_state_dict (post hooks) is not run: call it where it "
            "works something out from the weights"
        )
    if walk.altered:
        yield (
            f"state_dict() of {type(walk.model).__name__} gives {listed(walk.altered, SHOWN)} in another form (shape, type or "
            "order of axes) than the model holds it: what the file has under that name goes in as it is; permute= turns it"
        )
    kind = type(walk.model)
    if _is_foreign(kind, "load_state_dict"):
        yield f"{kind.__name__} has a load_state_dict of its own: it is not called; tensors go in as the file has them"


def _post_hooks(module: Module) -> Iterable[object]:
    return module._load_state_dict_post_hooks.values()  # noqa: SLF001  # torch has no public way to ask for them


def _is_foreign(kind: type, method: str) -> bool:
    """Return whether a class has a method from elsewhere than torch."""
    return _is_from_elsewhere(getattr(kind, method, None))


def _is_from_elsewhere(code: object) -> bool:
    """Return whether code is not torch's own: that works on what is there, whoever filled it."""
    home: str = getattr(getattr(code, "func", code), "__module__", None) or "torch"
    return home.partition(".")[0] != "torch"


def _listed_modules(paths: list[str]) -> str:
    return listed([path or "the model itself" for path in paths], SHOWN)
