"""Faults of a data set on disk: missing or RGB-encoded files, wrong sizes, wrong values, labels shifted by one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from jseg.data.class_names import IGNORED, ClassList
from jseg.data.dataset import PREPARATION, Dataset, SegmentationDataset
from jseg.data.image_files import read_stored_labels
from jseg.data.label_maps import listed, stored_lookup
from jseg.data.workers import map_in_order
from jseg.errors import UserError


@dataclass
class SplitReport:
    """What was found in the pairs of a split that were read."""

    dataset: SegmentationDataset
    read: int
    problems: list[str] = field(default_factory=list)  # sentences about the split as a whole or about one file
    maps: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))  # label maps that hold each stored value
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))  # pixels of each stored value


def value_fault(maps: np.ndarray, total: int, class_list: ClassList) -> str:
    """What is wrong with the values of `total` label maps, `maps` (256,) of which hold each value; "" = nothing.

    Labels one too high hold the value after the last class. Labels one too low are in the class list; but where 0 is
    background, fewer than half of the label maps then hold 0, at least half hold 255, and none holds the last class.
    """
    outside = np.flatnonzero((stored_lookup(class_list) < 0) & (maps > 0)).tolist()
    first, last = class_list.stored[0], max({*class_list.stored, *class_list.stored_ignored} - {IGNORED})
    if outside:
        text = f"label values {listed(outside)} are not in the class list of {class_list.title}"
        if outside == [last + 1] and not (maps[0] and maps[IGNORED]):
            return f"{text}: labels are shifted by one, class 0 is stored as {first + 1}, one too high"
        return f"{text}; {PREPARATION[class_list.dataset]}"
    if total >= 5 and 0 in class_list.stored_ignored and maps[0] < total / 2 <= maps[IGNORED] and not maps[last]:
        return (
            f"labels are shifted by one: 0 (background) is in {maps[0]} and 255 in {maps[IGNORED]} of {total} label "
            f"maps, {last} in none, so {class_list.names[0]} is stored as 0 instead of {first}"
        )
    return ""


def read_pairs(dataset: SegmentationDataset, indices: Sequence[int], progress: bool = False) -> SplitReport:
    """Reads pairs as a whole, with four threads (decoding needs no GIL)."""

    def examine(index: int) -> tuple[str, np.ndarray]:
        pixels, path = np.zeros(256, np.int64), dataset.labels_path(index)
        try:
            if path:
                pixels = np.bincount(read_stored_labels(path).ravel(), minlength=256)
            dataset.read(index)
        except UserError as error:
            return str(error), pixels
        return "", pixels

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
        report.problems.append(f"{len(missing)} files are missing; {PREPARATION[dataset.class_list.dataset]}")
        report.problems += [f"{path}: missing" for path in sorted(missing)]
    return report


def quick_check(dataset: Dataset) -> None:
    """Reads 50 random pairs before a run; drawn data sets are not looked at. UserError says what is wrong."""
    if not isinstance(dataset, SegmentationDataset):
        return
    indices = sorted(random.Random(1).sample(range(len(dataset)), min(50, len(dataset))))
    if problems := read_pairs(dataset, indices).problems:
        raise UserError(
            f"{dataset.class_list.title} {dataset.section}, {len(indices)} random pairs: {listed(problems, 4)}. "
            "tools/check_dataset.py looks at all of them"
        )
