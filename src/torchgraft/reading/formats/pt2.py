"""Archives of torch.export (.pt2): their weights, as the table beside them describes them."""

from __future__ import annotations

from typing import Any

from torchgraft.core.dtypes import DType
from torchgraft.core.errors import printable
from torchgraft.reading.containers.strict_json import loads
from torchgraft.reading.containers.zip_archive import ZipArchive
from torchgraft.reading.contents import Contents
from torchgraft.reading.formats.torch_zip import ZipStorages
from torchgraft.reading.pickles.inert import StorageRef, StorageType, TensorRef
from torchgraft.reading.pickles.resolver import Resolver

_CONFIG = "data/weights/model_weights_config.json"
# torch.export's own numbers of element types (torch/_export/serde/schema.py, ScalarType).
_DTYPES = {
    1: DType.U8, 2: DType.I8, 3: DType.I16, 4: DType.I32, 5: DType.I64, 6: DType.F16, 7: DType.F32, 8: DType.F64,
    9: DType.C32, 10: DType.C64, 11: DType.C128, 12: DType.BOOL, 13: DType.BF16, 28: DType.U16,
    29: DType.F8_E4M3FN, 30: DType.F8_E5M2, 31: DType.F8_E4M3FNUZ, 32: DType.F8_E5M2FNUZ, 33: DType.F8_E8M0FNU,
    34: DType.U32, 35: DType.U64,
}  # fmt: skip
_BYTES = StorageType("bytes", 1, DType.U8)


def read_pt2(archive: ZipArchive) -> Contents:
    """Return the parameters and buffers of an exported program."""
    label = archive.window.label
    name = next((n for n in archive.entries if n.endswith(_CONFIG)), None)
    if name is None:
        raise archive.window.unsupported(f"a pt2 archive (torch.export) without {_CONFIG}: no weights to read")
    root = name.removesuffix(_CONFIG)
    order = archive.read(f"{root}byteorder", 64) if f"{root}byteorder" in archive.entries else b"little"
    if order not in (b"little", b"big"):
        raise archive.window.corrupt(f"record {root}byteorder says {order[:20]!r}, expected little or big")
    table = loads(archive.read(name, 256 << 20), f"{label}: {name}")
    entries = table.get("config") if isinstance(table, dict) else None
    if not isinstance(entries, dict):
        raise archive.window.corrupt(f"record {name} has no table `config`")
    storages = ZipStorages(archive, f"{root}data/weights/", archive.warnings)
    tree = {key: _ref(storages, key, entry) for key, entry in entries.items()}
    return Contents(
        format="pt2", tree=tree, resolve=Resolver(label, storages, big=order == b"big"), warnings=archive.warnings
    )


def _ref(storages: ZipStorages, key: str, entry: Any) -> TensorRef:
    """Return the tensor that an entry of the table describes; tensors of one record have one storage."""
    archive, folder = storages.archive, storages.prefix
    try:
        meta, path = entry["tensor_meta"], entry["path_name"]
        if entry.get("use_pickle"):
            raise archive.window.unsupported(f"tensor {printable(key)} is pickled inside the pt2 archive")
        shape = tuple(n["as_int"] for n in meta["sizes"])
        stride = tuple(n["as_int"] for n in meta["strides"])
        offset, dtype = meta["storage_offset"]["as_int"], _DTYPES.get(meta["dtype"])
    except (KeyError, TypeError, AttributeError) as error:
        raise archive.window.corrupt(f"tensor {printable(key)} is described incompletely ({error!r:.60})") from error
    if dtype is None:
        raise archive.window.unsupported(f"tensor {printable(key)} has dtype number {meta['dtype']!r:.20}")
    if not isinstance(path, str) or "/" in path or ".." in path:
        raise archive.window.corrupt(f"tensor {printable(key)} lies at {path!r:.60}, expected a record's name")
    record = archive.entries.get(f"{folder}{path}")
    if record is None:
        raise archive.window.corrupt(f"record {folder}{path} of tensor {printable(key)} is missing")
    storage = storages.refs.setdefault(path, StorageRef(path, _BYTES, record.size))
    return TensorRef(storage, offset, shape, stride, dtype)
