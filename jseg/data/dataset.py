"""Data sets on disk, pairs of image and label PNG in PASCAL VOC's layout: opened, read, and checked for faults."""

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from jseg.config import DataConfig, SplitConfig
from jseg.data.class_names import IGNORED, ClassList, class_labels, classes_of, stored_lookup, twice
from jseg.data.image_files import read_image, read_stored_labels
from jseg.data.shapes import ShapesDataset
from jseg.data.workers import map_in_order
from jseg.errors import UserError, listed

PREPARATION = {  # what to do where files of a data set are missing or hold wrong values
    "voc12": "masks of train.txt and val.txt are in SegmentationClass, those of aug.txt in SegmentationClassAug, which "
    "tools/prepare_voc12.py makes from SBD",
    "coco_stuff": "tools/prepare_coco_stuff.py makes *_labelTrainIds.png from the stuffthingmaps",
    "context": "tools/prepare_context.py makes SegmentationClassContext and its lists from the .mat label files",
    "ade20k": "label PNGs are those of ADEChallengeData2016.zip as they are, 0 = no class, without reduce_zero_label",
}
OWN_DATA = "tools/new_config.py FOLDER shows what is there"


def read_names(path: Path, remedy: str = "") -> list[str]:
    """Names of a split file, one a line; UserError for a missing or empty file, and names that no file can have."""
    if not path.is_file():
        raise UserError(f"split file {path} does not exist{remedy}")
    text = path.read_text(encoding="utf-8-sig", errors="replace")  # an editor may have put a byte order mark first
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise UserError(f"split file {path} names no image: it needs one name a line, without suffix")
    for name in names:
        if name.startswith("/") or ".." in name.split("/") or any(sign < " " or sign == "\ufffd" for sign in name):
            cure = "it must be UTF-8 text (not UTF-16), with no leading slash, no `..` and no control characters"
            raise UserError(f"split file {path}: {name!r} is no name inside the data folder: {cure}")
    return names


def parts_of(files: SplitConfig) -> list[SplitConfig]:
    """One for each item of the lists in `files`, where a text stands for every item; UserError for other lengths."""
    lists = [(x,) if isinstance(x, str) else x for x in (files.images, files.labels, files.names)]
    count = max(map(len, lists))
    if any(len(items) not in (1, count) for items in lists):
        raise UserError(f"lists of images, labels and names have different lengths: {lists}")
    rows = zip(*(items * (count // len(items)) for items in lists), strict=True)
    return [SplitConfig(*row, files.image_suffix, files.label_suffix) for row in rows]


def suffixes_of(files: SplitConfig) -> tuple[str, ...]:
    """What file names of images may end in."""
    return (files.image_suffix,) if isinstance(files.image_suffix, str) else files.image_suffix or ("",)


def images_in(root: Path, part: SplitConfig) -> list[str]:
    """Names of the images in a folder and those below it, sorted; hidden files and label maps among them do not count.

    An image that is there with two suffixes has its name twice.
    """
    images, labels = (os.path.join(os.path.abspath(root / name), "") for name in (part.images, part.labels))
    beside, names = bool(part.labels) and labels.startswith(images), []
    for folder, _, files in os.walk(images):
        mixed = beside and os.path.join(folder, "").startswith(labels)
        found = [name for name in files if not (name.startswith(".") or (mixed and name.endswith(part.label_suffix)))]
        below = folder.removeprefix(images).removeprefix("/")
        paths = [os.path.join(below, name) for name in found]
        names += [path.removesuffix(end) for path in paths for end in suffixes_of(part) if path.endswith(end)]
    return sorted(names)


class SegmentationDataset:
    """The pairs of `split` (train, val, test); opening it names missing files, unless `check_files` is False."""

    def __init__(self, data: DataConfig, split: str, check_files: bool = True) -> None:
        self.class_list = classes_of(data)
        self.section = "train" if split == "train" else "val"
        self.root, self.files = Path(data.root), getattr(data, self.section)
        files, remedy = self.files, PREPARATION.get(data.dataset, OWN_DATA)
        if not data.root:
            raise UserError(f"data.root is not set: give the folder of {data.dataset}, data.root=/path/to/data")
        if not files.labels and split != "test":
            raise UserError(f"data.{self.section}.labels is not set: {split} needs a folder of label PNGs")
        self.names: list[str] = []
        self._parts: list[SplitConfig] = []  # of each name
        for part in parts_of(files):
            names = self._names_of(part, remedy)
            self.names += names
            self._parts += [part] * len(names)
        if check_files and (missing := self.missing_files()):
            suffix = next((end for end in suffixes_of(files) if end and self.names[0].endswith(end)), "")
            remedy = f"names in {files.names} must have no suffix {suffix}" if suffix else remedy
            text = f"{len(missing)} files are missing: {listed(missing, 5)} ({remedy})"
            raise UserError(f"{self.class_list.title} {self.section}: {text}")

    def _names_of(self, part: SplitConfig, remedy: str) -> list[str]:
        """Names of a part of the split; UserError when its folders or names are missing."""
        for key in ("images", "labels"):
            if not (folder := self.root / getattr(part, key)).is_dir():
                raise UserError(
                    f"folder {folder} does not exist: correct data.root or data.{self.section}.{key} ({remedy})"
                )
        if part.names:
            correct = f": correct data.{self.section}.names or data.root ({remedy})"
            return read_names(self.root / part.names, correct)
        folder, suffixes, names = self.root / part.images, suffixes_of(part), images_in(self.root, part)
        if not names:
            ends = " or ".join(suffixes)
            raise UserError(f"folder {folder} holds no *{ends}: correct data.{self.section}.images, image_suffix")
        if double := twice(names):
            raise UserError(f"folder {folder} holds {listed(double)} with several of {', '.join(suffixes)}: remove one")
        return names

    def __len__(self) -> int:
        return len(self.names)

    def image_path(self, index: int) -> Path:
        """Where image `index` lies."""
        part = self._parts[index]
        paths = [self.root / part.images / f"{self.names[index]}{suffix}" for suffix in suffixes_of(part)]
        return next(filter(os.path.isfile, paths[:-1]), paths[-1])

    def labels_path(self, index: int) -> Path | None:
        """Where the label PNG of image `index` lies; None when the split has none."""
        part = self._parts[index]
        return self.root / part.labels / f"{self.names[index]}{part.label_suffix}" if part.labels else None

    def missing_files(self) -> list[Path]:
        """Images and label PNGs of the split that are not there."""
        paths = [path(index) for path in (self.image_path, self.labels_path) for index in range(len(self))]
        return [path for path in paths if path and not os.path.isfile(path)]

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray | None, str]:
        """(H, W, 3) uint8 RGB image, (H, W) uint8 class numbers (255 = ignored) or None, and the image's name."""
        image, path = read_image(self.image_path(index)), self.labels_path(index)
        if path is None:
            return image, None, self.names[index]
        stored = read_stored_labels(path)
        if stored.shape != image.shape[:2]:
            sizes = [f"{shape[1]}x{shape[0]}" for shape in (stored.shape, image.shape)]
            raise UserError(f"{path}: the label map is {sizes[0]} pixels, its image {sizes[1]}")
        return image, class_labels(stored, self.class_list, str(path)), self.names[index]


Dataset = ShapesDataset | SegmentationDataset  # training and evaluation ask for class_list, len() and read() only


def open_dataset(data: DataConfig, split: str) -> Dataset:
    """The data set of a configuration; `split` is train, val or test (the images of val, labels not needed)."""
    return ShapesDataset(data, split) if data.dataset in ("shapes", "shapes_open") else SegmentationDataset(data, split)


@dataclass
class SplitReport:
    """What was found in the pairs of a split that were read."""

    dataset: SegmentationDataset
    read: int
    problems: list[str] = field(default_factory=list)  # sentences about the split as a whole or about one file
    maps: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))  # label maps that hold each stored value
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))  # pixels of each stored value


def value_fault(maps: np.ndarray, total: int, class_list: ClassList) -> str:
    """What is wrong with the values of `total` label maps, `maps` (256,) of which hold each value; "" = nothing."""
    outside = np.flatnonzero((stored_lookup(class_list) < 0) & (maps > 0)).tolist()
    first, last = class_list.stored[0], max({*class_list.stored, *class_list.stored_ignored} - {IGNORED}, default=0)
    if outside:
        text = f"label values {listed(outside)} are not in the class list of {class_list.title}"
        own = class_list.dataset not in PREPARATION
        if outside == [last + 1] and not (maps[first] if own else maps[0] and maps[IGNORED]):
            return f"{text}: labels are shifted by one, class 0 is stored as {first + 1}, one too high"
        cure = "add them to data.stored, with a name each in data.names, or to data.ignored"
        return f"{text}; {cure if own else PREPARATION[class_list.dataset]}"
    # labels one too low: background 0 has become 255, and no label map holds the last class
    published = class_list.dataset in PREPARATION and total >= 5
    if published and 0 in class_list.stored_ignored and maps[0] < total / 2 <= maps[IGNORED] and not maps[last]:
        return (
            f"labels are shifted by one: 0 (background) is in {maps[0]} and 255 in {maps[IGNORED]} of {total} label "
            f"maps, {last} in none, so {class_list.names[0]} is stored as 0 instead of {first}"
        )
    return ""


def read_pairs(dataset: SegmentationDataset, indices: Sequence[int], progress: bool = False) -> SplitReport:
    """Reads pairs as a whole, with four threads (decoding needs no GIL)."""

    def examine(index: int) -> tuple[str, np.ndarray]:
        problem, pixels, path = "", np.zeros(256, np.int64), dataset.labels_path(index)
        try:
            if path:
                stored = read_stored_labels(path)
                pixels = np.bincount(stored.ravel(), minlength=256)
                own = dataset.root / "SegmentationClass" / path.name
                voc = dataset.class_list.dataset == "voc12" and own != path and own.is_file()
                if voc and not np.array_equal(stored, read_stored_labels(own)):
                    problem = f"{path}: not VOC's own mask, {own}: tools/prepare_voc12.py --overwrite replaces it"
            dataset.read(index)
        except UserError as error:
            problem = str(error)
        return problem, pixels

    report = SplitReport(dataset, len(indices))
    found = map_in_order(examine, ((index,) for index in indices), 4, threads=True)
    for problem, pixels in tqdm(found, dataset.section, len(indices), unit="pair", disable=not progress):
        report.pixels += pixels
        report.maps += pixels > 0
        report.problems += [problem] if problem else []
    fault = value_fault(report.maps, len(indices), dataset.class_list)
    report.problems[:0] = [fault] if fault else []
    return report


def check_split(dataset: SegmentationDataset, fraction: float = 1.0, progress: bool = False) -> SplitReport:
    """Looks for every file of a split opened with `check_files=False` and reads a random `fraction` of the pairs."""
    missing = set(dataset.missing_files())
    whole = [i for i in range(len(dataset)) if not {dataset.image_path(i), dataset.labels_path(i)} & missing]
    count = min(len(whole), max(1, round(fraction * len(dataset))))
    report = read_pairs(dataset, sorted(random.Random(0).sample(whole, count)), progress)
    if missing:
        remedy = PREPARATION.get(dataset.class_list.dataset, OWN_DATA)
        report.problems.append(f"{len(missing)} files are missing; {remedy}")
        report.problems += [f"{path}: missing" for path in sorted(missing)]
    return report


def quick_check(dataset: Dataset) -> None:
    """Reads 50 random pairs before a run; drawn data sets are not looked at. UserError says what is wrong."""
    if not isinstance(dataset, SegmentationDataset):
        return
    indices = sorted(random.Random(1).sample(range(len(dataset)), min(50, len(dataset))))
    if problems := read_pairs(dataset, indices).problems:
        pairs = f"{dataset.class_list.title} {dataset.section}, {len(indices)} random pairs"
        raise UserError(f"{pairs}: {listed(problems, 4)}. tools/check_dataset.py looks at all of them")
