"""Pairs of picture and label PNG named by a split file (PASCAL VOC's layout), checked when the data set is opened."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np

from jseg.config import DataConfig
from jseg.data.class_names import ClassList
from jseg.data.held_out import classes_of
from jseg.data.image_files import file_problem, read_image, read_stored_labels
from jseg.data.label_faults import PREPARE, missing_labels_fault
from jseg.data.label_maps import class_labels
from jseg.data.shapes import ShapesDataset
from jseg.errors import UserError

SPLITS = ("train", "val", "test")
_CHECK_THREADS = 8  # waiting for the disk, not computing
_CHECK_PART = 256  # files per task of a thread
_NAMED_FILES = 5


class Dataset(Protocol):
    """What training and evaluation ask of a data set."""

    class_list: ClassList

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray | None, str]:
        """(H, W, 3) uint8 RGB picture, (H, W) uint8 class numbers (255 = ignored) or None, and the picture's name."""
        ...


def open_dataset(data: DataConfig, split: str) -> Dataset:
    """The data set of a configuration; `split` is train, val or test (the pictures of val, labels not needed).

    Raises:
        UserError: unknown data set, missing or unreadable files, empty split.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r}")
    return ShapesDataset(data, split) if data.dataset == "shapes" else SegmentationDataset(data, split)


def _read_names(path: Path, key: str, remedy: str) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise UserError(f"split file {path} does not exist: correct {key} or data.root{remedy}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"split file {path} cannot be read: {error}") from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise UserError(f"split file {path} names no picture: it needs one name a line, without suffix ({key})")
    return names


def _bad_files(files: list[tuple[Path, bool]]) -> list[tuple[Path, str]]:
    problems = ((path, file_problem(path, labels)) for path, labels in files)
    return [(path, problem) for path, problem in problems if problem]


def _describe(problems: Iterable[tuple[Path, str]], root: Path) -> str:
    """`a.jpg (missing), b.png (truncated) and 7 more` for files below `root`."""
    problems = list(problems)
    shown = [
        f"{path.relative_to(root) if path.is_relative_to(root) else path} ({problem})"
        for path, problem in problems[:_NAMED_FILES]
    ]
    more = f" and {len(problems) - _NAMED_FILES} more" if len(problems) > _NAMED_FILES else ""
    return ", ".join(shown) + more


class SegmentationDataset:
    """Pictures with label PNGs. Every file is looked at (first and last bytes) when the data set is opened."""

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
        remedy = PREPARE.get(self.class_list.dataset, "")
        return f" ({remedy})" if remedy else ""

    def _find_names(self) -> list[str]:
        if self._files.names:
            return _read_names(self.root / self._files.names, f"data.{self.section}.names", self._remedy())
        folder, suffix = self.root / self._files.images, self._files.image_suffix
        names = sorted(path.name[: -len(suffix) or None] for path in folder.iterdir() if path.name.endswith(suffix))
        if not names:
            raise UserError(
                f"folder {folder} holds no *{suffix} file: correct data.{self.section}.images or image_suffix"
            )
        return names

    def image_path(self, index: int) -> Path:
        """Where picture `index` lies."""
        return self.root / self._files.images / f"{self.names[index]}{self._files.image_suffix}"

    def labels_path(self, index: int) -> Path | None:
        """Where the label PNG of picture `index` lies; None when the split has none."""
        if not self._files.labels:
            return None
        return self.root / self._files.labels / f"{self.names[index]}{self._files.label_suffix}"

    def _check_files(self) -> None:
        files = [(self.image_path(index), False) for index in range(len(self))]
        if self._files.labels:
            files += [(self.labels_path(index), True) for index in range(len(self))]
        parts = [files[start : start + _CHECK_PART] for start in range(0, len(files), _CHECK_PART)]
        with ThreadPoolExecutor(_CHECK_THREADS) as threads:
            problems = [item for found in threads.map(_bad_files, parts) for item in found]
        if problems:
            raise UserError(
                f"{self.class_list.title} {self.section}: {len(problems)} of {len(files)} files below {self.root} "
                f"cannot be used: {_describe(problems, self.root)}{self._cause(problems)}"
            )

    def _cause(self, problems: list[tuple[Path, str]]) -> str:
        missing = {path for path, problem in problems if problem == "missing"}
        names = [name for index, name in enumerate(self.names) if self.labels_path(index) in missing]
        cause = missing_labels_fault(self.class_list, self.root, names, self._files.labels)
        return f"; {cause}" if cause else ""

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray | None, str]:
        """(H, W, 3) uint8 RGB picture, (H, W) uint8 class numbers (255 = ignored) or None, and the picture's name.

        Raises:
            UserError: naming the file: unreadable, sizes that differ, label values outside the class list.
        """
        image, path = read_image(self.image_path(index)), self.labels_path(index)
        if path is None:
            return image, None, self.names[index]
        stored = read_stored_labels(path)
        if stored.shape != image.shape[:2]:
            sizes = [f"{shape[1]}x{shape[0]}" for shape in (stored.shape, image.shape)]
            raise UserError(f"{path}: the label map is {sizes[0]} pixels, its picture {sizes[1]}")
        return image, class_labels(stored, self.class_list, str(path)), self.names[index]
