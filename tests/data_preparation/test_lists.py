"""List files and picture sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from jseg.data_preparation.lists import check_size, read_list, require_folders, write_list
from jseg.errors import UserError


def test_lists_are_read_as_written(tmp_path: Path) -> None:
    path = tmp_path / "a" / "train.txt"
    write_list(path, ["2008_000002", "2007_000032"])
    assert path.read_text() == "2008_000002\n2007_000032\n"
    assert read_list(path) == ["2008_000002", "2007_000032"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (" \n\n", "is empty"),
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


def test_sizes(tmp_path: Path) -> None:
    Image.new("RGB", (5, 4)).save(tmp_path / "a.jpg")
    check_size(tmp_path / "a.jpg", (4, 5), Path("a.mat"))
    check_size(tmp_path / "missing.jpg", (4, 5), Path("a.mat"))
    with pytest.raises(UserError, match=r"a\.mat: labels of 4x5 pixels, picture .* of 5x4"):
        check_size(tmp_path / "a.jpg", (5, 4), Path("a.mat"))
