"""Pairs of image and label PNG named by a split file (PASCAL VOC's layout), looked for when the data set is opened."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import numpy as np

from jseg.config import DataConfig
from jseg.data.class_names import ClassList, classes_of
from jseg.data.image_files import read_image, read_stored_labels
from jseg.data.label_maps import class_labels, listed
from jseg.data.shapes import ShapesDataset
from jseg.errors import UserError

PREPARATION = {
    "voc12": "tools/prepare_voc12.py makes the masks and lists of trainaug from VOC 2012 and SBD",
    "coco_stuff": "tools/prepare_coco_stuff.py makes *_labelTrainIds.png from the stuffthingmaps",
    "context": "tools/prepare_context.py makes SegmentationClassContext and its lists from the .mat label files",
}


class Dataset(Protocol):
    """What training and evaluation ask of a data set."""

    class_list: ClassList

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray | None, str]:
        """(H, W, 3) uint8 RGB image, (H, W) uint8 class numbers (255 = ignored) or None, and the image's name."""
        ...


def open_dataset(data: DataConfig, split: str) -> Dataset:
    """The data set of a configuration; `split` is train, val or test (the images of val, labels not needed)."""
    return ShapesDataset(data, split) if data.dataset == "shapes" else SegmentationDataset(data, split)


def read_names(path: Path, remedy: str = "") -> list[str]:
    """Names of a split file, one a line; UserError for a missing or empty file and names that leave the data folder."""
    if not path.is_file():
        raise UserError(f"split file {path} does not exist{remedy}")
    text = path.read_text(encoding="utf-8-sig", errors="replace")  # an editor may have put a byte order mark first
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise UserError(f"split file {path} names no image: it needs one name a line, without suffix")
    for name in names:
        if name.startswith("/") or ".." in name.split("/"):
            raise UserError(f"split file {path}: {name!r} is no name inside the data folder: no leading slash, no `..`")
    return names


class SegmentationDataset:
    """Images with label PNGs."""

    def __init__(self, data: DataConfig, split: str, check_files: bool = True) -> None:
        """Opens `split` (train, val, test) of the data set that `data` describes; UserError names missing files.

        `check_files=False` leaves the look for every image and label PNG to the caller.
        """
        self.class_list = classes_of(data)
        self.section = "train" if split == "train" else "val"
        self.root, self.files, remedy = Path(data.root), getattr(data, self.section), PREPARATION[data.dataset]
        if not data.root:
            raise UserError(f"data.root is not set: give the folder of {data.dataset}, data.root=/path/to/data")
        if not self.files.labels and split != "test":
            raise UserError(f"data.{self.section}.labels is not set: {split} needs a folder of label PNGs")
        for key in ("images", "labels"):
            if not (folder := self.root / getattr(self.files, key)).is_dir():
                raise UserError(
                    f"folder {folder} does not exist: correct data.root or data.{self.section}.{key} ({remedy})"
                )
        if self.files.names:
            correct = f": correct data.{self.section}.names or data.root ({remedy})"
            self.names = read_names(self.root / self.files.names, correct)
        else:
            folder, suffix = self.root / self.files.images, self.files.image_suffix
            self.names = sorted(path.name.removesuffix(suffix) for path in folder.glob(f"*{suffix}"))
            if not self.names:
                raise UserError(f"folder {folder} holds no *{suffix}: correct data.{self.section}.images, image_suffix")
        if check_files and (missing := self.missing_files()):
            text = f"{len(missing)} files are missing: {listed(missing, 5)} ({remedy})"
            raise UserError(f"{self.class_list.title} {self.section}: {text}")

    def __len__(self) -> int:
        return len(self.names)

    def image_path(self, index: int) -> Path:
        """Where image `index` lies."""
        return self.root / self.files.images / f"{self.names[index]}{self.files.image_suffix}"

    def labels_path(self, index: int) -> Path | None:
        """Where the label PNG of image `index` lies; None when the split has none."""
        name = f"{self.names[index]}{self.files.label_suffix}"
        return self.root / self.files.labels / name if self.files.labels else None

    def missing_files(self) -> list[Path]:
        """Images and label PNGs of the split that are not there."""
        paths = [path(index) for path in (self.image_path, self.labels_path) for index in range(len(self))]
        return [path for path in paths if path and not os.path.isfile(path)]

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray | None, str]:
        """See `Dataset.read`; UserError names a file that is unreadable, of a wrong size or with unknown values."""
        image, path = read_image(self.image_path(index)), self.labels_path(index)
        if path is None:
            return image, None, self.names[index]
        stored = read_stored_labels(path)
        if stored.shape != image.shape[:2]:
            sizes = [f"{shape[1]}x{shape[0]}" for shape in (stored.shape, image.shape)]
            raise UserError(f"{path}: the label map is {sizes[0]} pixels, its image {sizes[1]}")
        return image, class_labels(stored, self.class_list, str(path)), self.names[index]
