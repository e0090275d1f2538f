"""Final counts and the manifest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from jseg.data_preparation.manifest import SplitFiles, finish, list_hash


def split(folder: Path, count: int) -> SplitFiles:
    """A split of `count` pictures of 3 bytes with label maps of 2."""
    names = [f"n{index}" for index in range(count)]
    for name in names:
        (folder / f"{name}.jpg").write_bytes(b"abc")
        (folder / f"{name}.png").write_bytes(b"ab")
    return SplitFiles(
        "val", names, [folder / f"{name}.jpg" for name in names], [folder / f"{name}.png" for name in names]
    )


def test_the_list_hash_is_that_of_the_file() -> None:
    assert list_hash(["a", "b"]) == hashlib.sha256(b"a\nb\n").hexdigest() != list_hash(["b", "a"])


def test_published_counts_pass_and_others_only_if_meant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert finish(tmp_path, "voc12", [split(tmp_path, 1449)], [], False, "tool") == 0
    assert "val: 1,449 names (published: 1,449), 1,449 pictures, 1,449 label maps" in capsys.readouterr().out
    manifest = json.loads((tmp_path / "manifest_voc12.json").read_text())
    entry = manifest["splits"]["val"]
    assert (entry["names"], entry["pictures"], entry["label_maps"]) == (1449, 1449, 1449)
    assert (entry["picture_bytes"], entry["label_map_bytes"], entry["bytes"]) == (3 * 1449, 2 * 1449, 5 * 1449)
    assert manifest["problems"] == [] and manifest["tool"] == "tool"
    assert finish(tmp_path, "voc12", [split(tmp_path, 3)], [], False, "tool") == 1
    assert "val has 3 pictures, the published runs have 1,449" in capsys.readouterr().out
    assert finish(tmp_path, "voc12", [split(tmp_path, 3)], [], True, "tool") == 0


def test_missing_files_and_problems_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = split(tmp_path, 3)
    files.labels[1].unlink()
    assert finish(tmp_path, "voc12", [files], [], True, "tool") == 1
    assert f"1 of 3 label maps missing, first {files.labels[1]}" in capsys.readouterr().out
    problems = [f"x{index}.mat: damaged" for index in range(30)]
    assert finish(tmp_path, "voc12", [split(tmp_path, 3)], problems, True, "tool") == 1
    shown = capsys.readouterr().out
    assert "x19.mat" in shown and "x20.mat" not in shown and "and 10 more" in shown
    assert json.loads((tmp_path / "manifest_voc12.json").read_text())["problems"] == problems
