"""Safetensors files: every one is read (bfloat16 included, which NumPy lacks), our own checkpoints are written.

Format: https://huggingface.co/docs/safetensors. Eight bytes of header length, a JSON header, the tensors without gaps.
Our metadata lie in the header as one JSON text under the key `jseg`.
"""

from __future__ import annotations

import json
import mmap
from pathlib import Path
from typing import Any

import numpy as np

from jseg.files import whole_file
from jseg.weights.records import Budget, checked_count, widen_bfloat16
from jseg.weights.refusal import FileRefused, quoted

MAX_HEADER = 100_000_000  # bytes, the limit of the format
OUR_KEY = "jseg"
TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
    "BOOL": "|b1",
}
NAMES = {np.dtype(spelling): name for name, spelling in TYPES.items() if name != "BF16"}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise FileRefused("its header has a name twice")
    return result


def _read_header(content: mmap.mmap) -> tuple[dict[str, Any], int]:
    """The header and where the data begin."""
    length = int.from_bytes(content[:8], "little")
    if length > MAX_HEADER or 8 + length > len(content):
        raise FileRefused("truncated: its header is longer than the file")
    try:
        header = json.loads(content[8 : 8 + length].decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise FileRefused(f"its header is no JSON ({quoted(str(error))[1:-1]})") from error
    if not isinstance(header, dict):
        raise FileRefused("its header is no JSON object")
    return header, 8 + length


def _checked_range(name: str, entry: Any, data_bytes: int) -> tuple[str, tuple[int, ...], int, int]:
    """Type, shape, begin and end of one tensor, checked against each other."""
    fields = ("dtype", "shape", "data_offsets")
    if not isinstance(entry, dict) or sorted(entry) != sorted(fields):
        raise FileRefused(f"tensor {quoted(name)} lacks one of {', '.join(fields)}")
    kind, shape, offsets = (entry[key] for key in fields)
    if not isinstance(kind, str) or kind not in TYPES:
        raise FileRefused(f"tensor {quoted(name)} has type {quoted(kind)}; known are {', '.join(TYPES)}")
    if not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2:
        raise FileRefused(f"tensor {quoted(name)} has a shape or place of another form")
    count = checked_count(tuple(shape))
    if not all(type(offset) is int and offset >= 0 for offset in offsets) or offsets[0] > offsets[1]:
        raise FileRefused(f"tensor {quoted(name)} lies at no place in the file")
    begin, end = offsets
    if end > data_bytes:
        raise FileRefused(f"truncated: tensor {quoted(name)} ends {end - data_bytes} bytes after the file")
    if end - begin != count * np.dtype(TYPES[kind]).itemsize:
        raise FileRefused(f"tensor {quoted(name)} has {end - begin} bytes for {count} elements of {kind}")
    return kind, tuple(shape), begin, end


def read_safetensors(content: mmap.mmap) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads all tensors and the metadata.

    Args:
        content: the mapped file.

    Returns:
        Tensors by name (bfloat16 as float32), and the metadata: ours as they were given to `write_safetensors`,
        those of other writers as a dictionary of texts.

    Raises:
        FileRefused: truncated, or a header that contradicts itself or the file.
    """
    header, start = _read_header(content)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FileRefused("its metadata are no dictionary of texts")
    ranges = {name: _checked_range(name, entry, len(content) - start) for name, entry in header.items()}
    position = 0
    for begin, end in sorted(item[2:] for item in ranges.values()):
        if begin != position:
            raise FileRefused("its tensors overlap or leave gaps")
        position = end
    if position != len(content) - start:
        raise FileRefused(f"damaged: {len(content) - start - position} bytes belong to no tensor")
    budget, tensors = Budget.of_file(len(content)), {}
    for name, (kind, shape, begin, end) in ranges.items():
        budget.take(max(end - begin, 4 * checked_count(shape)))
        values = np.frombuffer(bytearray(content[start + begin : start + end]), TYPES[kind])
        if kind == "BOOL":
            values = values.view(np.uint8) != 0
        tensors[name] = (widen_bfloat16(values) if kind == "BF16" else values).reshape(shape)
    return tensors, _our_metadata(metadata)


def _our_metadata(metadata: dict[str, str]) -> dict[str, Any]:
    if OUR_KEY not in metadata:
        return dict(metadata)
    try:
        ours = json.loads(metadata[OUR_KEY])
    except (ValueError, RecursionError) as error:
        raise FileRefused("its jseg metadata are no JSON") from error
    if not isinstance(ours, dict):
        raise FileRefused("its jseg metadata are no JSON object")
    return ours


def write_safetensors(path: str | Path, tensors: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    """Writes a weight file: whole or not at all.

    Args:
        path: where to; missing folders are made.
        tensors: arrays by name, any shape; booleans, whole numbers or floats.
        meta: JSON-ready values, given back by `read_weight_file(path).meta`.

    Raises:
        UserError: the folder is not writable or full.
    """
    arrays = {name: np.asarray(array) for name, array in tensors.items()}
    if "__metadata__" in arrays:
        raise ValueError("a tensor may not be called __metadata__")
    header: dict[str, Any] = {"__metadata__": {OUR_KEY: json.dumps(meta)}} if meta else {}
    order = sorted(arrays, key=lambda name: -arrays[name].itemsize)  # keeps every tensor aligned
    places, position = {}, 0
    for name in order:
        places[name] = [position, position + arrays[name].nbytes]
        position += arrays[name].nbytes
    for name, array in arrays.items():
        kind = NAMES[array.dtype.newbyteorder("<")]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": places[name]}
    text = json.dumps(header).encode("utf-8")
    text += b" " * (-len(text) % 8)
    with whole_file(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            little_endian = arrays[name].dtype.newbyteorder("<")
            file.write(np.ascontiguousarray(arrays[name], little_endian).data)
