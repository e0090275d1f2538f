"""MATLAB label files: what is read, and every bad file named in one line."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from jseg.data_preparation.mat_files import as_label_array, read_variable, require_scipy
from jseg.errors import UserError


@pytest.fixture
def mat(tmp_path: Path) -> Path:
    path = tmp_path / "a.mat"
    savemat(path, {"LabelMap": np.arange(6, dtype=np.uint16).reshape(2, 3), "other": 1})
    return path


def test_a_variable_is_read(mat: Path) -> None:
    np.testing.assert_array_equal(read_variable(mat, "LabelMap"), [[0, 1, 2], [3, 4, 5]])


def test_a_missing_scipy_names_the_command(mat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "scipy" else find(name))
    for action in (require_scipy, lambda: read_variable(mat, "LabelMap")):
        with pytest.raises(UserError, match=r"pip install -e '\.\[prepare\]'"):
            action()


@pytest.mark.parametrize("content", [b"", b"no matlab", b"MATLAB 7.3 MAT-file" + b" " * 105 + b"\0\2IM" + b"\x89HDF"])
def test_files_of_another_kind_are_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "b.mat"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{path}: not a .mat file"):
        read_variable(path, "LabelMap")


def test_truncated_and_missing_files_and_variables(mat: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no variable GTcls"):
        read_variable(mat, "GTcls")
    mat.write_bytes(mat.read_bytes()[:150])
    with pytest.raises(UserError, match=str(mat)):
        read_variable(mat, "LabelMap")
    with pytest.raises(UserError, match=f"{tmp_path / 'c.mat'}: missing"):
        read_variable(tmp_path / "c.mat", "LabelMap")


@pytest.mark.parametrize(
    "value", [np.zeros((2, 2, 3)), np.zeros((0, 4)), np.array([["a", "b"]]), [[0.5, 1]], [[-1, 2]], [[3, 21]]]
)
def test_what_is_no_label_map_is_refused(value: object) -> None:
    with pytest.raises(UserError, match=r"x\.mat: "):
        as_label_array(value, "x.mat", 20)


def test_doubles_with_whole_numbers_are_labels() -> None:
    labels = as_label_array(np.array([[0.0, 20.0]]), "x.mat", 20)
    assert labels.dtype == np.int32 and labels.tolist() == [[0, 20]]
