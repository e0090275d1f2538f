"""Safetensors against the format's own library, and headers that lie."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from jseg.errors import UserError
from jseg.weights.reader import read_weight_file, write_safetensors

TYPES = ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?")


def arrays() -> dict[str, np.ndarray]:
    """Arrays of all types and layouts."""
    return {
        **{f"type.{name}": np.arange(6).reshape(2, 3).astype(name) for name in TYPES},
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros((0, 4), np.float32),
        "transposed": np.arange(12.0).reshape(3, 4).T,
        "big-endian": np.arange(3, dtype=">f4"),
        "Ünïcode \n": np.ones(1, np.float32),
    }


def check_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].shape == array.shape and found[name].dtype == array.dtype.newbyteorder("<"), name
        assert np.array_equal(found[name], array), name


def test_the_library_reads_what_we_write(tmp_path: Path) -> None:
    meta = {"classes": ["cat", "dög"], "iteration": 7, "nested": {"a": [1.5, None, True]}}
    write_safetensors(tmp_path / "a.safetensors", arrays(), meta)
    check_equal(load_file(tmp_path / "a.safetensors"), arrays())
    with safe_open(tmp_path / "a.safetensors", framework="np") as file:
        assert json.loads(file.metadata()["jseg"]) == meta
    file = read_weight_file(tmp_path / "a.safetensors")
    check_equal(file.tensors, arrays())
    assert list(file.tensors) == list(arrays())  # the order is kept too
    assert file.meta == meta and file.kind == "safetensors" and all(a.flags.writeable for a in file.tensors.values())


def test_we_read_what_the_library_writes(tmp_path: Path) -> None:
    native = {name: np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(array.shape)
              for name, array in arrays().items()}  # fmt: skip
    save_file(native, tmp_path / "a.safetensors", {"format": "pt"})
    file = read_weight_file(tmp_path / "a.safetensors")
    check_equal(file.tensors, native)
    assert file.meta == {"format": "pt"}


def test_bfloat16_from_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    tensor = torch.linspace(-5, 5, 77).to(torch.bfloat16).reshape(7, 11)
    save_torch({"w": tensor}, tmp_path / "a.safetensors")
    (found,) = read_weight_file(tmp_path / "a.safetensors").tensors.values()
    assert found.dtype == np.float32 and np.array_equal(found, tensor.float().numpy())


@given(st.dictionaries(st.text(max_size=9), st.tuples(st.sampled_from(TYPES), st.lists(st.integers(0, 4), max_size=3)),
                       min_size=1, max_size=5))  # fmt: skip
@settings(max_examples=50, deadline=None)
def test_any_names_types_and_shapes(tmp_path_factory: pytest.TempPathFactory, layout: dict[str, tuple]) -> None:
    path = tmp_path_factory.mktemp("any") / "a.safetensors"
    given_arrays = {name: np.ones(shape, kind) for name, (kind, shape) in layout.items() if name != "__metadata__"}
    if given_arrays:
        write_safetensors(path, given_arrays, {})
        check_equal(load_file(path), given_arrays)
        if not all(name.startswith("module.") for name in given_arrays):
            check_equal(read_weight_file(path).tensors, given_arrays)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_safetensors(path, {"w": np.ones(3, np.float32)}, {"old": True})
    with pytest.raises(TypeError):
        write_safetensors(path, {"w": np.zeros(3, np.float32)}, {"meta": object()})
    with pytest.raises(KeyError):
        write_safetensors(path, {"w": np.array(["text"])}, {})
    assert read_weight_file(path).meta == {"old": True}
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_a_place_that_cannot_be_written_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_safetensors(tmp_path / "file" / "a.safetensors", {"w": np.ones(1)}, {})


def raw(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def tensor(shape: Any = (2,), offsets: Any = (0, 8), dtype: Any = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (raw({"w": tensor()}, b"12345678", length=10**7), "truncated"),
        (raw({"w": tensor()}, b"1234"), "truncated: tensor 'w' ends 4 bytes after"),
        (raw({"w": tensor(offsets=(0, 2**60))}, b"12345678"), "truncated"),
        (raw({"w": tensor((3,))}, b"12345678"), "8 bytes for 3 elements"),
        (raw({"w": tensor((2**40, 2**40))}, b"12345678"), "8 bytes for"),
        (raw({"w": tensor([2**63])}, b"12345678"), "impossible shape"),
        (raw({"w": tensor([-2])}, b"12345678"), "impossible shape"),
        (raw({"w": tensor([True, 2])}, b"12345678"), "impossible shape"),
        (raw({"w": tensor([1] * 40 + [2])}, b"12345678"), "impossible shape"),
        (raw({"w": tensor("2")}, b"12345678"), "another form"),
        (raw({"w": tensor(offsets=(8, 0))}, b"12345678"), "no place"),
        (raw({"w": tensor(offsets=(-8, 0))}, b"12345678"), "no place"),
        (raw({"w": tensor(offsets=(0.0, 8.0))}, b"12345678"), "no place"),
        (raw({"w": tensor(dtype="F8_E4M3")}, b"12345678"), "F8_E4M3"),
        (raw({"w": tensor(dtype=["F32"])}, b"12345678"), "has type"),
        (raw({"w": {"dtype": "F32"}}, b"12345678"), "lacks one of"),
        (raw({"w": 5}, b"12345678"), "lacks one of"),
        (raw({"w": tensor(), "v": tensor()}, b"12345678"), "overlap"),
        (raw({"w": tensor(offsets=(8, 16))}, b"1234567812345678"), "gaps"),
        (raw({"w": tensor()}, b"12345678extra"), "belong to no tensor"),
        (raw(b'{"w": {"dtype": "F32"}, "w": 1}   '), "twice"),
        (raw({"__metadata__": {"a": 1}, "w": tensor()}, b"12345678"), "metadata"),
        (raw({"__metadata__": {"jseg": "{"}, "w": tensor()}, b"12345678"), "metadata"),
        (raw({"__metadata__": {"jseg": "[1]"}, "w": tensor()}, b"12345678"), "metadata"),
        (raw(b'{"a":' * 100_000), "no JSON"),
        (raw(b'{"a": ' + b"9" * 5000 + b"}"), "no JSON"),
        (raw(b"{not json at all"), "no JSON"),
        (raw({"__metadata__": {"a": "b"}}), "no tensors"),
    ],
)
def test_headers_that_lie_are_refused(tmp_path: Path, content: bytes, match: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=match) as error:
        read_weight_file(path)
    assert str(error.value).isprintable()


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_safetensors(path, {"w": np.arange(20.0), "v": np.ones(3, np.float16)}, {"a": 1})
    content = path.read_bytes()
    for length in range(0, len(content), 3):
        path.write_bytes(content[:length])
        with pytest.raises(UserError):
            read_weight_file(path)
