"""Choosing the reader by content, safetensors against the format's own library, and what all kinds of files share."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from jseg.errors import UserError
from jseg.weights.reader import read_weight_file, write_safetensors

KINDS = {"torchscript_*": "TorchScript archive", "*_zip*": "torch archive", "*_wrapped_*": "torch archive",
         "*_legacy_*": "old torch file", "*.safetensors": "safetensors"}  # fmt: skip
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


def raw(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def tensor(shape: Any = (2,), offsets: Any = (0, 8), dtype: Any = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize("content", [
    *(b"", b"PK", b"\x80\x02", b"<!DOCTYPE html>", b"\x93NUMPY" + b"\0" * 99),
    raw({"w": tensor()}, b"12345678", length=10**7), raw({"w": tensor()}, b"1234"),
    raw({"w": tensor(offsets=(0, 2**60))}, b"12345678"),
    raw({"w": tensor(offsets=(0, 2), dtype="F8_E4M3")}, b"12"),
    raw({"w": tensor(), "v": tensor()}, b"12345678"),
    raw({"__metadata__": {"jseg": "{"}, "w": tensor()}, b"12345678"),
    raw(b'{"a":' * 100_000), raw({"__metadata__": {"a": "b"}}),
])  # fmt: skip
def test_other_files_and_headers_that_lie_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.pth is refused") as error:
        read_weight_file(tmp_path / "a.pth")
    assert str(error.value).isprintable()
    with pytest.raises(UserError, match="does not exist"):
        read_weight_file(tmp_path / "no.pth")


@pytest.mark.parametrize("content, cure", [(b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
                                           (b"\n<!DOCTYPE html><html>", "web page")])  # fmt: skip
def test_downloads_that_failed_are_told_from_damaged_weights(tmp_path: Path, content: bytes, cure: str) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(UserError, match=cure):
        read_weight_file(tmp_path / "a.pth")


def test_reading_imports_neither_torch_nor_jittor() -> None:
    code = "import sys, jseg.weights.reader, jseg.clip.weights, jseg.clip.tokenizer, jseg.clip.class_embeddings\n"
    code += "print([name for name in ('torch', 'jittor') if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def arrays() -> dict[str, np.ndarray]:
    """Arrays of all types and layouts."""
    return {
        **{f"type.{name}": np.arange(6).reshape(2, 3).astype(name) for name in TYPES},
        "scalar": np.array(2.5, np.float32), "empty": np.zeros((0, 4), np.float32),
        "transposed": np.arange(12.0).reshape(3, 4).T, "big-endian": np.arange(3, dtype=">f4"),
        "Ünïcode \n": np.ones(1, np.float32),
    }  # fmt: skip


def check_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].shape == array.shape and found[name].dtype == array.dtype.newbyteorder("<"), name
        assert np.array_equal(found[name], array), name


def test_what_we_write_comes_back_and_the_library_reads_it(tmp_path: Path) -> None:
    path, meta = tmp_path / "a.safetensors", {"classes": ["cat", "dög"], "nested": {"a": [1.5, None, True]}}
    write_safetensors(path, arrays(), meta)
    check_equal(load_file(path), arrays())
    with safe_open(path, framework="np") as library:
        assert json.loads(library.metadata()["jseg"]) == meta
    file = read_weight_file(path)
    check_equal(file.tensors, arrays())
    assert file.meta == meta and file.kind == "safetensors" and all(a.flags.writeable for a in file.tensors.values())
    write_safetensors(path, {"module.w": np.ones(2), "module.v": np.ones(2)}, {})
    assert sorted(read_weight_file(path).tensors) == ["v", "w"]  # a common prefix is dropped


def test_we_read_what_others_write(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    native = {name: np.asarray(array, array.dtype.newbyteorder("<"), order="C") for name, array in arrays().items()}
    save_file(native, path, {"format": "pt"})
    file = read_weight_file(path)
    check_equal(file.tensors, arrays())
    assert file.meta == {"format": "pt"}
    header = {"b": tensor([3], (0, 3), "U8"), "a": tensor([], (3, 7))}  # any order, no alignment
    path.write_bytes(raw(header, b"\1\2\3" + np.float32(1.5).tobytes()))
    check_equal(read_weight_file(path).tensors, {"b": np.array([1, 2, 3], np.uint8), "a": np.array(1.5, np.float32)})
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    tensors = {"w": torch.linspace(-5, 5, 77).to(torch.bfloat16).reshape(7, 11), "s": torch.tensor(-2.5).bfloat16()}
    save_torch(tensors, path)
    check_equal(read_weight_file(path).tensors, {name: t.float().numpy() for name, t in tensors.items()})
