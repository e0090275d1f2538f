"""The VOC-layout data set: what it reads, and every bad input it must name in one line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jseg.config import DataConfig
from jseg.data.dataset import SegmentationDataset, open_dataset
from jseg.errors import UserError


def refused(action: Callable[[], object]) -> str:
    """The message of the user error that `action` ends with."""
    with pytest.raises(UserError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def labels_folder(voc: DataConfig) -> Path:
    return Path(voc.root) / "SegmentationClass"


def test_pairs_come_in_the_order_of_the_split_file(voc: DataConfig) -> None:
    dataset = SegmentationDataset(voc, "train")
    assert len(dataset) == 3 and dataset.names == ["a1", "b2", "c3"] and dataset.class_list.dataset == "voc12"
    image, labels, name = dataset.read(1)
    assert image.shape == (36, 48, 3) and image.dtype == labels.dtype == np.uint8 and name == "b2"
    stored = np.array(Image.open(labels_folder(voc) / "b2.png"))
    assert set(np.unique(stored)) == {*range(21), 255}
    np.testing.assert_array_equal(labels, np.where(stored == 0, 255, np.where(stored == 255, 255, stored - 1)))


def test_split_file_may_hold_blank_lines_and_be_left_out(voc: DataConfig) -> None:
    assert SegmentationDataset(voc, "val").names == ["a1"]
    voc.val.names = ""
    assert SegmentationDataset(voc, "val").names == ["a1", "b2", "c3"]


def test_test_split_needs_no_labels(voc: DataConfig) -> None:
    voc.val.labels = ""
    assert SegmentationDataset(voc, "test").read(0)[1] is None
    assert "data.val.labels is not set" in refused(lambda: SegmentationDataset(voc, "val"))


def test_what_is_missing_is_named(voc: DataConfig) -> None:
    root, split = Path(voc.root), Path(voc.root) / "ImageSets" / "train.txt"
    (root / "JPEGImages" / "b2.jpg").unlink()
    (labels_folder(voc) / "c3.png").unlink()
    message = refused(lambda: open_dataset(voc, "train"))
    assert "2 files are missing" in message and "b2.jpg, " in message and "c3.png (tools/prepare_voc12.py" in message
    split.write_text("\n".join(f"z{number:02}" for number in range(30)))
    message = refused(lambda: open_dataset(voc, "train"))
    assert "60 files are missing" in message and "z04.jpg and 55 more" in message and "z05" not in message
    split.write_text(" \n\n")
    assert "names no image" in refused(lambda: open_dataset(voc, "train"))
    split.unlink()
    os.mkfifo(split)  # must not hang
    message = refused(lambda: open_dataset(voc, "train"))
    assert f"split file {split} does not exist: correct data.train.names" in message
    voc.train.images = "Images"
    assert "Images does not exist: correct data.root or data.train.images" in refused(
        lambda: open_dataset(voc, "train")
    )
    voc.val.names, voc.val.image_suffix = "", ".jpeg"
    assert "holds no *.jpeg file" in refused(lambda: open_dataset(voc, "val"))
    voc.root = ""
    assert "data.root is not set" in refused(lambda: open_dataset(voc, "train"))


def test_names_that_leave_the_folder_are_refused(voc: DataConfig) -> None:
    path = Path(voc.root) / "ImageSets" / "train.txt"
    path.write_text("a1\nb2\n", encoding="utf-8-sig")
    assert open_dataset(voc, "train").names == ["a1", "b2"]
    for name in ("/etc/x", "../a1", "sub/../../a1"):
        path.write_text(f"a1\n{name}\n")
        message = refused(lambda: open_dataset(voc, "train"))
        assert f"{name!r} is no name inside the data folder" in message and str(path) in message


def test_real_photos(test_data: Path) -> None:
    data = DataConfig(dataset="voc12", root=str(test_data / "voc_samples"))
    for split in ("train", "val"):
        files = getattr(data, split)
        files.images, files.labels = "JPEGImages", "SegmentationClass"
        files.names = f"ImageSets/Segmentation/{split}.txt"
    found = {}
    for split in ("train", "val"):
        dataset = open_dataset(data, split)
        for index in range(len(dataset)):
            image, labels, name = dataset.read(index)
            assert image.shape[:2] == labels.shape and image.std() > 10
            found[name] = {dataset.class_list.names[value] for value in np.unique(labels[labels != 255])}
    assert found["2011_000003"] == {"bottle", "person"}
    assert found["2011_000025"] == {"bus", "car"}
