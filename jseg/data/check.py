"""Checks a data set on disk: pairs, sizes, PNG kinds, label values, classes, counts, and pictures in train and val.

`check_split` looks at a whole split or a part of it, `duplicates` at train against val, `quick_check` at 50 random
pairs before a run.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from jseg.data.class_names import ClassList
from jseg.data.dataset import Dataset, SegmentationDataset
from jseg.data.image_files import file_problem, read_image, read_stored_labels
from jseg.data.label_faults import ValueCounts, missing_labels_fault, palette_fault, value_fault
from jseg.data.label_maps import stored_lookup
from jseg.data.published_counts import count_note
from jseg.errors import UserError

QUICK_PAIRS = 50
_QUICK_THREADS = 4
_SHOWN = 3  # files in the one line of a quick check
_VALUES = "values outside the class list"
_SIZE = "label map of another size than its picture"
_PALETTE = "palette in another order"


@dataclass
class Finding:
    """Something that is wrong, with the files that show it."""

    text: str
    files: list[str] = field(default_factory=list)  # each with its own details


class Problem(NamedTuple):
    """Something wrong with one file."""

    kind: str
    name: str  # of the pair
    path: Path
    details: str


@dataclass
class Pair:
    """What one picture and its label map hold."""

    problems: list[Problem] = field(default_factory=list)
    size: tuple[int, int] | None = None  # height, width of the picture
    mode: str = ""  # of the label PNG, as Pillow names it
    pixels: np.ndarray | None = None  # (256,) int64: how often each stored value occurs


@dataclass
class Tally:
    """What many pairs hold."""

    counts: ValueCounts = field(default_factory=ValueCounts)
    modes: Counter = field(default_factory=Counter)  # label PNGs by Pillow's name: P = palette, L = grey
    sizes: list[tuple[int, int]] = field(default_factory=list)  # smallest and largest picture (height, width)
    problems: defaultdict[str, list[Problem]] = field(default_factory=lambda: defaultdict(list))  # by kind


@dataclass
class SplitReport:
    """What `check_split` saw."""

    section: str  # train or val
    class_list: ClassList
    length: int  # pairs that the split names
    read: int  # pairs that were looked at
    tally: Tally
    findings: list[Finding]
    notes: list[str]


def examine(dataset: SegmentationDataset, index: int) -> Pair:
    """Reads pair `index` and says what is wrong with it; never raises for the files' sake."""
    name, image_path, labels_path = dataset.names[index], dataset.image_path(index), dataset.labels_path(index)
    pair = Pair()
    try:
        pair.size = read_image(image_path).shape[:2]
    except UserError as error:
        pair.problems.append(Problem(_kind(image_path, False), name, image_path, _without(error, image_path)))
    if labels_path is None:
        return pair
    try:
        stored = read_stored_labels(labels_path)
    except UserError as error:
        pair.problems.append(Problem(_kind(labels_path, True), name, labels_path, _without(error, labels_path)))
        return pair
    if pair.size is not None and stored.shape != pair.size:
        details = f"{stored.shape[1]}x{stored.shape[0]} pixels, its picture {pair.size[1]}x{pair.size[0]}"
        pair.problems.append(Problem(_SIZE, name, labels_path, details))
    pair.pixels = np.bincount(stored.ravel(), minlength=256)
    values = np.flatnonzero(pair.pixels)
    outside = values[stored_lookup(dataset.class_list)[values] < 0]
    if len(outside):
        pair.problems.append(Problem(_VALUES, name, labels_path, ", ".join(map(str, outside.tolist()))))
    with Image.open(labels_path) as picture:  # reads the header and the palette only
        pair.mode, palette = picture.mode, picture.getpalette()
    if dataset.class_list.dataset == "voc12" and (fault := palette_fault(values, palette)):
        pair.problems.append(Problem(_PALETTE, name, labels_path, fault))
    return pair


def _kind(path: Path, labels: bool) -> str:
    problem = file_problem(path, labels)
    what = "label map" if labels else "picture"
    if problem == "missing":
        return f"{what} missing"
    return "RGB-encoded label map" if "RGB" in problem else f"{what} cannot be read"


def _without(error: UserError, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ")


def _glance_at(dataset: SegmentationDataset, index: int) -> Pair:
    """Looks at the first and last bytes of pair `index` only."""
    pair, files = Pair(), [(dataset.image_path(index), False), (dataset.labels_path(index), True)]
    for path, labels in files:
        if path is not None and (problem := file_problem(path, labels)):
            pair.problems.append(Problem(_kind(path, labels), dataset.names[index], path, problem))
    return pair


def _look_at(
    dataset: SegmentationDataset, indices: Sequence[int], threads: int, progress: bool, others: Sequence[int] = ()
) -> Tally:
    """Reads the pairs at `indices` and glances at `others`."""
    tally = Tally()
    with ThreadPoolExecutor(threads) as pool:
        found = chain(
            pool.map(lambda index: _glance_at(dataset, index), others),
            pool.map(lambda index: examine(dataset, index), indices),
        )
        total = len(indices) + len(others)
        for pair in tqdm(found, desc=dataset.section, total=total, unit="pair", disable=not progress):
            if pair.size is not None:
                ordered = sorted([*tally.sizes, pair.size], key=math.prod)
                tally.sizes = [ordered[0], ordered[-1]]
            if pair.pixels is not None:
                tally.counts.add(pair.pixels)
                tally.modes[pair.mode] += 1
            for problem in pair.problems:
                tally.problems[problem.kind].append(problem)
    return tally


def _problem_findings(dataset: SegmentationDataset, tally: Tally) -> list[Finding]:
    """One finding for each kind of problem, then what the values of all label maps say."""
    complete = not count_note(dataset.class_list.dataset, dataset.section, len(dataset))
    findings, value_text = [], value_fault(tally.counts, dataset.class_list, complete)
    for kind, items in tally.problems.items():
        if kind == _VALUES:
            continue
        text = f"{kind}: {len(items)}"
        if kind == "label map missing":
            names, folder = [item.name for item in items], items[0].path.parent.name
            cause = missing_labels_fault(dataset.class_list, dataset.root, names, folder)
            text += f"; {cause}" if cause else ""
        findings.append(Finding(text, [f"{item.path} ({item.details})" for item in items]))
    if value_text:
        files = [f"{item.path} (values {item.details})" for item in tally.problems[_VALUES]]
        findings.append(Finding(value_text, files))
    return findings


def check_split(
    dataset: SegmentationDataset, fraction: float = 1.0, partial: bool = False, threads: int = 4, progress: bool = False
) -> SplitReport:
    """Reads every picture and label map of a split, or a random `fraction` of them (the same at each call).

    Of the others only the first and last bytes are read, which tells missing files, most cut-off ones and wrong kinds.

    Args:
        dataset: opened with `check_files=False`.
        partial: a part of the data set is meant: other counts than the published ones and classes that never occur are
            notes, no findings.
    """
    length = len(dataset)
    chosen = max(1, round(fraction * length))
    indices = sorted(random.Random(0).sample(range(length), chosen))
    others = sorted(set(range(length)) - set(indices))
    tally = _look_at(dataset, indices, threads, progress, others)
    findings = _problem_findings(dataset, tally)
    report = SplitReport(dataset.section, dataset.class_list, length, chosen, tally, findings, [])
    repeated = [name for name, times in Counter(dataset.names).items() if times > 1]
    if repeated:
        report.findings.append(
            Finding(f"names that the list of {dataset.section} holds twice: {len(repeated)}", repeated)
        )
    note = count_note(dataset.class_list.dataset, dataset.section, length)
    absent = _absent_classes(report)
    for text, certain in ((note, not partial), (absent, not partial and chosen == length)):
        if text and certain:
            report.findings.append(Finding(text))
        elif text:
            report.notes.append(text)
    return report


def _absent_classes(report: SplitReport) -> str:
    """Which classes never occur, the unseen ones apart; "" when all do."""
    classes = report.class_list
    if not report.tally.counts.total:
        return ""
    absent = [index for index, value in enumerate(classes.stored) if not report.tally.counts.maps[value]]
    parts = []
    for kind, members in (("seen", classes.seen), ("unseen", classes.unseen)):
        names = [classes.names[index] for index in absent if index in members]
        if names:
            parts.append(f"{len(names)} {kind} ({', '.join(names)})")
    return f"{report.section}: classes that never occur: {' and '.join(parts)}" if parts else ""


def duplicates(train: SegmentationDataset, val: SegmentationDataset, progress: bool = False) -> list[Finding]:
    """Pictures that are in train and in val: by name, and by content.

    Only files of equal length are compared, by SHA-256. Files that cannot be read are left out: `check_split` names
    them.
    """
    findings = []
    shared = sorted(set(train.names) & set(val.names))
    if shared:
        findings.append(Finding(f"names that are in train and in val: {len(shared)}", shared))
    sides = [_by_length(dataset) for dataset in (train, val)]
    lengths = sorted(set(sides[0]) & set(sides[1]))
    same = []
    for length in tqdm(lengths, desc="duplicates", unit="length", disable=not progress):
        of_train = {_hash(path): path for path in sides[0][length]}
        for path in sides[1][length]:
            other = of_train.get(_hash(path))
            if other is not None and path.name != other.name:  # the same name was found above
                same.append(f"{path} (train: {other})")
    if same:
        findings.append(Finding(f"pictures of val that are in train under another name: {len(same)}", same))
    return findings


def _by_length(dataset: SegmentationDataset) -> dict[int, list[Path]]:
    """The pictures of a data set by the length of their files, those that are there."""
    found = defaultdict(list)
    for index in range(len(dataset)):
        path = dataset.image_path(index)
        try:
            found[path.stat().st_size].append(path)
        except OSError:
            continue
    return found


def _hash(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return str(path)  # like no other file


def quick_check(dataset: Dataset, pairs: int = QUICK_PAIRS) -> None:
    """Looks at `pairs` random pairs (the same at each call) before a run; drawn data sets pass unseen.

    Raises:
        UserError: naming what is wrong, in one line.
    """
    if not isinstance(dataset, SegmentationDataset):
        return
    indices = sorted(random.Random(1).sample(range(len(dataset)), min(pairs, len(dataset))))
    findings = _problem_findings(dataset, _look_at(dataset, indices, _QUICK_THREADS, progress=False))
    if not findings:
        return
    shown = []
    for finding in findings:
        more = f" and {len(finding.files) - _SHOWN} more" if len(finding.files) > _SHOWN else ""
        files = f" [{', '.join(finding.files[:_SHOWN])}{more}]" if finding.files else ""
        shown.append(f"{finding.text}{files}")
    raise UserError(
        f"{dataset.class_list.title} {dataset.section}, {len(indices)} random pairs: {'; '.join(shown)}. "
        "tools/check_dataset.py looks at all of them"
    )
