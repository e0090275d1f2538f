"""What the preparation tools share: conversion in parallel, lists, .mat files, the final count and the manifest."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from jseg.data.preparation import (
    Job,
    SplitFiles,
    check_labels,
    convert_all,
    finish,
    read_list,
    read_mat,
    require_folders,
    unfinished,
    write_list,
)
from jseg.errors import UserError
from jseg.files import write_whole
from tests.replicas import save_palette_png


def copy(refused: str, source: Path, target: Path) -> None:
    """Copies a file unless it is the refused one."""
    if source.stem == refused:
        raise UserError(f"{source}: refused")
    write_whole(target, source.read_bytes())


def die(source: Path, target: Path) -> None:
    """Ends its process the hard way."""
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt_at(stop: str, source: Path, target: Path) -> None:
    """Copies until Ctrl-C."""
    if source.stem == stop:
        raise KeyboardInterrupt
    copy("", source, target)


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    """40 label PNGs to copy."""
    found = []
    for number in range(40):
        source = tmp_path / "source" / f"{number:02}.png"
        save_palette_png(source, np.full((4, 5), number % 20))
        found.append((source, tmp_path / "target" / source.name))
    return found


@pytest.mark.parametrize("workers", [0, 2])
def test_all_files_are_converted_and_the_bad_one_is_named(jobs: list[Job], workers: int) -> None:
    problems = convert_all(jobs, partial(copy, "17"), workers, "test")
    assert problems == [f"{jobs[17][0]}: refused"]
    for job in jobs[:17] + jobs[18:]:
        assert job[1].read_bytes() == job[0].read_bytes()
    assert not jobs[17][1].exists()


def test_only_whole_files_are_kept(jobs: list[Job]) -> None:
    assert unfinished(jobs) == jobs
    convert_all(jobs, partial(copy, ""), 0, "test")
    assert unfinished(jobs) == [] and unfinished(jobs, force=True) == jobs
    jobs[3][1].write_bytes(jobs[3][0].read_bytes()[:-20])
    jobs[4][1].write_bytes(b"")
    Image.new("RGB", (5, 4)).save(jobs[5][1])
    jobs[6][1].unlink()
    assert unfinished(jobs) == jobs[3:7]


def test_an_interrupted_run_goes_on_where_it_was(jobs: list[Job]) -> None:
    with pytest.raises(KeyboardInterrupt):
        convert_all(jobs, partial(interrupt_at, "25"), 0, "test")
    left = unfinished(jobs)
    assert left == jobs[25:] and len(list(jobs[0][1].parent.iterdir())) == 25
    stamps = {job[1]: job[1].stat().st_mtime_ns for job in jobs[:25]}
    assert convert_all(left, partial(copy, ""), 0, "test") == [] and unfinished(jobs) == []
    assert stamps == {job[1]: job[1].stat().st_mtime_ns for job in jobs[:25]}


def test_a_worker_that_dies_is_a_user_error(jobs: list[Job]) -> None:
    with pytest.raises(UserError, match=r"ended unexpectedly at .*\.png.*fewer --workers"):
        convert_all(jobs, die, 2, "test")


def test_lists_are_read_as_written(tmp_path: Path) -> None:
    path = tmp_path / "a" / "train.txt"
    write_list(path, ["2008_000002", "2007_000032"])
    assert path.read_text() == "2008_000002\n2007_000032\n"
    assert read_list(path) == ["2008_000002", "2007_000032"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (" \n\n", "names no image"),
        ("a\nb\na\n", "holds a twice"),
        ("/JPEGImages/a.jpg /SegmentationClassAug/a.png\n", "one name a line"),
        ("JPEGImages/a\n", "one name a line"),
    ],
)
def test_bad_lists_are_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "train.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        read_list(path)
    assert str(path) in str(caught.value)


def test_missing_lists_and_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.txt does not exist"):
        read_list(tmp_path / "train.txt")
    (tmp_path / "a").mkdir()
    require_folders(tmp_path, ["a"], "things")
    with pytest.raises(UserError, match="b does not exist: give the folder of things"):
        require_folders(tmp_path, ["a", "b"], "things")


@pytest.fixture
def mat(tmp_path: Path) -> Path:
    path = tmp_path / "a.mat"
    savemat(path, {"LabelMap": np.arange(6, dtype=np.uint16).reshape(2, 3), "other": 1})
    return path


def test_a_variable_is_read(mat: Path) -> None:
    np.testing.assert_array_equal(read_mat(mat, "LabelMap"), [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize("content", [b"", b"no matlab", b"MATLAB 7.3 MAT-file" + b" " * 105 + b"\0\2IM" + b"\x89HDF"])
def test_files_of_another_kind_are_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "b.mat"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{path}: not a .mat file"):
        read_mat(path, "LabelMap")


def test_truncated_and_missing_files_and_variables(mat: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no variable GTcls"):
        read_mat(mat, "GTcls")
    mat.write_bytes(mat.read_bytes()[:150])
    with pytest.raises(UserError, match=str(mat)):
        read_mat(mat, "LabelMap")
    with pytest.raises(UserError, match=f"{tmp_path / 'c.mat'}: missing"):
        read_mat(tmp_path / "c.mat", "LabelMap")


@pytest.mark.parametrize(
    "value", [np.zeros((2, 2, 3)), np.zeros((0, 4)), np.array([["a", "b"]]), [[0.5, 1]], [[-1, 2]], [[3, 21]]]
)
def test_what_is_no_label_map_is_refused(value: object) -> None:
    with pytest.raises(UserError, match=r"x\.mat: "):
        check_labels(value, 20, Path("x.mat"), Path("missing.jpg"))


def test_doubles_with_whole_numbers_are_labels() -> None:
    labels = check_labels(np.array([[0.0, 20.0]]), 20, Path("x.mat"), Path("missing.jpg"))
    assert labels.dtype == np.int32 and labels.tolist() == [[0, 20]]


def test_labels_must_be_of_the_size_of_their_image(tmp_path: Path) -> None:
    Image.new("RGB", (5, 4)).save(tmp_path / "a.jpg")
    check_labels(np.zeros((4, 5)), 20, Path("a.mat"), tmp_path / "a.jpg")
    with pytest.raises(UserError, match=r"a\.mat: 4x5 pixels, its image .* 5x4"):
        check_labels(np.zeros((5, 4)), 20, Path("a.mat"), tmp_path / "a.jpg")


def split(folder: Path, count: int) -> SplitFiles:
    """A split of `count` images of 3 bytes with label maps of 2."""
    names = [f"n{index}" for index in range(count)]
    for name in names:
        (folder / f"{name}.jpg").write_bytes(b"abc")
        (folder / f"{name}.png").write_bytes(b"ab")
    return SplitFiles("val", names, folder, folder)


def test_published_counts_pass_and_others_only_if_meant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert finish(tmp_path, "voc12", [split(tmp_path, 1449)], [], False) == 0
    assert "val: 1,449 names (published: 1,449), 1,449 images, 1,449 label maps" in capsys.readouterr().out
    manifest = json.loads((tmp_path / "manifest_voc12.json").read_text())
    entry = manifest["splits"]["val"]
    assert (entry["names"], entry["images"], entry["label_maps"]) == (1449, 1449, 1449)
    assert (entry["image_bytes"], entry["label_map_bytes"], entry["bytes"]) == (3 * 1449, 2 * 1449, 5 * 1449)
    assert entry["list_sha256"] == hashlib.sha256("".join(f"n{i}\n" for i in range(1449)).encode()).hexdigest()
    assert manifest["problems"] == [] and manifest["tool"] == "tools/prepare_voc12.py"
    assert finish(tmp_path, "voc12", [split(tmp_path, 3)], [], False) == 1
    assert "val has 3 images, the published runs 1,449" in capsys.readouterr().out
    assert finish(tmp_path, "voc12", [split(tmp_path, 3)], [], True) == 0


def test_missing_files_and_problems_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = split(tmp_path, 3)
    files.label_maps()[1].unlink()
    assert finish(tmp_path, "voc12", [files], [], True) == 1
    assert f"1 of 3 label maps missing, first {files.label_maps()[1]}" in capsys.readouterr().out
    problems = [f"x{index}.mat: damaged" for index in range(30)]
    assert finish(tmp_path, "voc12", [split(tmp_path, 3)], problems, True) == 1
    shown = capsys.readouterr().out
    assert "x19.mat" in shown and "x20.mat" not in shown and "and 10 more" in shown
    assert json.loads((tmp_path / "manifest_voc12.json").read_text())["problems"] == problems
