"""ONNX models and Flax files for tests, written with onnx and msgpack."""

import msgpack
import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

ONNX_TYPES = {
    torch.float32: 1, torch.uint8: 2, torch.int8: 3, torch.int32: 6, torch.int64: 7, torch.bool: 9, torch.float16: 10,
    torch.float64: 11, torch.complex64: 14, torch.bfloat16: 16, torch.float8_e4m3fn: 17,
}  # fmt: skip


def raw_bytes(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def as_raw(name, tensor):
    """A TensorProto whose bytes stand in raw_data."""
    return onnx.TensorProto(
        name=name, dims=list(tensor.shape), data_type=ONNX_TYPES[tensor.dtype], raw_data=raw_bytes(tensor)
    )


def as_typed(name, tensor):
    """A TensorProto whose values stand in the field of their type."""
    kind = ONNX_TYPES[tensor.dtype]
    out = onnx.TensorProto(name=name, dims=list(tensor.shape), data_type=kind)
    if tensor.dtype is torch.complex64:
        out.float_data.extend(torch.view_as_real(tensor).flatten().tolist())
    elif tensor.dtype is torch.float32:
        out.float_data.extend(tensor.flatten().tolist())
    elif tensor.dtype is torch.float64:
        out.double_data.extend(tensor.flatten().tolist())
    elif tensor.dtype is torch.int64:
        out.int64_data.extend(tensor.flatten().tolist())
    else:
        bits = {
            torch.bool: torch.uint8,
            torch.float16: torch.uint16,
            torch.bfloat16: torch.uint16,
            torch.float8_e4m3fn: torch.uint8,
        }
        out.int32_data.extend(tensor.view(bits.get(tensor.dtype, tensor.dtype)).flatten().tolist())
    return out


def model(tensors, nodes=()):
    """An ONNX model with these initialisers."""
    graph = helper.make_graph(list(nodes), "g", [], [], initializer=list(tensors))
    return helper.make_model(graph, producer_name="test", opset_imports=[helper.make_opsetid("", 18)])


def constant(name, value):
    """A Constant node that gives the array `value`."""
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(value)))


def flax_extension(value):
    """What flax.serialization packs for tensors: extension 1 holds shape, name of the type and bytes."""
    name = str(value.dtype).removeprefix("torch.")
    return msgpack.ExtType(1, msgpack.packb((list(value.shape), name, raw_bytes(value)), use_bin_type=True))


def flax_bytes(tree):
    return msgpack.packb(tree, default=flax_extension, use_bin_type=True)


def nested(state):
    """A flat state as nested dicts."""
    out = {}
    for key, value in state.items():
        *above, last = key.split(".")
        node = out
        for part in above:
            node = node.setdefault(part, {})
        node[last] = value
    return out
