"""PyTorch's weight files without PyTorch: `torch.save` archives, TorchScript archives, and the format before archives.

Layout of the archives: https://docs.pytorch.org/docs/stable/notes/serialization.html. The older format is a row of
pickles (magic number, protocol, machine, object, storage keys) and then the storages one after another.
"""

from __future__ import annotations

import functools
import io
import mmap
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jseg.weights.pickle_machine import Constructor, PickleMachine
from jseg.weights.records import NUMPY_TABLE, STORAGE_TYPES, Storage, StorageType, TensorRecord
from jseg.weights.refusal import FileRefused, quoted

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_START = b"\x8a\x0a" + LEGACY_MAGIC.to_bytes(10, "little")  # after the two bytes of the pickle protocol
LEGACY_PROTOCOL = 1001
MAX_PICKLE = 64 * 2**20  # bytes of an archive's data.pkl: names, shapes and plain values
MAX_ENTRIES = 200_000
# What Python's zipfile raises on archives that are not what they claim (RuntimeError: encrypted ones).
ZIP_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError),
    *(ValueError, OverflowError, RuntimeError, NotImplementedError),
)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> TensorRecord:
    if not isinstance(storage, Storage) or not isinstance(shape, tuple) or not isinstance(strides, tuple):
        raise FileRefused("a tensor of another form")
    return TensorRecord(storage, offset, shape, strides)


def _first(value: Any, *_: Any) -> Any:
    return value


TORCH_TABLE: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): Constructor(_tensor),
    ("torch._utils", "_rebuild_tensor"): Constructor(_tensor),
    ("torch._utils", "_rebuild_parameter"): Constructor(_first),
    ("torch", "Size"): Constructor(_first),
    **{("torch", name): StorageType(element) for name, element in STORAGE_TYPES.items()},
    **NUMPY_TABLE,
}
SCRIPT_TABLE = TORCH_TABLE | {
    ("torch.jit._pickle", name): Constructor(_first)
    for name in ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist", "restore_type_tag")
}


def read_torch_archive(path: Path) -> tuple[Any, str, zipfile.ZipFile]:
    """Reads the object of a zip archive that PyTorch wrote.

    Args:
        path: a `torch.save` file or a TorchScript archive.

    Returns:
        The object with tensors as TensorRecord, the kind ("torch archive" or "TorchScript archive"), and the open
        archive, which must stay open until the tensors are read.

    Raises:
        FileRefused: no such archive, truncated, big-endian, or entries that cannot be what they claim.
    """
    try:
        archive = zipfile.ZipFile(path)
    except ZIP_ERRORS as error:
        raise FileRefused(f"a truncated or damaged zip archive ({quoted(str(error))[1:-1]})") from error
    try:
        entries = _checked_entries(archive, path.stat().st_size)
        pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise FileRefused("a zip archive that PyTorch did not write: it has no data.pkl")
        root = pickles[0][: -len("data.pkl")]
        order = entries.get(root + "byteorder")
        if order is not None and _read_entry(archive, order) != b"little":
            raise FileRefused("big-endian numbers: save the file again on a little-endian machine")
        script = root + "constants.pkl" in entries
        storages: dict[str, Storage] = {}
        persistent = functools.partial(_archive_storage, archive, entries, root, storages)
        machine = PickleMachine(SCRIPT_TABLE if script else TORCH_TABLE, persistent, script_classes=script)
        with archive.open(entries[pickles[0]]) as stream:
            content = stream.read(MAX_PICKLE + 1)
        value = machine.load(_stream(content))
    except ZIP_ERRORS as error:
        archive.close()
        raise FileRefused(f"a truncated or damaged zip archive ({quoted(str(error))[1:-1]})") from error
    except BaseException:
        archive.close()
        raise
    return value, "TorchScript archive" if script else "torch archive", archive


def _stream(content: bytes) -> io.BytesIO:
    if len(content) > MAX_PICKLE:
        raise FileRefused(f"its data.pkl is larger than {MAX_PICKLE} bytes")
    return io.BytesIO(content)


def _checked_entries(archive: zipfile.ZipFile, file_size: int) -> dict[str, zipfile.ZipInfo]:
    """The archive's entries by name, none larger than the file can hold, none laid over another."""
    infos = archive.infolist()
    if len(infos) > MAX_ENTRIES or len({info.filename for info in infos}) < len(infos):
        raise FileRefused("a zip archive with doubled or too many entries")
    if sum(info.compress_size for info in infos) > file_size:
        raise FileRefused("a zip archive whose entries overlap: they claim more bytes than the file has")
    for info in infos:
        if info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size:
            raise FileRefused(f"a zip archive whose entry {quoted(info.filename)} states two sizes")
    return {info.filename: info for info in infos}


def _read_entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    if info.compress_type != zipfile.ZIP_STORED:
        raise FileRefused(f"a compressed entry {quoted(info.filename)}: PyTorch stores tensors uncompressed")
    try:
        return archive.read(info)  # checks the CRC
    except ZIP_ERRORS as error:
        raise FileRefused(f"a truncated or damaged zip archive ({quoted(str(error))[1:-1]})") from error


def _storage_fields(identity: Any, length: int) -> tuple[StorageType, str, int]:
    """Type, key and element count out of a persistent id ("storage", type, key, device, count, …)."""
    if not isinstance(identity, tuple) or len(identity) < length or identity[0] != "storage":
        raise FileRefused("a storage of another form")
    kind, key, count = identity[1], identity[2], identity[4]
    if not isinstance(kind, StorageType) or not isinstance(key, str) or type(count) is not int or count < 0:
        raise FileRefused("a storage of another form")
    return kind, key, count


def _archive_storage(
    archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo], root: str, known: dict[str, Storage], identity: Any
) -> Storage:
    kind, key, count = _storage_fields(identity, 5)
    info = entries.get(f"{root}data/{key}")
    if info is None:
        raise FileRefused(f"the data of storage {quoted(key)} are not in the archive")
    if info.file_size != count * kind.stored.itemsize:
        raise FileRefused(f"storage {quoted(key)} has {info.file_size} bytes where {count} elements were announced")
    if key not in known or known[key].type != kind:
        known[key] = Storage(kind, count, functools.partial(_read_entry, archive, info))
    return known[key]


def read_torch_legacy(content: mmap.mmap) -> Any:
    """Reads a file of PyTorch before 1.6 (or of `_use_new_zipfile_serialization=False`).

    Args:
        content: the mapped file; it must stay open until the tensors are read.

    Returns:
        The object with tensors as TensorRecord.

    Raises:
        FileRefused: truncated, big-endian or another protocol.
    """
    content.seek(0)
    places: dict[str, int] = {}
    storages: dict[str, Storage] = {}
    persistent = functools.partial(_legacy_storage, content, places, storages)
    magic, protocol, machine = (PickleMachine({}).load(content) for _ in range(3))
    if magic != LEGACY_MAGIC or protocol != LEGACY_PROTOCOL or not isinstance(machine, dict):
        raise FileRefused("a PyTorch file of another protocol")
    if machine.get("little_endian") is not True:
        raise FileRefused("big-endian numbers: save the file again on a little-endian machine")
    value = PickleMachine(TORCH_TABLE, persistent).load(content)
    keys = PickleMachine({}).load(content)
    if not isinstance(keys, list) or len(set(map(type, keys)) - {str}) or set(keys) != set(storages):
        raise FileRefused("its list of storages does not fit its tensors")
    position = content.tell()
    for key in keys:
        places[key] = position + 8
        if len(header := content[position : position + 8]) < 8:
            raise FileRefused("truncated: its last tensors are missing")
        if int.from_bytes(header, "little") != storages[key].count:
            raise FileRefused(f"storage {quoted(key)} states two sizes")
        position += 8 + storages[key].count * storages[key].type.stored.itemsize
        if position > len(content):
            raise FileRefused("truncated: its last tensors are missing")
    return value


def _legacy_storage(content: mmap.mmap, places: dict[str, int], known: dict[str, Storage], identity: Any) -> Storage:
    kind, key, count = _storage_fields(identity, 6)
    read: Callable[[], bytes]
    if key not in known:
        size = count * kind.stored.itemsize

        def read() -> bytes:
            return content[places[key] : places[key] + size]

        known[key] = Storage(kind, count, read)
    whole = known[key]
    if whole.type != kind or whole.count != count:
        raise FileRefused(f"storage {quoted(key)} states two types or sizes")
    if identity[5] is None:
        return whole
    view = identity[5]  # (key of the view, offset, size): a window on the storage, in elements
    if not isinstance(view, tuple) or len(view) != 3 or not all(type(n) is int and 0 <= n <= count for n in view[1:]):
        raise FileRefused("a storage view of another form")
    start, size = view[1] * kind.stored.itemsize, view[2] * kind.stored.itemsize
    return Storage(kind, view[2], lambda: whole.read()[start : start + size])
