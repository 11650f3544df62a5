"""Dictionaries of arrays that were pickled without torch are read; what else begins as a pickle is said for what it is."""

import io
import pickle
import struct

import numpy as np
import pytest

import torchgraft as tg

ARRAYS = {"fc.weight": np.arange(6, dtype="f4").reshape(2, 3), "fc.bias": np.ones(2, "f4"), "half": np.ones(3, "f2")}


def short(raw):
    return b"U" + bytes([len(raw)]) + raw


def of_python_2():
    """The pickle of {"fc.weight": an array} as Python 2 writes it: names and numbers are texts of bytes."""
    data = ARRAYS["fc.weight"].tobytes()
    kind = (
        b"cnumpy\ndtype\n"
        + short(b"f4")
        + b"K\0K\1\x87R(K\3"
        + short(b"<")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    )
    made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85" + short(b"b") + b"\x87R"
    state = b"(K\1K\2K\3\x86" + kind + b"\x89T" + struct.pack("<i", len(data)) + data + b"tb"
    return b"\x80\2}" + short(b"fc.weight") + made + state + b"s."


def read(content):
    with tg.open_checkpoint(io.BytesIO(content)) as source:
        network = source.networks[0]
        return source.format, network.path, {name: source.read(network.path, name).numpy() for name in network.specs}


def same(found, expected):
    return found.keys() == expected.keys() and all(np.array_equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_are_read_by_name(protocol):
    form, path, found = read(pickle.dumps(ARRAYS, protocol))
    assert (form, path) == ("pickle", "")
    assert same(found, ARRAYS)


def test_arrays_of_python_2_are_read():
    assert same(read(of_python_2())[2], {"fc.weight": ARRAYS["fc.weight"]})


def test_what_lies_beside_the_arrays_is_no_tensor():
    assert same(read(pickle.dumps({**ARRAYS, "StructuredToParameterName@@": {"fc.weight": "linear_0.w_0"}}))[2], ARRAYS)
    form, path, found = read(pickle.dumps({"model": ARRAYS, "__author__": "A Trainer", "matching_heuristics": True}))
    assert (form, path) == ("pickle", "model")
    assert same(found, ARRAYS)


@pytest.mark.parametrize("value", [{"a": 1}, [np.ones(2)], np.ones(2), 3, "text", {}])
def test_other_pickles_are_no_checkpoints(value):
    with pytest.raises(tg.UnsupportedCheckpointError, match=r"a plain pickle, .* no dictionary of arrays"):
        read(pickle.dumps(value))


def test_bytes_after_a_pickle_are_refused():
    with pytest.raises(tg.CorruptCheckpointError, match="3 bytes after the end of the pickle"):
        read(pickle.dumps(ARRAYS) + b"abc")


def test_calls_among_arrays_are_refused():
    class Runs:
        def __reduce__(self):
            return print, ("it ran",)

    with pytest.raises(tg.UnsafeCheckpointError, match=r"builtins\.print"):
        read(pickle.dumps({**ARRAYS, "more": Runs()}))


def test_files_of_joblib_are_said_to_be_such(tmp_path):
    joblib = pytest.importorskip("joblib")
    joblib.dump(ARRAYS, tmp_path / "arrays.pkl")
    with pytest.raises(tg.UnsupportedCheckpointError, match="written by joblib"):
        tg.inspect(tmp_path / "arrays.pkl")
