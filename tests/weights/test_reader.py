"""Choosing the reader by content, safetensors against the format's own library, and what all kinds of files share."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
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

KINDS = {
    "torchscript_*": "TorchScript archive",
    "*_zip*": "torch archive",
    "*_wrapped_*": "torch archive",
    "*_legacy_*": "old torch file",
    "*.safetensors": "safetensors",
}
TYPES = ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?")


@pytest.mark.parity
def test_recorded_files_of_every_kind_by_content_alone(golden: Path, tmp_path: Path) -> None:
    files = [path for path in sorted((golden / "torch_release" / "convert").iterdir()) if path.suffix != ".json"]
    assert files
    for path in files:
        copy = tmp_path / "weights"
        copy.write_bytes(path.read_bytes())
        file = read_weight_file(copy)
        assert [file.kind] == [kind for pattern, kind in KINDS.items() if path.match(pattern)], path.name
        assert len(file.tensors) > 50 and file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "refused"),
        (b"PK", "refused"),
        (b"\x80\x02", "refused"),
        (b"weights are not text" * 9, "is no PyTorch, TorchScript, safetensors or Jittor"),
        (b"\x93NUMPY" + b"\0" * 99, "is no PyTorch"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 34\n", "Git LFS.*git lfs pull"),
        (b"\n<!DOCTYPE html><html>Sign in</html>", "web page, so the download failed"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, match: str) -> None:
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(UserError, match=f"weight file .*weights.pth is refused.*{match}|{match}"):
        read_weight_file(tmp_path / "weights.pth")


def test_missing_files_and_folders_are_user_errors(tmp_path: Path) -> None:
    for path, match in ((tmp_path / "no.pth", "does not exist"), (tmp_path, "is a folder: name a file in it")):
        with pytest.raises(UserError, match=match):
            read_weight_file(path)


def test_reading_imports_neither_torch_nor_jittor() -> None:
    code = "import sys, jseg.weights.reader, jseg.clip.weights, jseg.clip.tokenizer, jseg.clip.class_embeddings\n"
    code += "print([name for name in ('torch', 'jittor') if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


# --- safetensors ---


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


def test_what_we_write_comes_back_and_the_library_reads_it(tmp_path: Path) -> None:
    meta = {"classes": ["cat", "dög"], "iteration": 7, "nested": {"a": [1.5, None, True]}}
    write_safetensors(tmp_path / "a.safetensors", arrays(), meta)
    check_equal(load_file(tmp_path / "a.safetensors"), arrays())
    with safe_open(tmp_path / "a.safetensors", framework="np") as file:
        assert json.loads(file.metadata()["jseg"]) == meta
    file = read_weight_file(tmp_path / "a.safetensors")
    check_equal(file.tensors, arrays())
    assert file.meta == meta and file.kind == "safetensors" and all(a.flags.writeable for a in file.tensors.values())


def test_we_read_what_others_write(tmp_path: Path) -> None:
    native = {name: np.asarray(array, array.dtype.newbyteorder("<"), order="C") for name, array in arrays().items()}
    save_file(native, tmp_path / "a.safetensors", {"format": "pt"})
    file = read_weight_file(tmp_path / "a.safetensors")
    check_equal(file.tensors, native)
    assert file.meta == {"format": "pt"}
    header = b'{"b": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]}, "a": {"dtype": "F32", "shape": [], '
    header += b'"data_offsets": [3, 7]}}'  # as our own writer did before: any order, no alignment
    (tmp_path / "a.safetensors").write_bytes(
        len(header).to_bytes(8, "little") + header + b"\1\2\3" + np.float32(1.5).tobytes()
    )
    check_equal(
        read_weight_file(tmp_path / "a.safetensors").tensors,
        {"b": np.array([1, 2, 3], np.uint8), "a": np.array(1.5, np.float32)},
    )


def test_bfloat16_from_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    tensors = {"w": torch.linspace(-5, 5, 77).to(torch.bfloat16).reshape(7, 11), "s": torch.tensor(-2.5).bfloat16()}
    save_torch(tensors, tmp_path / "a.safetensors")
    check_equal(
        read_weight_file(tmp_path / "a.safetensors").tensors, {name: t.float().numpy() for name, t in tensors.items()}
    )


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


def test_common_prefix_is_dropped_from_safetensors_too(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "a.safetensors", {"module.w": np.ones(2), "module.v": np.ones(2)}, {})
    assert sorted(read_weight_file(tmp_path / "a.safetensors").tensors) == ["v", "w"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_safetensors(path, {"w": np.ones(3, np.float32)}, {"old": True})
    with pytest.raises(TypeError):
        write_safetensors(path, {"w": np.zeros(3, np.float32)}, {"meta": object()})
    with pytest.raises(UserError, match="cannot write"):
        write_safetensors(path / "b.safetensors", {"w": np.zeros(3, np.float32)}, {})
    assert read_weight_file(path).meta == {"old": True}
    assert os.listdir(tmp_path) == ["a.safetensors"]


def raw(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def tensor(shape: Any = (2,), offsets: Any = (0, 8), dtype: Any = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    "content",
    [
        raw({"w": tensor()}, b"12345678", length=10**7),
        raw({"w": tensor()}, b"1234"),
        raw({"w": tensor(offsets=(0, 2**60))}, b"12345678"),
        raw({"w": tensor([-2])}, b"12345678"),
        raw({"w": tensor(offsets=(8, 0))}, b"12345678"),
        raw({"w": tensor(offsets=(0, 2), dtype="F8_E4M3")}, b"12"),
        raw({"w": tensor(), "v": tensor()}, b"12345678"),
        raw({"w": tensor()}, b"12345678extra"),
        raw({"__metadata__": {"jseg": "{"}, "w": tensor()}, b"12345678"),
        raw(b'{"a":' * 100_000),
        raw({"__metadata__": {"a": "b"}}),
    ],
)
def test_headers_that_lie_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.safetensors is refused") as error:
        read_weight_file(path)
    assert str(error.value).isprintable()
