"""What the preparation tools share: conversion in parallel, .mat files, label maps and the final count."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from jseg.data.preparation import Pair, check_labels, convert_all, finish, read_mat, require_folders
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
def jobs(tmp_path: Path) -> list[Pair]:
    """40 files to copy."""
    found = [(tmp_path / f"{number:02}.png", tmp_path / "target" / f"{number:02}.png") for number in range(40)]
    for source, _ in found:
        source.write_bytes(source.name.encode())
    return found


@pytest.mark.parametrize("workers", [0, 2])
def test_all_files_are_converted_and_the_bad_one_is_named(jobs: list[Pair], workers: int) -> None:
    assert convert_all(jobs, partial(copy, "17"), workers, "test", False, "") == [f"{jobs[17][0]}: refused"]
    for job in jobs[:17] + jobs[18:]:
        assert job[1].read_bytes() == job[0].read_bytes()
    assert not jobs[17][1].exists()


def test_an_interrupted_run_goes_on_where_it_was(jobs: list[Pair], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        convert_all(jobs, partial(copy, "stop"), 0, "test", False, "")
    stamps = {job[1]: job[1].stat().st_mtime_ns for job in jobs[:25]}
    assert convert_all(jobs, partial(copy, ""), 0, "test", False, "") == []
    assert "test: 25 label maps are there, 15 to make" in capsys.readouterr().out
    assert stamps == {job[1]: job[1].stat().st_mtime_ns for job in jobs[:25]}
    convert_all(jobs, partial(copy, ""), 0, "test", True, "")
    assert "40 to make" in capsys.readouterr().out


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
def test_what_is_no_label_map_is_refused(value: list) -> None:
    with pytest.raises(UserError, match=r"x\.mat: label values .* expected whole numbers 0\.\.20"):
        check_labels(np.array(value), 20, Path("x.mat"), Path("missing.jpg"))


def test_labels_are_whole_numbers_of_the_size_of_their_image(tmp_path: Path) -> None:
    Image.new("RGB", (2, 1)).save(tmp_path / "a.jpg")
    labels = check_labels(np.array([[0.0, 20.0]]), 20, Path("a.mat"), tmp_path / "a.jpg")
    assert labels.dtype == np.int32 and labels.tolist() == [[0, 20]]
    with pytest.raises(UserError, match=r"a\.mat: 4x5 pixels, its image 2x1"):
        check_labels(np.zeros((5, 4)), 20, Path("a.mat"), tmp_path / "a.jpg")


def test_counts_and_missing_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.jpg").touch()
    whole = [(tmp_path / "a.jpg", tmp_path / "a.jpg")]
    published = {"train": whole * 10_582, "val": whole * 1_449}
    assert finish("voc12", published, [], False) == 0
    assert "val: 1,449 images (published: 1,449)\nall there" in capsys.readouterr().out
    assert finish("voc12", {**published, "val": whole}, [], True) == 0
    assert finish("voc12", {**published, "val": whole}, [], False) == 1
    assert "val has 1 images, the published runs 1,449" in capsys.readouterr().out
    missing = {"train": whole, "val": [(tmp_path / "a.jpg", tmp_path / "b.png"), *whole]}
    assert finish("voc12", missing, [f"x{index}.mat: damaged" for index in range(19)], True) == 1
    shown = capsys.readouterr().out
    assert f"1 of 2 label maps missing, first {tmp_path / 'b.png'}" in shown and "x18.mat" in shown
