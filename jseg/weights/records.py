"""Tensors as weight files describe them, made into arrays only when asked for and only after every bound is checked.

A description costs nothing, so optimiser state that nobody wants is never read, and a file cannot make us allocate more
than a few times its own size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jseg.weights.pickle_machine import Buildable, Constructor, checked_key
from jseg.weights.refusal import FileRefused

MAX_DIMENSIONS = 32  # NumPy's limit
COPY_FACTOR = 4  # how many times the file's size all copied tensors together may take
COPY_FLOOR = 64 * 2**20  # bytes that small files may take in any case

# PyTorch's storage classes (torch.FloatStorage, …) -> NumPy type; bfloat16 is stored as its 16 bits.
STORAGE_TYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}


def widen_bfloat16(bits: np.ndarray) -> np.ndarray:
    """bfloat16 values given as uint16 bits (any shape) -> float32, exactly."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


@dataclass
class Budget:
    """Bytes that the tensors of one file may still take in memory."""

    left: int

    @staticmethod
    def of_file(size: int) -> Budget:
        """The budget of a file of `size` bytes."""
        return Budget(COPY_FACTOR * size + COPY_FLOOR)

    def take(self, count: int) -> None:
        """Books `count` bytes.

        Raises:
            FileRefused: more than what a file of this size can plausibly hold.
        """
        self.left -= count
        if self.left < 0:
            raise FileRefused("its tensors would take many times the size of the file")


@dataclass(frozen=True)
class StorageType:
    """A storage class of PyTorch: the type of its elements ("bfloat16" or a NumPy type)."""

    element: str

    @property
    def stored(self) -> np.dtype:
        """The NumPy type as which the elements lie in the file."""
        return np.dtype("<u2" if self.element == "bfloat16" else self.element)


@dataclass
class Storage:
    """`count` elements of one type; `read` fetches their bytes, once."""

    type: StorageType
    count: int
    read: Callable[[], bytes]
    given: bool = False  # whether a tensor already owns the elements
    _values: np.ndarray | None = field(default=None, repr=False)

    def values(self) -> np.ndarray:
        """The elements as a flat array.

        Raises:
            FileRefused: the file holds fewer or more bytes than it says.
        """
        if self._values is None:
            data = self.read()
            if len(data) != self.count * self.type.stored.itemsize:
                raise FileRefused(f"a tensor's data has {len(data)} bytes where {self.count} elements were announced")
            self._values = np.frombuffer(bytearray(data), self.type.stored)  # a bytearray makes it writable
        return self._values


@dataclass
class TensorRecord:
    """A tensor of PyTorch: a strided window on a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, budget: Budget) -> np.ndarray:
        """The tensor as a contiguous array of its shape; bfloat16 becomes float32.

        Raises:
            FileRefused: the window leaves the storage.
        """
        elements = checked_count(self.shape)
        for name, numbers in (("stride", self.strides), ("offset", (self.offset,))):
            if not all(type(number) is int and number >= 0 for number in numbers):
                raise FileRefused(f"a tensor has a {name} that is no count")
        if len(self.strides) != len(self.shape):
            raise FileRefused("a tensor has another number of strides than of dimensions")
        last = self.offset + sum((size - 1) * step for size, step in zip(self.shape, self.strides, strict=True))
        if elements and last >= self.storage.count:
            raise FileRefused(f"a tensor reaches to element {last} of a storage of {self.storage.count}")
        stored = self.storage.type.stored
        budget.take(elements * max(stored.itemsize, 4))
        if not elements:
            return np.zeros(self.shape, np.float32 if self.storage.type.element == "bfloat16" else stored)
        values = self.storage.values()
        if stored == np.dtype(bool):
            values = values.view(np.uint8) != 0  # any other bit pattern is no valid NumPy bool
        byte_strides = [step * stored.itemsize if size > 1 else 0
                        for size, step in zip(self.shape, self.strides, strict=True)]  # fmt: skip
        window = np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, byte_strides)
        if self.storage.type.element == "bfloat16":
            return widen_bfloat16(window)
        if window.size < self.storage.count or self.storage.given or not window.flags.c_contiguous:
            return np.array(window, order="C")
        self.storage.given = True  # the whole storage is this tensor, as it nearly always is: no second copy
        return values.reshape(self.shape)


@dataclass
class ArrayRecord(Buildable):
    """A NumPy array as NumPy pickles it: made empty, then given its state."""

    dtype: np.dtype = field(default_factory=lambda: np.dtype(np.uint8))
    shape: tuple[int, ...] = (0,)
    fortran: bool = False
    data: bytes = b""
    bfloat16: bool = False  # the uint16 values are bits of bfloat16

    def set_state(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise FileRefused("a NumPy array's state has another form")
        shape, dtype, fortran, data = state[-4:]
        if not isinstance(dtype, DtypeRecord) or not isinstance(data, bytes) or not isinstance(shape, tuple):
            raise FileRefused("a NumPy array's state has another form")
        self.shape, self.dtype, self.fortran, self.data = shape, dtype.dtype, bool(fortran), data

    def array(self, budget: Budget) -> np.ndarray:
        """The array, contiguous.

        Raises:
            FileRefused: shape and bytes do not belong together.
        """
        count = checked_count(self.shape)
        if count * self.dtype.itemsize != len(self.data):
            raise FileRefused(f"a NumPy array has {len(self.data)} bytes for {count} elements of {self.dtype}")
        budget.take(max(len(self.data), 4 * count))
        values = np.frombuffer(self.data, self.dtype)
        if self.dtype == np.dtype(bool):
            values = values.view(np.uint8) != 0
        values = np.array(values.reshape(self.shape, order="F" if self.fortran else "C"), order="C")
        return widen_bfloat16(values) if self.bfloat16 else values


class DtypeRecord(Buildable):
    """A NumPy type inside a pickle: plain numbers only, little-endian only."""

    def __init__(self, name: Any, *_: Any) -> None:
        if not isinstance(name, str) or len(name) > 3 or name[:1] not in tuple("fiub"):
            raise FileRefused("a NumPy type that is no plain number")
        self.dtype = np.dtype(name).newbyteorder("<")

    def set_state(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", "|", "="):
            raise FileRefused("big-endian numbers: convert the file on a little-endian machine")


def checked_count(shape: tuple[int, ...]) -> int:
    """Number of elements of an array of this shape.

    Raises:
        FileRefused: a shape that no array has.
    """
    if not isinstance(shape, tuple) or len(shape) > MAX_DIMENSIONS:
        raise FileRefused("a tensor with an impossible shape")
    if not all(type(size) is int and 0 <= size < 2**48 for size in shape):
        raise FileRefused("a tensor with an impossible shape")
    return math.prod(shape)


def _reconstruct(marker: Any, *_: Any) -> ArrayRecord:
    if marker is not NUMPY_ARRAY:
        raise FileRefused("a NumPy array of another class")
    return ArrayRecord()


def _scalar(dtype: Any, data: Any) -> int | float | bool:
    """A NumPy number (mmcv keeps such scores beside the weights) as a Python one."""
    if not isinstance(dtype, DtypeRecord) or not isinstance(data, bytes) or len(data) != dtype.dtype.itemsize:
        raise FileRefused("a NumPy number of another form")
    return np.frombuffer(data, dtype.dtype)[0].item()


def _encode(text: Any, codec: Any) -> bytes:
    """How protocol 2 spells bytes."""
    if not isinstance(text, str) or codec != "latin1":
        raise FileRefused("bytes in another coding than latin1")
    return text.encode("latin1")


def _empty_bytes() -> bytes:
    """How protocol 2 spells no bytes at all: a call of `bytes` without arguments."""
    return b""


def _ordered_dict(pairs: Any = ()) -> dict:
    if not isinstance(pairs, (list, tuple)) or any(not isinstance(pair, (list, tuple)) for pair in pairs):
        raise FileRefused("an OrderedDict made from something that is no list of pairs")
    return {checked_key(key): value for key, value in pairs}


NUMPY_ARRAY = "numpy.ndarray"
ORDERED_DICT = {("collections", "OrderedDict"): Constructor(_ordered_dict)}
NUMPY_TABLE: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): NUMPY_ARRAY,
    ("numpy", "dtype"): Constructor(DtypeRecord),
    ("_codecs", "encode"): Constructor(_encode),
    **{(module, "bytes"): Constructor(_empty_bytes) for module in ("builtins", "__builtin__")},
    **{(f"numpy.{core}.multiarray", "_reconstruct"): Constructor(_reconstruct) for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): Constructor(_scalar) for core in ("core", "_core")},
    **ORDERED_DICT,
}
