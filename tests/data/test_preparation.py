"""What the preparation tools share: conversion in parallel, .mat files and label values."""

from __future__ import annotations

from argparse import Namespace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from jseg.data.preparation import Job, check_labels, convert_all, read_mat, require_folders
from jseg.errors import UserError
from jseg.files import write_whole


def copy(refused: str, source: Path, target: Path) -> None:
    """Copies a file unless it is the refused one, at which the user interrupts if it is called `stop`."""
    if source.stem == refused:
        raise UserError(f"{source}: refused")
    if refused == "stop" and source.stem == "25":
        raise KeyboardInterrupt
    write_whole(target, source.read_bytes())


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    """40 files to copy."""
    found = [(tmp_path / f"{number:02}.png", tmp_path / "target" / f"{number:02}.png") for number in range(40)]
    for source, _ in found:
        source.write_bytes(source.name.encode())
    return found


def convert(jobs: list[Job], refused: str = "", workers: int = 0, force: bool = False) -> int:
    return convert_all(jobs, partial(copy, refused), Namespace(workers=workers, force=force))


@pytest.mark.parametrize("workers", [0, 2])
def test_all_files_are_converted_and_the_bad_one_is_named(
    jobs: list[Job], workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert(jobs, "17", workers) == 1
    assert f"found: {jobs[17][0]}: refused\n1 could not be made" in capsys.readouterr().out
    for job in jobs[:17] + jobs[18:]:
        assert job[1].read_bytes() == job[0].read_bytes()
    assert not jobs[17][1].exists()


def test_an_interrupted_run_goes_on_where_it_was(jobs: list[Job], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        convert(jobs, "stop")
    stamps = {job[1]: job[1].stat().st_mtime_ns for job in jobs[:25]}
    assert convert(jobs) == 0 and "25 label maps are there, 15 to make" in capsys.readouterr().out
    assert stamps == {job[1]: job[1].stat().st_mtime_ns for job in jobs[:25]}
    assert convert(jobs, force=True) == 0 and "40 to make" in capsys.readouterr().out


def test_missing_folders(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    require_folders(tmp_path, ["a"], "things")
    with pytest.raises(UserError, match="b does not exist: give the folder of things"):
        require_folders(tmp_path, ["a", "b"], "things")


def test_mat_files(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    savemat(path, {"LabelMap": np.arange(6, dtype=np.uint16).reshape(2, 3), "other": 1})
    np.testing.assert_array_equal(read_mat(path, "LabelMap"), [[0, 1, 2], [3, 4, 5]])
    content = path.read_bytes()
    for bad in (b"", b"no matlab", b"MATLAB 7.3 MAT-file" + b" " * 105 + b"\0\2IM" + b"\x89HDF", content[:150]):
        path.write_bytes(bad)
        with pytest.raises(UserError, match=f"{path}: missing, or no .mat file of version 5 that holds LabelMap"):
            read_mat(path, "LabelMap")
    path.write_bytes(content)
    with pytest.raises(UserError, match="that holds GTcls"):
        read_mat(path, "GTcls")


@pytest.mark.parametrize("value", [[[0.5, 1]], [[-1, 2]], [[3, 21]]])
def test_label_values_are_whole_numbers_in_range(value: list) -> None:
    labels = check_labels(np.array([[0.0, 20.0]]), 20, Path("x.mat"))
    assert labels.dtype == np.int32 and labels.tolist() == [[0, 20]]
    with pytest.raises(UserError, match=r"x\.mat: label values .* expected whole numbers 0\.\.20"):
        check_labels(np.array(value), 20, Path("x.mat"))
