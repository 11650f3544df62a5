"""What other readers make of a file that ours has read: of a name that both know, the bytes must be the same."""

from __future__ import annotations

import io
import warnings
from contextlib import redirect_stderr
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from harness import Fault

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Named = dict[str, bytes]


def beside(name: str, path: Path, ours: dict[tuple[str, str], bytes]) -> None:
    """Compare with the format's own reader where there is one and it takes the file, too.

    Raises:
        Fault: a tensor has other values than that reader gives.
    """
    if name not in READERS:
        return
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            theirs = READERS[name](path)
    except Exception:  # noqa: BLE001  what it can't read gives nothing to compare with
        return
    for key, value in theirs.items():
        if ours.get(("", key), value) != value:
            raise Fault(f"tensor {key!r:.60} differs from what the format's own reader gives")


def _torch(path: Path) -> Named:
    found = torch.load(io.BytesIO(path.read_bytes()), weights_only=True, map_location="cpu")
    return _tensors(found if isinstance(found, dict) else {})


def _tensors(found: dict[Any, Any]) -> Named:
    out = {}
    for key, value in found.items():
        if isinstance(value, torch.Tensor) and value.layout is torch.strided:
            flat = value.detach().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format).reshape(-1)
            out[key] = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    return out


def _safetensors(path: Path) -> Named:
    from safetensors.torch import load

    return _tensors(load(path.read_bytes()))


def _numpy(path: Path) -> Named:
    found = np.load(path, allow_pickle=False)
    arrays = {"arr_0": found} if isinstance(found, np.ndarray) else {key: found[key] for key in found.files}
    return {key: _native(value) for key, value in arrays.items()}


def _native(value: Any) -> bytes:
    array = np.asarray(value)
    return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False)).tobytes()


def _gguf(path: Path) -> Named:
    from gguf import GGUFReader

    return {tensor.name: tensor.data.tobytes() for tensor in GGUFReader(path).tensors}


def _onnx(path: Path) -> Named:
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(path).graph
    found = {tensor.name: tensor for tensor in graph.initializer}
    constants = [node for node in graph.node if node.op_type == "Constant"]
    found |= {
        node.output[0]: a.t for node in constants for a in node.attribute if a.name == "value" and a.HasField("t")
    }
    return {key: _native(numpy_helper.to_array(tensor, base_dir=str(path.parent))) for key, tensor in found.items()}


def _flax(path: Path) -> Named:
    import msgpack

    tree = msgpack.unpackb(path.read_bytes(), strict_map_key=False)
    return {} if "batch_stats" in tree else _arrays(tree.get("params", tree), "")


def _arrays(node: dict[Any, Any], path: str) -> Named:
    import msgpack

    out: Named = {}
    for key, value in node.items():
        if isinstance(value, dict) and "__msgpack_chunked_array__" not in value:
            out |= _arrays(value, f"{path}{key}.")
        elif isinstance(value, msgpack.ExtType) and value.code in (1, 3):
            out[f"{path}{key}"] = msgpack.unpackb(value.data)[2]
    return out


READERS: dict[str, Callable[[Path], Named]] = {
    "torch-zip": _torch, "torch-legacy": _torch, "safetensors": _safetensors, "npy": _numpy, "npz": _numpy, "gguf": _gguf, "onnx": _onnx, "flax": _flax,
}  # fmt: skip
