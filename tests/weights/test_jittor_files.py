"""Jittor's pickles: files of `jt.save` come back equal; damaged and malicious ones are refused."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jseg.errors import UserError
from jseg.weights.reader import read_weight_file


@pytest.fixture(scope="module")
def jt() -> Any:
    import jittor

    return jittor


def values() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        "backbone.conv1.weight": generator.standard_normal((4, 3, 2, 2)).astype(np.float32),
        "half": generator.standard_normal((3, 5)).astype(np.float16),
        "ids": np.arange(-4, 4, dtype=np.int32),
        "flags": np.array([True, False, True]),
        "bytes": np.arange(7, dtype=np.uint8),
    }


def seal(content: bytes) -> bytes:
    """Adds what `jt.save` adds to a pickle."""
    return content + hashlib.sha1(content).digest() + b"HCAJSLHD"


def refused(path: Path, match: str) -> None:
    with pytest.raises(UserError, match=match) as error:
        read_weight_file(path)
    assert str(error.value).isprintable() and path.name in str(error.value)


@pytest.mark.parametrize("wrap", ["bare", "model", "state_dict"])
def test_saved_variables_come_back(jt: Any, tmp_path: Path, wrap: str) -> None:
    variables = {name: jt.array(array) for name, array in values().items()}
    content: dict = variables if wrap == "bare" else {"meta": {"iter": 5, "CLASSES": ["a"]}, wrap: variables}
    content = content if wrap == "bare" else {**content, "optimizer": {"m": [jt.ones(2)]}, "scheduler": {"epoch": 1}}
    jt.save(content, str(tmp_path / "weights.pkl"))
    file = read_weight_file(tmp_path / "weights.pkl")
    assert file.kind == "Jittor pickle" and file.tensors.keys() == variables.keys()
    for name, array in values().items():
        assert file.tensors[name].dtype == array.dtype and np.array_equal(file.tensors[name], array), name
    if wrap != "bare":
        assert file.meta["iter"] == 5 and file.meta["CLASSES"] == ["a"]


def test_numpy_arrays_and_bfloat16(jt: Any, tmp_path: Path) -> None:
    fortran = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    numbers = np.linspace(-3, 3, 9, dtype=np.float32)
    jt.save({"array": fortran, "brain": jt.array(numbers).bfloat16(), "count": np.uint16([7])},
            str(tmp_path / "weights.pkl"))  # fmt: skip
    tensors = read_weight_file(tmp_path / "weights.pkl").tensors
    assert np.array_equal(tensors["array"], fortran) and tensors["array"].flags.c_contiguous
    assert tensors["brain"].dtype == np.float32  # Jittor pickles the bits of a bfloat16 Var
    np.testing.assert_allclose(tensors["brain"], numbers, rtol=2**-8)
    assert tensors["count"].dtype == np.uint16 and tensors["count"] == 7  # a plain array keeps its type


def test_module_parameters_come_back(jt: Any, tmp_path: Path) -> None:
    module = jt.nn.Sequential(jt.nn.Linear(3, 4), jt.nn.LayerNorm(4))
    module.save(str(tmp_path / "weights.pkl"))
    tensors = read_weight_file(tmp_path / "weights.pkl").tensors
    expected = {name: variable.numpy() for name, variable in module.state_dict().items()}
    assert tensors.keys() == expected.keys()
    assert all(np.array_equal(tensors[name], expected[name]) for name in expected)


def test_damage_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "weights.pkl"
    content = seal(pickle.dumps({"a": np.arange(50.0)}, 4))
    path.write_bytes(content)
    assert np.array_equal(read_weight_file(path).tensors["a"], np.arange(50.0))
    place = content.index(np.float64(7).tobytes())
    path.write_bytes(content[:place] + b"\1" + content[place + 1 :])
    refused(path, "SHA-1")
    for length in range(16, len(content), 23):
        path.write_bytes(content[:length])
        refused(path, "truncated|ends before")
    path.write_bytes(b"\x80\x04" + b"x" * 10 + b"HCAJSLHD")
    refused(path, "SHA-1")


def test_files_without_trailer_are_read(tmp_path: Path) -> None:
    """Older versions of Jittor wrote the pickle alone."""
    (tmp_path / "weights.pkl").write_bytes(pickle.dumps({"a": np.ones(3, np.float32)}, 4))
    assert np.array_equal(read_weight_file(tmp_path / "weights.pkl").tensors["a"], np.ones(3))


class Calls:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize(
    ("call", "name"),
    [((os.system, "touch {trap}"), f"{os.name}.system"), ((eval, "open('{trap}', 'w')"), "builtins.eval"),
     ((np.fromfile, "{trap}"), "numpy.*fromfile"), ((np.load, "{trap}"), "numpy.load")],
)  # fmt: skip
def test_malicious_files_are_refused_by_name(tmp_path: Path, call: tuple, name: str) -> None:
    trap = tmp_path / "trap"
    evil = Calls(call[0], *(argument.format(trap=trap) for argument in call[1:]))
    (tmp_path / "evil.pkl").write_bytes(seal(pickle.dumps({"model": {"a": np.ones(3)}, "meta": evil}, 4)))
    refused(tmp_path / "evil.pkl", f"asks for {name}")
    assert not trap.exists()


def test_torch_names_have_no_place_in_a_jittor_file(tmp_path: Path) -> None:
    (tmp_path / "evil.pkl").write_bytes(seal(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n."))
    refused(tmp_path / "evil.pkl", "torch._utils._rebuild_tensor_v2")


@pytest.mark.parametrize(
    "array",
    [
        np.array(["text"]),
        np.array([None, 1]),
        np.zeros(2, [("a", "f4")]),
        np.array([1 + 2j]),
        np.arange(3.0).astype(">f4"),
    ],
    ids=["text", "objects", "record", "complex", "big-endian"],
)
def test_arrays_of_other_things_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    (tmp_path / "weights.pkl").write_bytes(seal(pickle.dumps({"a": array}, 4)))
    refused(tmp_path / "weights.pkl", "NumPy|big-endian")


def test_shape_and_bytes_must_agree(tmp_path: Path) -> None:
    content = pickle.dumps({"a": np.arange(5.0)}, 4).replace(b"K\x05\x85", b"K\x06\x85")
    (tmp_path / "weights.pkl").write_bytes(seal(content))
    refused(tmp_path / "weights.pkl", "40 bytes for 6 elements")
