"""Faults of a data set on disk: missing files, RGB-encoded label maps, wrong sizes, wrong values, labels shifted by one.

`check_split` looks at a whole split or a part of it, `quick_check` at 50 random pairs before a run.

Labels one too high hold the value after the last class. Labels one too low lie within the class list: where 0 is
background nearly every label map holds it, so a split is called shifted when fewer than half of at least 5 label maps
hold 0, at least half hold 255, and none holds the last class.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

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
_SHIFT_MAPS = 5  # label maps from which missing background says something


@dataclass
class Finding:
    """Something that is wrong, with the files that show it."""

    text: str
    files: list[str] = field(default_factory=list)  # each with its own details


class Pair(NamedTuple):
    """What an image and its label map hold."""

    problem: str  # "" = none
    details: str  # the file, and what it holds
    pixels: np.ndarray  # (256,) int64: how often each stored value occurs


@dataclass
class SplitReport:
    """What `check_split` found."""

    dataset: SegmentationDataset
    read: int = 0  # pairs that were read as a whole
    maps: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))  # label maps that hold each stored value
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))  # pixels of each stored value
    findings: list[Finding] = field(default_factory=list)


def examine(dataset: SegmentationDataset, index: int) -> Pair:
    """Reads pair `index` and says what is wrong with it."""
    nothing, path = np.zeros(256, np.int64), dataset.labels_path(index)
    try:
        height, width = read_image(dataset.image_path(index)).shape[:2]
        stored = None if path is None else read_stored_labels(path)
    except UserError as error:
        return Pair("file that cannot be read", str(error), nothing)
    if stored is None:
        return Pair("", "", nothing)
    pixels = np.bincount(stored.ravel(), minlength=256)
    if stored.shape != (height, width):
        details = f"{path} ({stored.shape[1]}x{stored.shape[0]} pixels, its image {width}x{height})"
        return Pair("label map of another size than its image", details, pixels)
    outside = np.flatnonzero((stored_lookup(dataset.class_list) < 0) & (pixels > 0))
    if len(outside):
        return Pair("values outside the class list", f"{path} (values {_listed(outside.tolist())})", pixels)
    return Pair("", "", pixels)


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
    report, files = SplitReport(dataset, read=len(indices)), {}
    found = map_in_order(examine, ((index,) for index in indices), _THREADS, shared=(dataset,), threads=True)
    for pair in tqdm(found, desc=dataset.section, total=len(indices), unit="pair", disable=not progress):
        report.pixels += pair.pixels
        report.maps += pair.pixels > 0
        if pair.problem:
            files.setdefault(pair.problem, []).append(pair.details)
    fault = value_fault(report.maps, len(indices), dataset.class_list)
    outside = files.pop("values outside the class list", [])
    report.findings = [Finding(f"{problem}: {len(named)}", named) for problem, named in files.items()]
    if fault:
        report.findings.append(Finding(fault, outside))
    return report


def check_split(dataset: SegmentationDataset, fraction: float = 1.0, progress: bool = False) -> SplitReport:
    """Reads every image and label map of a split, or a random `fraction` of them (the same at each call).

    Of all files the first and last bytes are read, which tells missing, most cut-off and RGB-encoded ones.

    Args:
        dataset: opened with `check_files=False`.
    """
    bad = dataset.bad_files()
    unreadable = {path for path, _ in bad}
    good = [
        index
        for index in range(len(dataset))
        if dataset.image_path(index) not in unreadable and dataset.labels_path(index) not in unreadable
    ]
    indices = sorted(random.Random(0).sample(good, min(len(good), max(1, round(fraction * len(dataset))))))
    report = _read_pairs(dataset, indices, progress)
    for problem in dict.fromkeys(problem for _, problem in bad):
        files = [str(path) for path, its_problem in bad if its_problem == problem]
        cause = _preparation(dataset.class_list) if problem == "missing" else ""
        report.findings.append(Finding(f"{len(files)} files: {problem}{cause}", files))
    note = count_note(dataset.class_list.dataset, dataset.section, len(dataset))
    if note:
        report.findings.append(Finding(note))
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
    for finding in _read_pairs(dataset, indices, progress=False).findings:
        more = f" and {len(finding.files) - _SHOWN_FILES} more" if len(finding.files) > _SHOWN_FILES else ""
        files = f" [{', '.join(finding.files[:_SHOWN_FILES])}{more}]" if finding.files else ""
        shown.append(f"{finding.text}{files}")
    if shown:
        raise UserError(
            f"{dataset.class_list.title} {dataset.section}, {len(indices)} random pairs: {'; '.join(shown)}. "
            "tools/check_dataset.py looks at all of them"
        )
