"""Tensors in chunks of any layout are read whole and in pieces, and pieces cost what they hold."""

import itertools
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType

import torchgraft as tg
from torchgraft.reading import dcp_chunks


class Cut(dcp.DefaultSavePlanner):
    """Writes each tensor in boxes of at most `size` along each dimension."""

    def __init__(self, values, size):
        super().__init__(flatten_state_dict=False)
        self.values, self.size = values, size

    def create_local_plan(self):
        plan = super().create_local_plan()
        plan.items[:] = [item for name, value in self.values.items() for item in self.boxes(name, value)]
        return plan

    def boxes(self, name, value):
        for at in itertools.product(*(range(0, n, self.size) for n in value.shape)):
            sizes = [min(self.size, n - a) for a, n in zip(at, value.shape, strict=True)]
            chunk = ChunkStorageMetadata(torch.Size(at), torch.Size(sizes))
            data = TensorWriteData(chunk, TensorProperties.create_from_tensor(value), value.size())
            yield WriteItem(MetadataIndex(name, torch.Size(at)), WriteItemType.SHARD, tensor_data=data)

    def resolve_data(self, write_item):
        chunk = write_item.tensor_data.chunk
        value = self.values[write_item.index.fqn]
        for dim, (start, size) in enumerate(zip(chunk.offsets, chunk.sizes, strict=True)):
            value = value.narrow(dim, start, size)
        return value.contiguous()


def test_threads_that_meet_at_a_chunk_share_what_sums_it_up(tmp_path, monkeypatch):
    dcp.save({"w": torch.arange(6.0)}, checkpoint_id=tmp_path / "out")
    meeting, plain = threading.Barrier(2, timeout=60), dcp_chunks.read_file

    def read_file(window):
        found = plain(window)
        meeting.wait()
        return found

    monkeypatch.setattr(dcp_chunks, "read_file", read_file)
    with tg.open_checkpoint(tmp_path / "out") as source:
        (tensor,) = source.tensors()
        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(tensor._view, [0, 0])
    assert first is second


@pytest.mark.parametrize("size", [2, 3, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
def test_chunks_of_any_layout_are_put_together(tmp_path, size, dtype):
    values = {
        "flat": torch.arange(7).to(dtype),
        "matrix": torch.arange(30).reshape(5, 6).to(dtype),
        "cube": torch.arange(24).reshape(2, 3, 4).to(dtype),
    }
    dcp.save(values, checkpoint_id=tmp_path / "out", planner=Cut(values, size))
    with tg.open_checkpoint(tmp_path / "out") as source:
        for name, value in values.items():
            assert torch.equal(source.read("", name), value)
            raw = value.reshape(-1).view(torch.uint8).numpy().tobytes()
            for start, stop in itertools.combinations(range(0, len(raw) + 1, 3), 2):
                piece = bytearray(stop - start)
                source.read_into("", name, memoryview(piece), start)
                assert bytes(piece) == raw[start:stop]
            source.check("", name)


def test_of_rows_only_the_chunks_that_hold_them_are_read(tmp_path, monkeypatch):
    values = {"matrix": torch.arange(8000.0).reshape(1000, 8)}
    dcp.save(values, checkpoint_id=tmp_path / "out", planner=Cut(values, 100))
    from torchgraft.reading.tensors import TensorView

    read = []
    real = TensorView.fill
    with tg.open_checkpoint(tmp_path / "out") as source:
        monkeypatch.setattr(
            TensorView, "fill", lambda self, buffer, start: (read.append(len(buffer)), real(self, buffer, start))[1]
        )
        piece = bytearray(150 * 32)
        source.read_into("", "matrix", memoryview(piece), 50 * 32)
    assert bytes(piece) == values["matrix"][50:200].numpy().tobytes()
    assert sum(read) == len(piece)


@pytest.mark.parametrize("size", [10, 2])
def test_chunks_that_overlap_leave_holes_and_are_refused(tmp_path, size):
    values = {"matrix": torch.arange(1600.0).reshape(40, 40)}
    dcp.save(values, checkpoint_id=tmp_path, planner=Cut(values, size))
    table = tmp_path / ".metadata"
    meta = pickle.loads(table.read_bytes())
    chunks = meta.state_dict_metadata["matrix"].chunks
    with tg.open_checkpoint(tmp_path) as source:
        assert torch.equal(source.read("", "matrix"), values["matrix"])
    chunks[-1] = chunks[0]  # the sum of the sizes stays right
    table.write_bytes(pickle.dumps(meta))
    with pytest.raises(tg.CorruptCheckpointError, match="matrix has chunks that overlap"):
        tg.inspect(tmp_path)
