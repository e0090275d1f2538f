"""Jittor's weight files: what `jt.save(object, "name.pkl")` writes, read without running anything.

A pickle of protocol 4, the SHA-1 of the pickle (20 bytes) and the eight bytes `HCAJSLHD`
(https://github.com/Jittor/jittor, python/jittor/__init__.py). Older versions wrote the pickle alone.
"""

from __future__ import annotations

import hashlib
import mmap
from typing import Any

from jseg.weights.pickle_machine import Constructor, PickleMachine
from jseg.weights.records import NUMPY_TABLE, ArrayRecord
from jseg.weights.refusal import FileRefused

TRAILER = b"HCAJSLHD"
DIGEST_BYTES = 20
CHUNK = 2**20


def _variable(array: Any, *_: Any) -> ArrayRecord:
    if not isinstance(array, ArrayRecord):
        raise FileRefused("a Jittor variable of another form")
    # Jittor has no way to store bfloat16 and pickles its bits; a weight is never a 16-bit count.
    array.bfloat16 = array.dtype.name == "uint16"
    return array


# Jittor sets the class's module to `jittor` and leaves its qualified name.
VARIABLE_NAMES = (("jittor", "jittor_core.Var"), ("jittor", "Var"), ("jittor_core", "Var"))
JITTOR_TABLE = NUMPY_TABLE | dict.fromkeys(VARIABLE_NAMES, Constructor(_variable))


def read_jittor(content: mmap.mmap) -> Any:
    """Reads a file of `jt.save`.

    Args:
        content: the mapped file.

    Returns:
        The object, Jittor variables and NumPy arrays as ArrayRecord.

    Raises:
        FileRefused: truncated, damaged (the SHA-1 differs) or asking for anything but arrays.
    """
    end = len(content)
    if content[-len(TRAILER) :] == TRAILER:
        end -= len(TRAILER) + DIGEST_BYTES
        digest = hashlib.sha1(usedforsecurity=False)
        for start in range(0, max(end, 0), CHUNK):
            digest.update(content[start : min(start + CHUNK, end)])
        if end < 0 or digest.digest() != content[end : end + DIGEST_BYTES]:
            raise FileRefused("damaged: its SHA-1 is not the one at its end; copy or download it again")
    content.seek(0)
    value = PickleMachine(JITTOR_TABLE).load(content)
    if content.tell() != end:
        raise FileRefused("damaged: its pickle ends before the file does")
    return value
