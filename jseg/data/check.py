"""Faults of a data set on disk: missing or RGB-encoded files, wrong sizes, wrong values, labels shifted by one.

`check_split` looks at a whole split or a part of it, `quick_check` at 50 random pairs before a run.

Labels one too high hold the value after the last class. Labels one too low lie within the class list: where 0 is
background nearly every label map holds it, so a split is called shifted when fewer than half of at least 5 label maps
hold 0, at least half hold 255, and none holds the last class.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from jseg.data.class_names import IGNORED, ClassList, count_note
from jseg.data.dataset import PREPARATION, Dataset, SegmentationDataset
from jseg.data.image_files import read_image, read_stored_labels
from jseg.data.label_maps import stored_lookup
from jseg.data.workers import map_in_order
from jseg.errors import UserError

QUICK_PAIRS = 50
_THREADS = 4  # decoding needs no GIL
_SHOWN_FILES = 3  # in the one line of a quick check
_SHOWN_VALUES = 8
_OUTSIDE = "values outside the class list"
_SHIFT_MAPS = 5  # label maps from which missing background says something


@dataclass
class SplitReport:
    """What `check_split` found."""

    dataset: SegmentationDataset
    read: int  # pairs that were read as a whole
    faults: dict[str, list[str]] = field(default_factory=dict)  # what is wrong -> files that show it, with details
    maps: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))  # label maps that hold each stored value
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))  # pixels of each stored value


def examine(dataset: SegmentationDataset, index: int) -> tuple[str, str, np.ndarray]:
    """Reads pair `index`: its fault ("" = none), the file with details, and (256,) pixels of each stored value."""
    pixels, path = np.zeros(256, np.int64), dataset.labels_path(index)
    try:
        height, width = read_image(dataset.image_path(index)).shape[:2]
        if path is None:
            return "", "", pixels
        stored = read_stored_labels(path)
    except UserError as error:
        return "files that cannot be read", str(error), pixels
    pixels = np.bincount(stored.ravel(), minlength=256)
    if stored.shape != (height, width):
        details = f"{path} ({stored.shape[1]}x{stored.shape[0]} pixels, its image {width}x{height})"
        return "label maps of another size than their image", details, pixels
    outside = np.flatnonzero((stored_lookup(dataset.class_list) < 0) & (pixels > 0)).tolist()
    return (_OUTSIDE, f"{path} (values {_listed(outside)})", pixels) if outside else ("", "", pixels)


def _listed(values: list[int]) -> str:
    more = f" and {len(values) - _SHOWN_VALUES} more" if len(values) > _SHOWN_VALUES else ""
    return ", ".join(map(str, values[:_SHOWN_VALUES])) + more


def value_fault(maps: np.ndarray, total: int, class_list: ClassList) -> str:
    """What the values of `total` label maps say is wrong with them, in one sentence; "" when nothing.

    Args:
        maps: (256,) how many label maps hold each stored value.
    """
    known = {*class_list.stored, *class_list.stored_ignored}
    outside = [value for value in np.flatnonzero(maps).tolist() if value not in known]
    last = max(known - {IGNORED})
    if outside:
        text = f"label values {_listed(outside)} are not in the class list of {class_list.title}"
        if outside == [last + 1] and not (maps[0] and maps[IGNORED]):
            return f"{text}: labels are shifted by one, class 0 is stored as {class_list.stored[0] + 1}, one too high"
        return f"{text}{_preparation(class_list)}"
    if total < _SHIFT_MAPS or 0 not in class_list.stored_ignored:
        return ""
    if maps[0] < total / 2 <= maps[IGNORED] and not maps[last]:
        return (
            f"labels are shifted by one: 0 (background) is in {maps[0]} and 255 in {maps[IGNORED]} of {total} label "
            f"maps, {last} in none, so {class_list.names[0]} is stored as 0 instead of {class_list.stored[0]}"
        )
    if not maps[0] and maps[class_list.stored[0]] >= total / 2:
        return (
            f"labels are shifted by one: 0 (background) is in no label map and {class_list.stored[0]} in "
            f"{maps[class_list.stored[0]]} of {total}, so background is counted as class 0 ({class_list.names[0]})"
        )
    return ""


def _preparation(class_list: ClassList) -> str:
    return f"; {PREPARATION[class_list.dataset]}" if class_list.dataset in PREPARATION else ""


def _read_pairs(dataset: SegmentationDataset, indices: Sequence[int], progress: bool) -> SplitReport:
    report = SplitReport(dataset, len(indices))
    found = map_in_order(examine, ((index,) for index in indices), _THREADS, shared=(dataset,), threads=True)
    for fault, details, pixels in tqdm(
        found, desc=dataset.section, total=len(indices), unit="pair", disable=not progress
    ):
        report.pixels += pixels
        report.maps += pixels > 0
        if fault:
            report.faults.setdefault(fault, []).append(details)
    outside = report.faults.pop(_OUTSIDE, [])
    if fault := value_fault(report.maps, len(indices), dataset.class_list):
        report.faults[fault] = outside
    return report


def check_split(
    dataset: SegmentationDataset, fraction: float = 1.0, partial: bool = False, progress: bool = False
) -> SplitReport:
    """Reads every image and label map of a split, or a random `fraction` of them (the same at each call).

    Of all files the first and last bytes are read, which tells missing, most cut-off and RGB-encoded ones.

    Args:
        dataset: opened with `check_files=False`.
        partial: a part of the data set is meant, so another count than the published one is no fault.
    """
    bad = dataset.bad_files()
    unusable = {path for path, _ in bad}
    usable = [i for i in range(len(dataset)) if not {dataset.image_path(i), dataset.labels_path(i)} & unusable]
    count = min(len(usable), max(1, round(fraction * len(dataset))))
    report = _read_pairs(dataset, sorted(random.Random(0).sample(usable, count)), progress)
    for path, problem in bad:
        cause = _preparation(dataset.class_list) if problem == "missing" else ""
        report.faults.setdefault(f"{problem}{cause}", []).append(str(path))
    note = count_note(dataset.class_list.dataset, dataset.section, len(dataset))
    if note and not partial:
        report.faults[f"{note} (--allow-partial if only a part is meant)"] = []
    return report


def quick_check(dataset: Dataset, pairs: int = QUICK_PAIRS) -> None:
    """Reads `pairs` random pairs (the same at each call) before a run; drawn data sets are not looked at.

    Raises:
        UserError: naming what is wrong, in one line.
    """
    if not isinstance(dataset, SegmentationDataset):
        return
    indices = sorted(random.Random(1).sample(range(len(dataset)), min(pairs, len(dataset))))
    shown = []
    for fault, files in _read_pairs(dataset, indices, progress=False).faults.items():
        more = f" and {len(files) - _SHOWN_FILES} more" if len(files) > _SHOWN_FILES else ""
        shown.append(f"{fault} [{', '.join(files[:_SHOWN_FILES])}{more}]" if files else fault)
    if shown:
        raise UserError(
            f"{dataset.class_list.title} {dataset.section}, {len(indices)} random pairs: {'; '.join(shown)}. "
            "tools/check_dataset.py looks at all of them"
        )
