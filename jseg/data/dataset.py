"""Pairs of image and label PNG named by a split file (PASCAL VOC's layout), checked when the data set is opened."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np

from jseg.config import DataConfig
from jseg.data.class_names import ClassList
from jseg.data.held_out import classes_of
from jseg.data.image_files import file_problem, read_image, read_stored_labels
from jseg.data.label_maps import class_labels
from jseg.data.shapes import ShapesDataset
from jseg.errors import UserError

SPLITS = ("train", "val", "test")
PREPARATION = {
    "voc12": "tools/prepare_voc12.py makes the masks and lists of trainaug from VOC 2012 and SBD",
    "coco_stuff": "tools/prepare_coco_stuff.py makes *_labelTrainIds.png from the stuffthingmaps",
    "context": "tools/prepare_context.py makes SegmentationClassContext and its lists from the .mat label files",
}
_CHECK_THREADS = 8  # waiting for the disk, not computing
_CHECK_PART = 256  # files per task of a thread
_SHOWN_FILES = 5


class Dataset(Protocol):
    """What training and evaluation ask of a data set."""

    class_list: ClassList

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """The name of image `index`, for outputs and error messages."""
        ...

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray | None, str]:
        """(H, W, 3) uint8 RGB image, (H, W) uint8 class numbers (255 = ignored) or None, and the image's name."""
        ...


def open_dataset(data: DataConfig, split: str) -> Dataset:
    """The data set of a configuration; `split` is train, val or test (the images of val, labels not needed).

    Raises:
        UserError: unknown data set, missing or unreadable files, empty split.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r}")
    return ShapesDataset(data, split) if data.dataset == "shapes" else SegmentationDataset(data, split)


def read_names(path: Path, key: str = "", remedy: str = "") -> list[str]:
    """Names of a split file, one a line; none of them leaves the folder that it is relative to.

    Args:
        key: configuration key that an error message names.
        remedy: what else to do when the file does not exist.

    Raises:
        UserError: missing or empty file, not UTF-8 text, a line that is no name.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"split file {path} is not a regular file")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()  # an editor may have put a byte order mark first
    except FileNotFoundError as error:
        cure = f": correct {key} or data.root" if key else ""
        raise UserError(f"split file {path} does not exist{cure}{remedy}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"split file {path} is not UTF-8 text: save it as UTF-8, one name a line") from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise UserError(f"split file {path} names no image: it needs one name a line, without suffix")
    for name in names:
        if name.startswith("/") or ".." in name.split("/") or not name.isprintable():
            raise UserError(
                f"split file {path}: {name!r} is no name inside the data folder: one name a line, without leading "
                "slash, `..` or control characters"
            )
    return names


def _bad_files(files: Sequence[tuple[Path, bool]]) -> list[tuple[Path, str]]:
    problems = ((path, file_problem(path, labels)) for path, labels in files)
    return [(path, problem) for path, problem in problems if problem]


class SegmentationDataset:
    """Images with label PNGs. Every file is looked at (first and last bytes) when the data set is opened."""

    def __init__(self, data: DataConfig, split: str, check_files: bool = True) -> None:
        """Opens `split` (train, val, test) of the data set that `data` describes.

        `check_files=False` leaves the look at every file to the caller.

        Raises:
            UserError: no data.root, missing folder or split file, empty split, missing or unreadable files (the first
                ones are named), unknown class list.
        """
        self.class_list = classes_of(data)
        self.section = "train" if split == "train" else "val"
        self._files = data.train if split == "train" else data.val
        if not data.root:
            raise UserError(f"data.root is not set: give the folder of {data.dataset}, data.root=/path/to/data")
        self.root = Path(data.root)
        if not self._files.labels and split != "test":
            raise UserError(f"data.{self.section}.labels is not set: {split} needs a folder of label PNGs")
        for key in ("images", "labels"):
            folder = self.root / getattr(self._files, key)
            if (key == "images" or self._files.labels) and not folder.is_dir():
                raise UserError(
                    f"folder {folder} does not exist: correct data.root or data.{self.section}.{key}{self._remedy()}"
                )
        self.names = self._find_names()
        if check_files:
            self._check_files()

    def __len__(self) -> int:
        return len(self.names)

    def _remedy(self) -> str:
        remedy = PREPARATION.get(self.class_list.dataset, "")
        return f" ({remedy})" if remedy else ""

    def _find_names(self) -> list[str]:
        folder, suffix, key = self.root / self._files.images, self._files.image_suffix, f"data.{self.section}"
        if not self._files.names:
            names = sorted(path.name[: -len(suffix) or None] for path in folder.iterdir() if path.name.endswith(suffix))
            if not names:
                raise UserError(f"folder {folder} holds no *{suffix} file: correct {key}.images or image_suffix")
            return names
        path = self.root / self._files.names
        names = read_names(path, f"{key}.names", self._remedy())
        for name in names:
            if suffix and name.endswith(suffix) and (folder / name).is_file():
                raise UserError(f"split file {path}: {name!r} is a name with its suffix: leave {suffix!r} out")
        return names

    def name(self, index: int) -> str:
        """The name of image `index`: that of its file, without suffix."""
        return self.names[index]

    def image_path(self, index: int) -> Path:
        """Where image `index` lies."""
        return self.root / self._files.images / f"{self.names[index]}{self._files.image_suffix}"

    def labels_path(self, index: int) -> Path | None:
        """Where the label PNG of image `index` lies; None when the split has none."""
        if not self._files.labels:
            return None
        return self.root / self._files.labels / f"{self.names[index]}{self._files.label_suffix}"

    def bad_files(self) -> list[tuple[Path, str]]:
        """Files of the split that their first and last bytes show to be unusable, and why: missing, truncated, ..."""
        files = [(self.image_path(index), False) for index in range(len(self))]
        if self._files.labels:
            files += [(self.labels_path(index), True) for index in range(len(self))]
        parts = [files[start : start + _CHECK_PART] for start in range(0, len(files), _CHECK_PART)]
        with ThreadPoolExecutor(_CHECK_THREADS) as threads:
            return [item for found in threads.map(_bad_files, parts) for item in found]

    def _check_files(self) -> None:
        problems = self.bad_files()
        if not problems:
            return
        shown = ", ".join(
            f"{path.relative_to(self.root) if path.is_relative_to(self.root) else path} ({problem})"
            for path, problem in problems[:_SHOWN_FILES]
        )
        remedy = self._remedy() if any(problem == "missing" for _, problem in problems) else ""
        more = f" and {len(problems) - _SHOWN_FILES} more" if len(problems) > _SHOWN_FILES else ""
        raise UserError(
            f"{self.class_list.title} {self.section}: {len(problems)} of {len(self) * (2 if self._files.labels else 1)}"
            f" files below {self.root} cannot be used: {shown}{more}{remedy}"
        )

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
