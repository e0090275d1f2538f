"""PyTorch's and Jittor's weight files, read without PyTorch and without running anything that is in them.

PyTorch writes zip archives (https://docs.pytorch.org/docs/stable/notes/serialization.html), TorchScript archives among
them; before 1.6 it wrote a row of pickles (magic number, protocol, machine, object, storage keys), then the storages.
Jittor (`jt.save`) writes a pickle, its SHA-1 (20 bytes) and the eight bytes `HCAJSLHD`.
"""

import hashlib
import io
import math
import mmap
import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from jseg.errors import UserError

BFLOAT16 = np.dtype([("bfloat16", "<u2")])  # NumPy has no bfloat16: its bits, marked by the name of a field
OPCODES = """
PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE
BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BINSTRING SHORT_BINSTRING EMPTY_TUPLE TUPLE1 TUPLE2 TUPLE3 TUPLE
EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET
GLOBAL STACK_GLOBAL REDUCE NEWOBJ BUILD BINPERSID
"""  # of the pickles that PyTorch and Jittor write
LEGACY_START = b"\x8a\x0a" + bytes.fromhex("6cfc9c46f9206aa85019")  # after the two bytes of the pickle protocol
JITTOR_END = b"HCAJSLHD"


@dataclass
class Storage:
    """A row of `count` numbers of one type, on which tensors are windows."""

    dtype: np.dtype
    count: int
    values: np.ndarray | None = None  # (count,), a view of the file


@dataclass(frozen=True)
class Tensor:
    """A tensor of PyTorch: a strided window on a storage; offset and strides in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        counts = (self.offset, *self.shape, *self.strides)
        if len(self.shape) != len(self.strides) or any(type(count) is not int or count < 0 for count in counts):
            raise UserError("a tensor's offset, shape or strides are no counts")

    @property
    def nbytes(self) -> int:
        """Bytes that the tensor takes as an array."""
        return math.prod(self.shape) * self.storage.dtype.itemsize

    def view(self) -> np.ndarray:
        """The tensor as a view of the file, for which nothing is allocated; UserError when it leaves the storage."""
        if 0 in self.shape:
            return np.zeros(self.shape, self.storage.dtype)
        steps = [step if size > 1 else 0 for size, step in zip(self.shape, self.strides, strict=True)]
        last = self.offset + sum((size - 1) * step for size, step in zip(self.shape, steps, strict=True))
        if last >= self.storage.count:
            raise UserError(f"it reaches to element {last} of a storage of {self.storage.count}")
        strides = [step * self.storage.dtype.itemsize for step in steps]
        return np.lib.stride_tricks.as_strided(self.storage.values[self.offset :], self.shape, strides)


def as_array(tensor: Tensor | np.ndarray) -> np.ndarray:
    """A contiguous, writable copy of its shape; bfloat16 becomes float32, exactly."""
    view = tensor.view() if isinstance(tensor, Tensor) else tensor
    if view.dtype == BFLOAT16:
        view = np.left_shift(view["bfloat16"], 16, dtype=np.uint32).view(np.float32)
    return np.array(view, order="C")


class PlainDict(dict):
    """A dictionary whose keys are plain: to hash nested tuples can exhaust the C stack."""

    def __init__(self, pairs: Iterable[tuple[Any, Any]] = ()) -> None:
        for key, value in pairs:
            self[key] = value

    def __setitem__(self, key: Any, value: Any) -> None:
        if not (key is None or isinstance(key, (str, int))):
            raise UserError(f"its pickle has a dictionary key of type {type(key).__name__}")
        super().__setitem__(key, value)


class ScriptModule(PlainDict):
    """A module of a TorchScript archive: its attributes by name."""


class RestrictedUnpickler(pickle._Unpickler):
    """Builds plain values and tensors; calls nothing but the functions of `allowed`.

    This is the standard library's unpickler in Python, not the one in C, which allocates what a forged file asks for.
    `allowed` says what stands for a global (module, name), `find_storage` for a storage's type, key and size.
    """

    def __init__(self, stream: Any, allowed: dict, find_storage: Callable[..., Storage] | None = None) -> None:
        super().__init__(stream, encoding="latin1")
        self.allowed, self.find_storage = allowed, find_storage

    def persistent_load(self, pid: Any) -> Storage:
        """The storage of a persistent id."""
        _, dtype, key, _, count, *view = pid
        if not (isinstance(dtype, np.dtype) and isinstance(key, str) and type(count) is int) or count < 0 or any(view):
            raise UserError("a storage of another form, as PyTorch before 0.4 wrote them: save it with a newer one")
        return self.find_storage(dtype, key, count)

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a global; UserError when it is none of those allowed."""
        if self.allowed is SCRIPT and module.split(".")[0] == "__torch__":
            return ScriptModule
        if (module, name) not in self.allowed:
            raise UserError(f"its pickle asks for {module}.{name}, which weights do not need; nothing of it was run")
        return self.allowed[module, name]

    def load_build(self) -> None:
        """Sets the state of a NumPy array or a TorchScript module; never an attribute."""
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, np.ndarray) and target.size == 0:  # once: another array may be a view of it by now
            target.__setstate__(state)
        elif isinstance(target, np.dtype) and state[1] in ("<", "|", "="):
            pass
        elif isinstance(target, ScriptModule) and isinstance(state, dict):
            target.update(state)
        elif not isinstance(target, dict):  # attributes of a dictionary (PyTorch's `_metadata`) are no weights
            raise UserError("its pickle changes an object that has no state, or its numbers are big-endian")

    dispatch: ClassVar[dict[int, Callable]] = {
        getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]] for name in OPCODES.split()
    }
    dispatch |= {pickle.BUILD[0]: load_build, pickle.EMPTY_DICT[0]: lambda self: self.append(PlainDict())}


NUMPY_TYPES = {np.dtype(code).str[1:]: np.dtype(code) for code in "?bBhHiIlLefd"}
STORAGE_TYPES = {
    **{"DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "BFloat16Storage": BFLOAT16},
    **{"LongStorage": "<i8", "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "i1", "ByteStorage": "u1"},
    "BoolStorage": "?",
}
# What the globals of a pickle stand for here; nothing else is ever called.
COMMON = {
    ("collections", "OrderedDict"): PlainDict,
    ("numpy", "ndarray"): "numpy.ndarray",  # only an argument of _reconstruct
    ("numpy", "dtype"): lambda name, *_: NUMPY_TYPES[name],
    ("_codecs", "encode"): lambda text, _: text.encode("latin1"),  # how protocol 2 spells bytes
    **{(module, "bytes"): lambda: b"" for module in ("builtins", "__builtin__")},
}
for _core in ("numpy.core.multiarray", "numpy._core.multiarray"):
    COMMON[_core, "_reconstruct"] = lambda *_: np.empty(0, np.uint8)  # BUILD sets its content
    COMMON[_core, "scalar"] = lambda dtype, data: np.frombuffer(data, dtype, 1)[0].item()
TORCH = COMMON | {
    ("torch._utils", "_rebuild_tensor_v2"): lambda *arguments: Tensor(*arguments[:4]),
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    ("torch", "Size"): lambda sizes: sizes,
    **{("torch", name): np.dtype(kind) for name, kind in STORAGE_TYPES.items()},
}
SCRIPT = TORCH | {
    ("torch.jit._pickle", name): lambda value, *_: value
    for name in ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist", "restore_type_tag")
}
JITTOR = TORCH | {  # Jittor stores bfloat16 as uint16, and no weight is a 16-bit count
    key: lambda array, *_: array.view(BFLOAT16) if array.dtype == np.uint16 else array
    for key in (("jittor", "jittor_core.Var"), ("jittor", "Var"), ("jittor_core", "Var"))
}
JITTOR["torch.storage", "_load_from_bytes"] = lambda data: _storage_of(data)  # of PyTorch's tensors in a Jittor file


def read_torch_archive(path: Path, content: mmap.mmap) -> tuple[Any, str]:
    """Reads a zip archive that PyTorch wrote: the object, its tensors windows on the mapped file, and the kind."""
    archive = zipfile.ZipFile(path)
    names = archive.namelist()
    roots = [name.removesuffix("data.pkl") for name in names if re.fullmatch("[^/]*/data.pkl", name)]
    if len(roots) != 1:
        raise UserError("a zip archive that PyTorch did not write: it has no data.pkl")
    storages: dict[tuple[str, np.dtype], Storage] = {}

    def read(name: str) -> memoryview:
        info = archive.getinfo(roots[0] + name)
        if info.compress_type != zipfile.ZIP_STORED:
            raise UserError(f"a compressed entry {name}: PyTorch stores tensors uncompressed")
        start = info.header_offset + 30 + sum(struct.unpack_from("<HH", content, info.header_offset + 26))
        data = memoryview(content)[start : start + info.file_size]
        if len(data) != info.file_size or zlib.crc32(data) != info.CRC:
            raise UserError(f"damaged: the checksum (CRC) of {name} does not hold; copy or download it again")
        return data

    def find_storage(dtype: np.dtype, key: str, count: int) -> Storage:
        if (key, dtype) not in storages:
            storages[key, dtype] = Storage(dtype, count, np.frombuffer(read(f"data/{key}"), dtype, count))
        return storages[key, dtype]

    if roots[0] + "byteorder" in names and bytes(read("byteorder")) != b"little":
        raise UserError("its numbers are big-endian")
    script = roots[0] + "constants.pkl" in names
    value = RestrictedUnpickler(io.BytesIO(read("data.pkl")), SCRIPT if script else TORCH, find_storage).load()
    return value, "TorchScript archive" if script else "torch archive"


def read_torch_legacy(content: mmap.mmap) -> Any:
    """Reads a file of PyTorch before 1.6 (or of `_use_new_zipfile_serialization=False`): the object in it."""
    storages: dict[str, Storage] = {}
    content.seek(0)
    _, protocol, machine = (RestrictedUnpickler(content, {}).load() for _ in range(3))
    if protocol != 1001 or machine["little_endian"] is not True:
        raise UserError("a PyTorch file of another protocol, or with big-endian numbers")
    unpickler = RestrictedUnpickler(content, TORCH, lambda dtype, key, n: storages.setdefault(key, Storage(dtype, n)))
    value = unpickler.load()
    keys = RestrictedUnpickler(content, {}).load()
    position = content.tell()
    for storage in [storages[str(key)] for key in keys]:
        (count,) = struct.unpack_from("<q", content, position)
        begin, position = position + 8, position + 8 + storage.count * storage.dtype.itemsize
        if count != storage.count or position > len(content):
            raise UserError("truncated or damaged: its last tensors are missing")
        storage.values = np.frombuffer(memoryview(content)[begin:position], storage.dtype)
    return value


def _storage_of(data: bytes) -> Storage:
    """A storage that was pickled by itself: the bytes are a PyTorch file from before archives."""
    with mmap.mmap(-1, len(data)) as content:
        content[:] = data
        storage = read_torch_legacy(content)
        storage.values = np.array(storage.values)
    return storage


def read_jittor(content: mmap.mmap) -> Any:
    """Reads a file of `jt.save` (older versions wrote the pickle alone): the object in it."""
    end = len(content)
    if content[-len(JITTOR_END) :] == JITTOR_END:
        end -= 20 + len(JITTOR_END)
        if hashlib.sha1(memoryview(content)[:end]).digest() != content[end : end + 20]:
            raise UserError("damaged: its SHA-1 is not the one at its end; copy or download it again")
    content.seek(0)
    value = RestrictedUnpickler(content, JITTOR).load()
    if content.tell() != end:
        raise UserError("damaged: its pickle ends before the file does")
    return value
