"""Weight files of every kind the field uses, read without PyTorch and without running code from the file.

`read_weight_file` knows PyTorch archives, TorchScript archives, PyTorch files from before archives, safetensors
(https://huggingface.co/docs/safetensors) and Jittor's pickles. Weight files are untrusted input.
"""

import json
import mmap
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from jseg.errors import UserError
from jseg.files import digest_of, whole_files
from jseg.weights import pickles

OUR_KEY = "jseg"  # where our metadata lie in a safetensors header, as one JSON text
SAFETENSORS_TYPES = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": pickles.BFLOAT16, "BOOL": "?"},
    **{"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1"},
}
MAX_MODULES, MAX_PREFIX = 10_000, 1000  # of a TorchScript archive; modules may hold each other without end
MEMORY_FACTOR, MEMORY_FLOOR = 4, 64 * 2**20  # all tensors take at most factor * size of the file + floor, in bytes


@dataclass(frozen=True)
class WeightFile:
    """What a weight file holds."""

    tensors: dict[str, np.ndarray]  # by name, in the file's types (bfloat16 as float32), contiguous and writable
    meta: dict[str, Any] = field(default_factory=dict)  # values beside the weights (CLASSES, iter, our own)
    kind: str = ""  # "torch archive", "TorchScript archive", "old torch file", "safetensors" or "Jittor pickle"
    sha256: str = ""  # of the whole file, hexadecimal
    path: Path = Path()


def read_weight_file(path: str | Path) -> WeightFile:
    """Reads a weight file of any known kind; nothing in the file is run.

    The kind is recognised by the content. The weights are looked for at the top, under `state_dict` and under `model`;
    a prefix `module.` common to all is removed, optimiser state is left alone. UserError: no such file, unknown kind,
    truncated, damaged, or asking for anything but tensors and plain values.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"weight file {path} does not exist; see what there is by tools/fetch_pretrained.py --list")
    sha256 = digest_of(path)
    try:
        with open(path, "rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # lives as long as a view of it
        value: Any = None
        if content[4:9] == b"\0\0\0\0{":
            kind = "safetensors"
        elif content[:2] == b"PK":
            value, kind = pickles.read_torch_archive(path, content)
        elif content[2 : 2 + len(pickles.LEGACY_START)] == pickles.LEGACY_START:
            value, kind = pickles.read_torch_legacy(content), "old torch file"
        elif content[:1] == b"\x80":
            value, kind = pickles.read_jittor(content), "Jittor pickle"
        elif content[:23] == b"version https://git-lfs":
            raise UserError("it is a pointer of Git LFS, not the weights: run `git lfs pull` in its folder")
        elif content[:100].lstrip().lower().startswith((b"<!doctype", b"<html")):
            raise UserError("it is a web page, so the download failed: open its address in a browser")
        else:
            raise UserError(f"it is no weight file of PyTorch, safetensors or Jittor, it begins with {content[:30]}")
        tensors, meta = _read_safetensors(path, content) if kind == "safetensors" else _split_checkpoint(value)
        if not tensors:
            raise UserError("it holds no tensors")
        if sum(tensor.nbytes for tensor in tensors.values()) > MEMORY_FACTOR * path.stat().st_size + MEMORY_FLOOR:
            raise UserError("its tensors would take many times the size of the file")
        prefix = "module." if all(name.startswith("module.") for name in tensors) else ""  # of PyTorch's DataParallel
        arrays = {name.removeprefix(prefix): pickles.as_array(tensor) for name, tensor in tensors.items()}
        return WeightFile(arrays, meta, kind, sha256, path)
    except Exception as error:  # whatever a forged or damaged file makes the parsers raise
        if isinstance(error, OSError) and error.errno:
            raise  # it may be whole, but cannot be read now
        what = f"it is truncated, damaged or no weight file ({type(error).__name__}: {str(error)[:200]})"
        raise UserError(f"weight file {path} is refused: {error if isinstance(error, UserError) else what}") from error


def _read_safetensors(path: Path, content: mmap.mmap) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors as views of the file, and the metadata (ours, or those of other writers as texts)."""
    with safetensors.safe_open(path, framework="np"):  # checks the header against itself and the file
        start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    meta = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        begin, end = (start + offset for offset in entry["data_offsets"])
        flat = np.frombuffer(memoryview(content)[begin:end], SAFETENSORS_TYPES[entry["dtype"]])
        tensors[name] = flat.reshape(entry["shape"])
    return tensors, dict(json.loads(meta[OUR_KEY])) if OUR_KEY in meta else meta


def write_safetensors(path: str | Path, tensors: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    """Writes a weight file with JSON-ready metadata, whole or not at all, without a second copy of the tensors."""
    names = {np.dtype(kind): name for name, kind in SAFETENSORS_TYPES.items()}
    ordered = sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize)  # so that all are aligned
    header: dict[str, Any] = {"__metadata__": {OUR_KEY: json.dumps(meta)}} if meta else {}
    end = 0
    for name, array in ordered:
        begin, end = end, end + array.nbytes
        dtype = names[array.dtype.newbyteorder("<")]
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": (begin, end)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with whole_files(path) as (file,):
        file.write(len(text).to_bytes(8, "little") + text)
        for _, array in ordered:
            file.write(np.asarray(array, array.dtype.newbyteorder("<"), order="C").data)


def _split_checkpoint(value: Any) -> tuple[dict[str, pickles.Tensor | np.ndarray], dict[str, Any]]:
    """The weights, and the plain values beside them, in whatever a training script saved."""
    meta: dict[str, Any] = {}
    for key in ("state_dict", "model", "state_dict"):  # where training scripts put the weights
        if isinstance(value, dict) and isinstance(value.get(key), dict) and not isinstance(value, pickles.ScriptModule):
            meta |= _plain_values({name: item for name, item in value.items() if name != key})
            value = value[key]
    if isinstance(value, pickles.ScriptModule):
        tensors, queue = {}, [("", value)]
        for prefix, module in queue:
            if len(queue) > MAX_MODULES or len(prefix) > MAX_PREFIX:
                raise UserError("its modules are nested too deep")
            for name, item in module.items():
                if isinstance(item, pickles.ScriptModule):
                    queue.append((f"{prefix}{name}.", item))
                elif isinstance(item, pickles.Tensor):
                    tensors[f"{prefix}{name}"] = item
        return tensors, meta
    if not isinstance(value, dict):
        raise UserError(f"it holds a {type(value).__name__} where a dictionary of tensors was expected")
    tensors = {name: item for name, item in value.items() if isinstance(item, (pickles.Tensor, np.ndarray))}
    return tensors, meta | _plain_values(value)


def _plain_values(container: dict) -> dict[str, Any]:
    """The texts, numbers and class names of a checkpoint, also those under its key `meta`."""
    inner = container.get("meta")
    values = {**container, **inner} if isinstance(inner, dict) else container
    with suppress(TypeError, LookupError):
        values = {"CLASSES": values["config"]["model"]["class_names"], **values}  # JSeg's
    return {key: x for key, x in values.items() if isinstance(x, (str, int, float)) or key == "CLASSES"}
