"""Parameters of whole modules as torch before 0.4 pickled them: in each way they are read as the tensors that they hold."""

import copyreg
import io
from collections import OrderedDict

import pytest
import torch

import torchgraft as tg

STATE = (True, False, OrderedDict())


def called(self, protocol):
    return type(self), (self.data,), STATE


def called_alone(self, protocol):
    return type(self), (self.data, True)


def by_newobj(self, protocol):
    return copyreg.__newobj__, (type(self), self.data), STATE


def with_its_tensor_as_state(self, protocol):
    return copyreg.__newobj__, (type(self),), (self.data, None, None, True, False)


def network():
    made = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2, bias=False))
    made[1].running_mean.normal_()
    made[1].extra = made[0].weight
    return made


def pickled(monkeypatch, way, what, **how):
    out = io.BytesIO()
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.Parameter, "__reduce_ex__", way)
        torch.save(what, out, **how)
    return io.BytesIO(out.getvalue())


@pytest.mark.parametrize("way", [called, called_alone, by_newobj, with_its_tensor_as_state])
@pytest.mark.parametrize("new", [False, True])
def test_parameters_are_read(monkeypatch, way, new):
    net = network()
    with tg.open_checkpoint(pickled(monkeypatch, way, net, _use_new_zipfile_serialization=new)) as source:
        assert set(source.networks[0].specs) == set(net.state_dict())
        assert source.networks[0].shared == {"1.extra": "0.weight"}
        for name, value in net.state_dict().items():
            assert torch.equal(source.read("", name), value)


def test_hooks_are_refused(monkeypatch):
    def hooked(self, protocol):
        return type(self), (self.data,), (True, False, OrderedDict(a=OrderedDict))

    with pytest.raises(tg.UnsafeCheckpointError, match="hooks"):
        tg.open_checkpoint(pickled(monkeypatch, hooked, network()))


@pytest.mark.parametrize("state", [{"data": 1}, (1, 2), (None, None, None, True, False)])
def test_states_of_no_variable_are_refused(monkeypatch, state):
    def odd(self, protocol):
        return copyreg.__newobj__, (type(self),), state

    with pytest.raises(tg.CorruptCheckpointError, match=r"state is given to a tensor|without its tensor"):
        tg.open_checkpoint(pickled(monkeypatch, odd, network()))
