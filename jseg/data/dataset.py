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
        self.files = getattr(data, self.section)
        if not data.root:
            raise UserError(f"data.root is not set: give the folder of {data.dataset}, data.root=/path/to/data")
        if not self.files.labels and split != "test":
            raise UserError(f"data.{self.section}.labels is not set: {split} needs a folder of label PNGs")
        self.root = Path(data.root)
        remedy = PREPARATION[data.dataset]
        for key in ("images", "labels"):
            folder = self.root / getattr(self.files, key)
            if not folder.is_dir():
                raise UserError(
                    f"folder {folder} does not exist: correct data.root or data.{self.section}.{key} ({remedy})"
                )
        self.names = self._find_names(f": correct data.{self.section}.names or data.root ({remedy})")
        missing = self.missing_files() if check_files else []
        if missing:
            raise UserError(
                f"{self.class_list.title} {self.section}: {len(missing)} files are missing: {listed(missing, 5)} "
                f"({remedy})"
            )

    def _find_names(self, remedy: str) -> list[str]:
        if self.files.names:
            return read_names(self.root / self.files.names, remedy)
        folder, suffix = self.root / self.files.images, self.files.image_suffix
        names = sorted(path.name.removesuffix(suffix) for path in folder.iterdir() if path.name.endswith(suffix))
        if not names:
            raise UserError(
                f"folder {folder} holds no *{suffix} file: correct data.{self.section}.images or image_suffix"
            )
        return names

    def __len__(self) -> int:
        return len(self.names)

    def image_path(self, index: int) -> Path:
        """Where image `index` lies."""
        return self.root / self.files.images / f"{self.names[index]}{self.files.image_suffix}"

    def labels_path(self, index: int) -> Path | None:
        """Where the label PNG of image `index` lies; None when the split has none."""
        if not self.files.labels:
            return None
        return self.root / self.files.labels / f"{self.names[index]}{self.files.label_suffix}"

    def missing_files(self) -> list[Path]:
        """Images and label PNGs of the split that are not there."""
        paths = [path(index) for path in (self.image_path, self.labels_path) for index in range(len(self))]
        return [path for path in paths if path and not os.path.isfile(path)]

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray | None, str]:
        """(H, W, 3) uint8 RGB image, (H, W) uint8 class numbers (255 = ignored) or None, and the image's name.

        Raises:
            UserError: naming the file: unreadable, sizes that differ, label values outside the class list.
        """
        image, path = read_image(self.image_path(index)), self.labels_path(index)
        if path is None:
            return image, None, self.names[index]
        stored = read_stored_labels(path)
        if stored.shape != image.shape[:2]:
            sizes = [f"{shape[1]}x{shape[0]}" for shape in (stored.shape, image.shape)]
            raise UserError(f"{path}: the label map is {sizes[0]} pixels, its image {sizes[1]}")
        return image, class_labels(stored, self.class_list, str(path)), self.names[index]
