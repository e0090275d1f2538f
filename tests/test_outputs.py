"""Tests of what a command may write: never its inputs, never what jseg did not write, never elsewhere."""

import os
from pathlib import Path

import numpy as np
import pytest

from jseg.drawing import write_images
from jseg.errors import UserError
from jseg.files import write_json
from jseg.outputs import TEXT_MARK, check_outputs, is_ours
from jseg.weights.reader import write_safetensors


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder `out` with a file of the user's, one of ours, and links; `tmp_path` holds an input."""
    (tmp_path / "photo.png").write_text("an input")
    out = tmp_path / "out"
    out.mkdir()
    (out / "theirs.png").write_text("a file of the user's")
    write_images({out / "ours.png": np.zeros((2, 2, 3), np.uint8)})
    (out / "hard.png").hardlink_to(tmp_path / "photo.png")
    (out / "soft.png").symlink_to(tmp_path / "photo.png")
    (out / "dangling.png").symlink_to(tmp_path / "nowhere")
    (out / "to_ours.png").symlink_to(out / "ours.png")
    (out / "sub").symlink_to(tmp_path)
    (out / "folder.png").mkdir()
    os.mkfifo(out / "pipe.png")
    (out / "empty.png").touch()
    return out


@pytest.mark.parametrize("name", ["ours.png", "new.png", "deep/new.png", "empty.png"])
def test_what_may_be_written(folder: Path, name: str) -> None:
    check_outputs([folder / name], [folder.parent / "photo.png"], folder)
    link = folder.parent / "link"
    link.symlink_to(folder)
    check_outputs([link / name], [folder.parent / "photo.png"], link)


@pytest.mark.parametrize(("names", "words", "cured"), [
    (["theirs.png"], "was not written by jseg \\(--overwrite", True),
    (["dangling.png"], "was not written by jseg", True), (["to_ours.png"], "was not written by jseg", True),
    (["hard.png"], "itself would be overwritten", False),
    (["soft.png"], "itself would be overwritten", False),
    (["folder.png"], "is no file that could be replaced", False),
    (["pipe.png"], "is no file that could be replaced", False),
    (["new.png", "new.png"], r"new\.png would be written twice", False),
    (["../new.png"], r"lies outside of", False), (["sub/new.png"], r"lies outside of", False),
])  # fmt: skip
def test_what_may_not(folder: Path, names: list[str], words: str, cured: bool) -> None:
    paths, inputs = [folder / name for name in names], [folder.parent / "photo.png", "", None, folder / "gone"]
    with pytest.raises(UserError, match=words):
        check_outputs(paths, inputs, folder)
    if cured:
        check_outputs(paths, inputs, folder, overwrite=True)
    else:
        with pytest.raises(UserError, match=words):
            check_outputs(paths, inputs, folder, overwrite=True)


def test_a_file_that_the_user_names_is_replaced_only_on_purpose(folder: Path) -> None:
    for name in ("ours.png", "theirs.png"):
        with pytest.raises(UserError, match=r"exists \(--overwrite"):
            check_outputs([folder / name])
        check_outputs([folder / name], overwrite=True)


def test_all_kinds_of_files_carry_the_mark(tmp_path: Path) -> None:
    """Not a text that merely speaks of jseg."""
    write_json(tmp_path / "a", {"x": 1})
    write_safetensors(tmp_path / "b", {"x": np.zeros(2)}, {"format": "x"})
    (tmp_path / "c").write_text(TEXT_MARK + "| a |")
    for name in "abc":
        assert is_ours(tmp_path / name), name
    (tmp_path / "d").write_text('{"jseg": {"path": "/home/jseg"}}')
    assert not is_ours(tmp_path / "d")
