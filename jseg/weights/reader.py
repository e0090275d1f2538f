"""Weight files of every kind the field uses, read without PyTorch and without running code from the file.

`read_weight_file` knows PyTorch archives, TorchScript archives, PyTorch files from before archives, safetensors and
Jittor's pickles. Weight files are untrusted input: everything a file claims is checked before it is used.
"""

from __future__ import annotations

import hashlib
import mmap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jseg.errors import UserError
from jseg.weights.jittor_files import read_jittor
from jseg.weights.refusal import FileRefused
from jseg.weights.safetensors_files import read_safetensors, write_safetensors
from jseg.weights.state_dict import arrays_of, named, split_checkpoint
from jseg.weights.torch_files import LEGACY_START, read_torch_archive, read_torch_legacy

__all__ = ["WeightFile", "read_weight_file", "sha256_of_file", "write_safetensors"]

CHUNK = 2**20
SMALLEST = 16  # bytes; no weight file is shorter


@dataclass(frozen=True)
class WeightFile:
    """What a weight file holds."""

    tensors: dict[str, np.ndarray]  # by name, in the file's types (bfloat16 as float32), contiguous and writable
    meta: dict[str, Any] = field(default_factory=dict)  # plain values beside the weights (CLASSES, iter, our own)
    kind: str = ""  # "torch archive", "TorchScript archive", "old torch file", "safetensors" or "Jittor pickle"
    sha256: str = ""  # of the whole file, hexadecimal
    path: Path = Path()


def sha256_of_file(path: str | Path) -> str:
    """SHA-256 of a file of any size, hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()


def read_weight_file(path: str | Path) -> WeightFile:
    """Reads a weight file of any known kind; nothing in the file is run.

    Args:
        path: the file; its kind is told by its content, not by its name. The weights are looked for at the top, under
            `state_dict` and under `model`; optimiser state is left alone.

    Returns:
        Tensors by name (a prefix `module.` common to all is removed) and the plain values beside them.

    Raises:
        UserError: no such file, unknown kind, truncated, damaged, or asking for anything but tensors and plain values.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(
            f"weight file {path} does not exist; tools/fetch_pretrained.py --list shows what can be fetched"
        )
    try:
        tensors, meta, kind = _read(path)
        return WeightFile(tensors, meta, kind, sha256_of_file(path), path)
    except FileRefused as error:
        raise UserError(f"weight file {path} is refused: {error}") from error
    except OSError as error:
        raise UserError(f"weight file {path} cannot be read: {error.strerror or error}") from error


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any], str]:
    """Tensors, plain values and kind of the file."""
    size = path.stat().st_size
    if size < SMALLEST:
        raise FileRefused(f"it has only {size} bytes")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content[4:9] == b"\0\0\0\0{":
            tensors, meta = read_safetensors(content)
            return named(tensors), meta, "safetensors"
        if content[:2] == b"PK":
            value, kind, archive = read_torch_archive(path)
            with archive:
                records, meta = split_checkpoint(value)
                return arrays_of(records, size), meta, kind
        if content[:1] == b"\x80" and content[2 : 2 + len(LEGACY_START)] == LEGACY_START:
            records, meta = split_checkpoint(read_torch_legacy(content))
            return arrays_of(records, size), meta, "old torch file"
        if content[:1] == b"\x80":
            records, meta = split_checkpoint(read_jittor(content))
            return arrays_of(records, size), meta, "Jittor pickle"
    raise FileRefused("it is no PyTorch, TorchScript, safetensors or Jittor weight file")
