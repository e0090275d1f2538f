"""Tests of files that are written whole or not at all, and of what is refused before it is read."""

import errno
import json
import os
from pathlib import Path

import pytest

import jseg
from jseg.errors import CannotWrite, UserError
from jseg.files import JSON_MARK, check_writable, open_regular, remedy, whole_files, whole_folder, write_json


def test_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.json"
    write_json(path, {"ü": 1})
    assert json.loads(path.read_text(encoding="utf-8")) == {JSON_MARK: jseg.__version__, "ü": 1}
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError), whole_files(path) as (file,):
        file.write(b"half")
        raise ZeroDivisionError
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_of_several_files_all_appear_or_none(tmp_path: Path) -> None:
    """Names of 242 bytes; the disk is full when the second file comes to it."""
    paths = [tmp_path / f"{'語' * 80}.{end}" for end in "ab"]
    with pytest.raises(CannotWrite, match="No space left"), whole_files(*paths) as files:
        files[0].write(b"x" * 100)
        with open("/dev/full", "wb", buffering=0) as full:
            os.dup2(full.fileno(), files[1].fileno())
        files[1].write(b"x" * 100)
    assert list(tmp_path.iterdir()) == []
    with whole_files(*paths) as files:
        for file in files:
            file.write(b"x")
    assert sorted(tmp_path.iterdir()) == paths


def test_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    with pytest.raises(ZeroDivisionError), whole_folder(folder) as new:
        (new / "half").write_text("")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    with whole_folder(folder) as new, whole_folder(folder) as second:  # as two processes at once do
        (new / "file").write_text("")
        (second / "file").write_text("")
    with whole_folder(folder) as new:
        assert new is None
    assert [path.name for path in folder.iterdir()] == ["file"]
    with whole_folder(folder, outdated=True) as new:
        (new / "newer").write_text("")
        assert [path.name for path in folder.iterdir()] == ["file"]  # whole as long as another process may need it
    assert [path.name for path in folder.iterdir()] == ["newer"]
    assert list(tmp_path.iterdir()) == [folder]


def test_what_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotWrite, match=r"cannot write .*: choose a folder"):
        write_json(tmp_path / "file" / "x", {})
    with pytest.raises(UserError, match=r"folder .* cannot be written .*: choose another"):
        check_writable(tmp_path / "file" / "x")
    assert remedy(OSError(errno.ENOSPC, "No space left on device")) == "free some space there"


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"data")
    assert open_regular(tmp_path / "file").read() == b"data"
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
    for path, words in {"pipe": "is a pipe", "": "is a folder", "none": "does not exist"}.items():
        with pytest.raises(UserError, match=words):
            open_regular(tmp_path / path)
