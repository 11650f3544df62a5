"""Archives of torch.export, as torch writes them."""

import torch
from torch import nn
from torch._export.serde import schema

from torchgraft.reading import open_checkpoint
from torchgraft.reading.formats.pt2 import _DTYPES


def test_what_torch_exports_is_read_bit_for_bit(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2)).eval()
    path = tmp_path / "m.pt2"
    torch.export.save(torch.export.export(model, (torch.randn(1, 3, 4, 4),)), path)
    with open_checkpoint(path) as source:
        (network,) = source.networks
        read = {key: source.read(network.path, key) for key in network.specs}
        assert source.format == "pt2"
    kept = model.state_dict()
    assert set(read) == set(kept)
    for key, value in kept.items():
        assert torch.equal(torch.as_tensor(read[key]), value), key


class Tied(nn.Module):
    """Two layers of one weight."""

    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(3, 3), nn.Linear(3, 3)
        self.other.weight = self.one.weight

    def forward(self, x):
        return self.other(self.one(x))


def test_tensors_of_one_record_are_one_tensor(tmp_path):
    path = tmp_path / "m.pt2"
    torch.export.save(torch.export.export(Tied().eval(), (torch.randn(2, 3),)), path)
    with open_checkpoint(path) as source:
        (network,) = source.networks
        assert network.shared == {"other.weight": "one.weight"}


def test_element_types_have_the_numbers_that_torch_gives_them():
    """Older versions have fewer."""
    said = {kind.value: kind.name.lower() for kind in schema.ScalarType if kind.value in _DTYPES}
    plain = {"byte": "uint8", "char": "int8", "short": "int16", "int": "int32", "long": "int64", "half": "float16"}
    plain |= {"float": "float32", "double": "float64", "complexhalf": "complex32", "complexfloat": "complex64"}
    plain |= {"complexdouble": "complex128"}
    assert {number: plain.get(name, name) for number, name in said.items()} == {
        number: _DTYPES[number].label.replace("float8_", "float8") for number in said
    }
