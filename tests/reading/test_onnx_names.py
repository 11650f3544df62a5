"""Initialisers without names of their own, as torch's exporter leaves them: they go by the modules of the nodes that use them."""

import pytest
import torch
from onnx import helper
from onnx_files import as_raw, model
from torch import nn

import torchgraft as tg
from torchgraft.reading import open_checkpoint


def node(kind, name, *inputs, output="", **attributes):
    return helper.make_node(kind, ["x", *inputs], [output or f"{name}_output_0"], name=name, **attributes)


def names_in(tmp_path, tensors, nodes):
    path = tmp_path / "m.onnx"
    path.write_bytes(model([as_raw(name, value) for name, value in tensors.items()], nodes).SerializeToString())
    with open_checkpoint(path) as source:
        return path, set(source.networks[0].specs), tuple(source.warnings)


def test_matrices_and_fused_convolutions_are_named_by_their_modules(tmp_path):
    tensors = {
        "onnx::Conv_1": torch.randn(4, 3, 3, 3),
        "onnx::Conv_2": torch.randn(4),
        "onnx::MatMul_3": torch.randn(4, 6),
        "7": torch.randn(6, 2),
        "onnx::Gemm_8": torch.randn(5, 2),
        "blocks.0.q.bias": torch.randn(6),
    }
    nodes = [
        node("Conv", "/stem/stem.0/Conv", "onnx::Conv_1", "onnx::Conv_2"),
        node("MatMul", "/blocks.0/q/MatMul", "onnx::MatMul_3"),
        node("MatMul", "/blocks/blocks.1/blocks.1.0/MatMul_1", "7"),
        node("Gemm", "/head/Gemm", "onnx::Gemm_8", transB=1),
    ]
    _, names, warnings = names_in(tmp_path, tensors, nodes)
    wanted = {
        "stem.0.weight",
        "stem.0.bias",
        "blocks.0.q.kernel",
        "blocks.0.q.bias",
        "blocks.1.0.kernel",
        "head.weight",
    }
    assert names == wanted
    assert warnings == (
        "5 initialisers without names of their own: named by the modules that use them, as onnx::Conv_1: stem.0.weight",
    )


@pytest.mark.parametrize(
    "nodes",
    [
        [node("MatMul", "/a/MatMul", "onnx::MatMul_1"), node("MatMul", "/b/MatMul", "onnx::MatMul_1")],
        [node("MatMul", "/a/MatMul", "onnx::MatMul_1"), node("MatMul", "/a/MatMul_1", "onnx::MatMul_2")],
        [node("MatMul", "/MatMul", "onnx::MatMul_1"), node("MatMul", "MatMul_5", "onnx::MatMul_2")],
        [node("LSTM", "/a/LSTM", "onnx::MatMul_1", "onnx::MatMul_2")],
        [
            node("MatMul", f"/{'/'.join('ab' * 400)}/MatMul", "onnx::MatMul_1"),
            node("MatMul", "/../../a/MatMul", "onnx::MatMul_2"),
        ],
        [node("MatMul", "/a\x1b[1m/MatMul", "onnx::MatMul_1"), node("MatMul", "/a//MatMul", "onnx::MatMul_2")],
        [node("MatMul", "/c/MatMul", "onnx::MatMul_1")],
    ],
    ids=["two modules", "two in one module", "no module", "another order of rows", "no path", "no name", "taken"],
)
def test_what_is_not_told_keeps_its_name(tmp_path, nodes):
    tensors = dict.fromkeys(("onnx::MatMul_1", "onnx::MatMul_2", "c.kernel"), torch.randn(2, 2))
    _, names, warnings = names_in(tmp_path, tensors, nodes)
    assert names == set(tensors)
    assert not warnings


def test_what_the_exporter_kept_once_for_equal_values_has_all_its_names(tmp_path):
    one = torch.ones(3)
    nodes = [
        helper.make_node("Identity", ["0.weight"], ["1.weight"], name="Identity_1"),
        helper.make_node("Identity", ["1.weight"], ["onnx::Conv_5"], name="Identity_2"),
        helper.make_node("Identity", ["0.weight"], ["/a/Identity_output_0"], name="/a/Identity"),
        helper.make_node("Identity", ["x"], ["y"], name="Identity_3"),
        helper.make_node("Identity", ["y"], ["x"], name="Identity_4"),
        helper.make_node("Identity", ["w"], ["w"], name="Identity_5"),
        helper.make_node("Identity", [], [], name="Identity_6"),
        node("Conv", "/c/Conv", "w", "onnx::Conv_5"),
    ]
    path, names, _ = names_in(tmp_path, {"0.weight": one, "w": torch.randn(3, 2, 1)}, nodes)
    assert names == {"0.weight", "1.weight", "c.bias", "w"}
    net = nn.ModuleList(nn.LayerNorm(3, bias=False) for _ in range(2))
    for norm in net:
        nn.init.zeros_(norm.weight)
    tg.load(net, path, min_coverage=0)
    assert all(torch.equal(value, one) for value in net.state_dict().values())


def test_a_network_whose_matrices_have_no_names_loads(tmp_path):
    def block():
        return nn.ModuleDict({"q": nn.Linear(6, 6), "up": nn.Linear(6, 8, bias=False)})

    net = nn.ModuleDict({"blocks": nn.ModuleList(block() for _ in range(2))})
    tensors, nodes = {}, []
    for at, (name, value) in enumerate(net.state_dict().items()):
        if name.endswith("weight"):
            tensors[f"onnx::MatMul_{at}"] = value.T
            nodes.append(node("MatMul", f"/{name.removesuffix('.weight').replace('.q', '/q').replace('.up', '/up')}/MatMul",
                              f"onnx::MatMul_{at}"))  # fmt: skip
        else:
            tensors[name] = value
    path, _, _ = names_in(tmp_path, dict(sorted(tensors.items(), key=lambda one: "::" in one[0])), nodes)
    fresh = nn.ModuleDict({"blocks": nn.ModuleList(block() for _ in range(2))})
    assert not tg.load(fresh, path).plan.fresh
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in fresh.state_dict().items())
