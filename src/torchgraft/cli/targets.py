"""The model that the command line names: a callable to import, or a checkpoint whose tensors stand for one."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from torchgraft.core.errors import TorchgraftError, UsageError, printable
from torchgraft.core.formatting import did_you_mean, listed
from torchgraft.core.objects import a_kind
from torchgraft.core.system.shield import Shield
from torchgraft.core.types import Module

_CALLABLE = re.compile(r"(?:[A-Za-z_][\w.]*|.+\.py):[A-Za-z_][\w.]*")


def is_path(model: str) -> bool:
    """Return whether `--model` names a checkpoint, not a callable.

    Raises:
        UsageError: it names neither.
    """
    if model and _is_there(model):
        if model.endswith(".py"):
            raise UsageError(
                f"{printable(model)} is Python code: name the callable in it, too, as in {printable(model)}:build"
            )
        return True
    if _CALLABLE.fullmatch(model):
        return False
    raise UsageError(
        f"{printable(model)!r} is no file and no callable: give module:callable, or the path of a checkpoint"
    )


def files_read(model: str, given: Mapping[str, Any]) -> list[str | None]:
    """Return the paths, there or not, of what a command reads beside the checkpoint: code in the present folder, too."""
    inputs = [*given["inputs"], *given["source_inputs"]]
    settings = [text.rpartition("@")[2] for text in given["settings"]]
    code = [_code_of(model), _code_of(given["source_model"])]
    return [given["learned"], given["golden"], *inputs, *settings, *code]


def _code_of(model: str | None) -> str | None:
    home = (model or "").rpartition(":")[0]
    return home if home.endswith(".py") or not home else f"{home.replace('.', os.sep)}.py"


def _is_there(path: str) -> bool:
    """Return whether there is a file, as far as one may look: what lies behind a locked folder is seen when it is read."""
    try:
        return Path(path).exists()
    except PermissionError:
        return True


def for_planning(model: str, kwargs: str | None, option: str = "--model", *, needs_values: bool = False) -> Any:
    """Return the path of a checkpoint, or a model; on the meta device, without values, where its code and the plan allow."""
    if is_path(model):
        _without_kwargs(model, kwargs)
        return model
    import torch

    said = f"{option} {printable(model)}"
    build, arguments = _callable(model, said), _arguments(kwargs)
    if needs_values:
        return _built(build, arguments, said)
    try:
        with torch.device("meta"):
            return _built(build, arguments, said)
    except (UsageError, RuntimeError, NotImplementedError):
        return _built(build, arguments, said)


def for_loading(model: str, kwargs: str | None) -> Module:
    """Return a model with values: built by its callable, or holding the tensors of a checkpoint under their names."""
    if is_path(model):
        _without_kwargs(model, kwargs)
        return _holding(model)
    said = f"--model {printable(model)}"
    return _built(_callable(model, said), _arguments(kwargs), said)


def for_running(model: str, kwargs: str | None, option: str) -> Module:
    """Return a model that can be run: built by its callable."""
    if is_path(model):
        raise _not_built(option, model)
    said = f"{option} {printable(model)}"
    return _built(_callable(model, said), _arguments(kwargs), said)


def with_source(wanted: dict[str, Any], checkpoint: str) -> dict[str, Any]:
    """Return keyword arguments in which names of the source's model and inputs are replaced by the things themselves.

    The source's model is on the meta device where its code allows and nothing is run; else it is filled from `checkpoint`.

    Raises:
        UsageError: a model can't be built, or an input is none.
        CheckpointError: a file can't be read.
    """
    made = dict(wanted)
    for name in ("inputs", "source_inputs"):
        if name in made:
            made[name] = given_inputs(made[name], "--input" if name == "inputs" else "--source-input")
    kwargs, named = made.pop("source_kwargs", None), made.pop("source_model", None)
    if named is None:
        if kwargs is not None:
            raise UsageError("--source-kwargs goes with --source-model module:callable")
        return made
    if "inputs" not in made:
        if is_path(named):
            raise _not_built("--source-model", named)
        return {**made, "source_model": for_planning(named, kwargs, "--source-model")}
    from torchgraft import api

    origin = for_running(named, kwargs, "--source-model")
    report = api.load(origin, checkpoint, **({"prefer": made["prefer"]} if "prefer" in made else {}))
    if fresh := [step.slot.name for step in report.plan.fresh]:
        raise UsageError(
            f"--source-model {printable(named)}: {printable(checkpoint)} doesn't fill {listed(fresh)} of it, so that it isn't "
            "the model that the file was saved from; --source-kwargs are arguments of the callable"
        )
    return {**made, "source_model": origin}


def _not_built(option: str, model: str) -> UsageError:
    return UsageError(
        f"{option} {printable(model)} is a checkpoint, which has no layers to look at or to run: give module:callable"
    )


def _without_kwargs(model: str, kwargs: str | None) -> None:
    if kwargs is not None:
        raise UsageError(f"--kwargs goes with module:callable; --model {printable(model)} is a checkpoint")


def _arguments(kwargs: str | None) -> dict[str, Any]:
    try:
        found = json.loads(kwargs or "{}")
    except ValueError as error:
        raise UsageError(
            f"--kwargs {printable(kwargs or '')}: no JSON ({error}); e.g. '{{\"num_classes\": 10}}'"
        ) from error
    if not isinstance(found, dict):
        raise UsageError(f"--kwargs {printable(kwargs or '')}: use a JSON object, e.g. '{{\"num_classes\": 10}}'")
    return found


def _callable(model: str, said: str) -> Any:
    """Import what `module:name` or `file.py:name` says; modules in the present folder are found, as by `python -m`.

    `said` is how messages call it.

    Raises:
        UsageError: there is no such thing, or importing it fails.
    """
    home, _, name = model.rpartition(":")
    with Shield():  # torch takes a Ctrl-C while it imports numpy for a numpy that is missing, and goes on
        import_module("torch")
    try:
        found = _file(home) if home.endswith(".py") else _module(home)
    except ImportError as error:
        raise UsageError(f"{said}: {error}; give module:callable, or the path of a checkpoint") from error
    except (Exception, SystemExit) as error:
        raise UsageError(f"{said}: importing {home} raised {_in_words(error)}") from error
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            hint = did_you_mean(part, [one for one in dir(found) if callable(getattr(found, one, None))])
            raise UsageError(
                f"{said}: {error}{hint or '; give module:callable, or the path of a checkpoint'}"
            ) from error
    return found


def _module(home: str) -> Any:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    return import_module(home)


def _file(path: str) -> Any:
    """Run a file as a module of a name of its own: two files of one name are two modules. Those beside it are found."""
    place = os.path.realpath(path)
    spec = spec_from_file_location(place, place)
    if spec is None or spec.loader is None or not os.path.exists(place):
        raise ImportError(f"there is no file {path}")
    if os.path.dirname(place) not in sys.path:
        sys.path.insert(0, os.path.dirname(place))
    made = sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def _in_words(error: BaseException) -> str:
    return f"{type(error).__name__}: {printable(str(error), 400)}"


def _built(build: Any, arguments: dict[str, Any], said: str) -> Module:
    from torch import nn

    if isinstance(build, nn.Module):
        return build
    try:
        made = build(**arguments)
    except TorchgraftError:
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(f"{said} raised {_in_words(error)}") from error
    if not isinstance(made, nn.Module):
        raise UsageError(f"{said} gives {a_kind(made)}; an nn.Module is needed")
    return made


def _holding(path: str) -> Module:
    """Return a module that holds the tensors of the main network of a checkpoint under their names."""
    from torch import nn

    from torchgraft.matching import only
    from torchgraft.reading import open_checkpoint

    root = nn.Module()
    with open_checkpoint(path) as source:
        network = only(source.networks, source.origin)
        shared = network.shared or {}
        made: dict[str, Any] = {}
        for name in network.specs:
            first = shared.get(name, name)
            if first not in made:
                tensor = source.read(network.path, first)
                made[first] = nn.Parameter(tensor, requires_grad=False) if tensor.is_floating_point() else tensor
            _put(root, name, made[first], path)
    return root


def _put(root: Module, name: str, tensor: Any, path: str) -> None:
    from torch import nn

    *owners, leaf = name.split(".")
    node = root
    try:
        for part in owners:
            if part not in node._modules:  # noqa: SLF001
                node.add_module(part, nn.Module())
            node = node.get_submodule(part)
        if isinstance(tensor, nn.Parameter):
            node.register_parameter(leaf, tensor)
        else:
            node.register_buffer(leaf, tensor)
    except (KeyError, AttributeError) as error:
        said = f"--model {printable(path)}: {printable(name)} can't be the name of a tensor in a module ({error})"
        raise UsageError(f"{said}; give the model as module:callable") from error


_SHAPE = re.compile(r"(?:(?P<name>[A-Za-z_]\w*)=)?(?P<shape>\d+(?:x\d+)*)(?::(?P<low>\d+)-(?P<high>\d+))?")
SEED = 0


def given_inputs(texts: Sequence[str], option: str) -> Any:
    """Return one input for a model: a tuple of arguments, or keywords where names are given.

    Each text is `[NAME=]2x3x224x224` (numbers from the normal distribution), `[NAME=]2x16:0-999` (whole numbers of
    that range), or the path of a file of tensors, whose names are keywords; a file of one tensor is the only argument.
    The one text "guess" is returned as it is: what both models run on is looked for then.

    `option` is what messages call it.

    Raises:
        UsageError: a text is neither, or names and no names are mixed.
        CheckpointError: a file can't be read.
    """
    import torch

    if list(texts) == ["guess"]:
        return texts[0]
    generator = torch.Generator().manual_seed(SEED)
    plain: list[Any] = []
    named: dict[str, Any] = {}
    for text in texts:
        found = _SHAPE.fullmatch(text)
        if found is None:
            tensors = _from_file(text, option)
            if len(texts) == len(tensors) == 1:
                return tuple(tensors.values())
            named |= tensors
            continue
        shape = [int(n) for n in found["shape"].split("x")]
        if not all(shape):
            raise UsageError(f"{option} {printable(text)}: an input without elements shows nothing")
        if found["low"] is None:
            value = torch.randn(shape, generator=generator)
        else:
            low, high = int(found["low"]), int(found["high"])
            if high < low:
                raise UsageError(f"{option} {printable(text)}: the range {low}-{high} is empty")
            value = torch.randint(low, high + 1, shape, generator=generator)
        if found["name"]:
            named[found["name"]] = value
        else:
            plain.append(value)
    if plain and named:
        raise UsageError(f"{option}: give names to all inputs or to none")
    return named or tuple(plain)


def _from_file(text: str, option: str) -> dict[str, Any]:
    from torchgraft.matching import choose
    from torchgraft.reading import open_checkpoint

    if not _is_there(text):
        raise UsageError(
            f"{option} {printable(text)}: neither a file nor a shape; e.g. 1x3x224x224, input_ids=1x16:0-999, or inputs.pt"
        )
    with open_checkpoint(text) as source:
        network = choose(source.networks, (), None).network
        return {name: source.read(network.path, name) for name in network.specs}
