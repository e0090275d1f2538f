"""What is wrong with label maps, told from the values they hold and from which of them are missing.

Values alone decide some faults and not others. Each rule below states what it needs:

- Values outside the class list are always a fault. Their pattern tells COCO ids that were not converted (up to 181, and
  none of the ids that the original files leave out), COCO's category ids (182 occurs), labels one too high (the value
  after the last class occurs; 0, or what means "no class", does not) and grey values of palette colours.
- Labels one too low, i.e. already made into training labels: where 0 is background nearly every label map holds it.
  Here fewer than half do, at least half hold 255, and the last class never occurs; told from 5 label maps on, since a
  single picture may well show no background. Background counted as class 0: no map holds 0, at least half hold class 0.
- COCO has no background to go by, but more than half of its pictures show a person (class 0): in 50 label maps or more
  of the whole data set a share below 20 % means that they are shifted or in another order. A part of COCO may well hold
  fewer persons, so there the rule is not used.

Not decidable from values: two classes exchanged, a class list in another order on data without such a mark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from jseg.data.class_names import COCO_STUFF_ID_GAPS, COCO_STUFF_IDS, IGNORED, ClassList, voc_palette

_SHOWN = 8  # values or names in a message
_SHIFT_MAPS = 5  # label maps from which missing background says something
_PERSON_MAPS = 50  # label maps from which the share of persons in COCO says something
_PERSON_SHARE = 0.2  # really 0.54

PREPARE = {
    "voc12": "tools/prepare_voc12.py makes the masks and lists of trainaug from VOC 2012 and SBD",
    "coco_stuff": "tools/prepare_coco_stuff.py makes *_labelTrainIds.png from the stuffthingmaps",
    "context": "tools/prepare_context.py makes SegmentationClassContext and its lists from the .mat label files",
}


@dataclass
class ValueCounts:
    """How often each stored value occurs in the label maps of a split."""

    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    maps: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))  # label maps that hold the value
    total: int = 0  # label maps

    def add(self, pixels: np.ndarray) -> None:
        """Adds one label map, given its (256,) pixel counts."""
        self.pixels += pixels
        self.maps += pixels > 0
        self.total += 1

    @property
    def values(self) -> list[int]:
        """The values that occur."""
        return np.flatnonzero(self.maps).tolist()

    def share(self, value: int) -> float:
        """Share of the label maps that hold `value`."""
        return float(self.maps[value]) / max(self.total, 1)


def value_fault(counts: ValueCounts, class_list: ClassList, complete: bool = False) -> str:
    """What the values of a split say is wrong with its labels, one sentence; "" when nothing.

    `complete`: the label maps are all of the data set's, or drawn from all at random.
    """
    if not counts.total:
        return ""
    known = set(class_list.stored) | set(class_list.stored_ignored)
    outside = [value for value in counts.values if value not in known]
    if outside:
        count = "in all" if counts.total == 1 else f"over {counts.total} label maps"
        lead = f"label values {_shown(outside)} ({count}) are not in the class list of {class_list.title}"
        cause = _cause_of_outside(outside, counts, class_list)
        return f"{lead}: {cause}" if cause else lead
    if not any(counts.maps[value] for value in class_list.stored):
        return f"no label map holds any class of {class_list.title}: every pixel is ignored"
    return _cause_of_shift(counts, class_list) or (_cause_of_order(counts, class_list) if complete else "")


def _top(class_list: ClassList) -> int:
    """The highest stored value but 255, classes that a run leaves out included."""
    return max(value for value in (*class_list.stored, *class_list.stored_ignored) if value != IGNORED)


def _cause_of_outside(outside: list[int], counts: ValueCounts, class_list: ClassList) -> str:
    top = _top(class_list)
    shifted_up = outside == [top + 1] and not (counts.maps[0] and counts.maps[IGNORED])
    if class_list.dataset == "coco_stuff":
        gaps = any(counts.maps[value] for value in COCO_STUFF_ID_GAPS)
        if 182 in outside and outside[-1] == 182:
            return "these are COCO's category ids, which count from 1; the PNGs of stuffthingmaps count from 0"
        if not gaps and outside[-1] <= COCO_STUFF_IDS[-1]:
            return (
                "these are the ids of stuffthingmaps, not converted to training labels: run "
                "tools/prepare_coco_stuff.py and read the files ending in _labelTrainIds.png"
            )
    if shifted_up:
        return f"labels are shifted by one: class 0 is stored as {class_list.stored[0] + 1}, one too high"
    if class_list.dataset == "voc12" and _are_grey_colours(counts.values):
        return (
            "these are grey values of the palette's colours: the label maps were made into colours and then grey; "
            "take the original palette PNGs"
        )
    if class_list.dataset == "context" and len(outside) > 1:
        return (
            "these look like ids of PASCAL-Context's 459 categories, not converted: run tools/prepare_context.py, "
            "which makes the 59 classes"
        )
    return ""


def _cause_of_shift(counts: ValueCounts, class_list: ClassList) -> str:
    """Shifts that stay within the class list; see the module docstring for what each rule needs."""
    first, top = class_list.stored[0], _top(class_list)
    zero, ignored = counts.share(0), counts.share(IGNORED)
    told = f"0 is in {counts.maps[0]} and 255 in {counts.maps[IGNORED]} of {counts.total} label maps"
    if 0 in class_list.stored_ignored and counts.total >= _SHIFT_MAPS:
        if zero < 0.5 and ignored >= 0.5 and not counts.maps[top]:
            return (
                f"labels are shifted by one: {told}, {top} in none, so {class_list.names[0]} is stored as 0 (which "
                f"means background here) instead of {first}; take the original label maps"
            )
        if not counts.maps[0] and counts.share(first) >= 0.5:
            return (
                f"labels are shifted by one: no label map holds 0 (background) and {counts.maps[first]} of "
                f"{counts.total} hold {first}, so background is counted as class 0 ({class_list.names[0]})"
            )
    return ""


def _cause_of_order(counts: ValueCounts, class_list: ClassList) -> str:
    if class_list.dataset == "coco_stuff" and counts.total >= _PERSON_MAPS and counts.share(0) < _PERSON_SHARE:
        return (
            f"labels are shifted or in another order: person (0) is in {counts.maps[0]} of {counts.total} label maps, "
            "but in over half of COCO's pictures; make them again with tools/prepare_coco_stuff.py"
        )
    return ""


def _are_grey_colours(values: list[int]) -> bool:
    """Whether every value is the luminance of a VOC palette colour, to within 1, and two at least are not classes."""
    grey = voc_palette(256)[[*range(21), IGNORED]] @ np.array([0.299, 0.587, 0.114])
    near = all(np.abs(grey - value).min() <= 1 for value in values)
    return near and sum(value > 20 for value in values) > 1


def palette_fault(stored: np.ndarray, palette: Sequence[int] | None) -> str:
    """Whether a label PNG holds VOC's colours at other places of its palette, as pictures saved through RGB do.

    Args:
        stored: palette entries that occur.
        palette: the PNG's palette, flat RGB; None for a grey PNG.
    """
    if palette is None:
        return ""
    colours, standard = np.array(palette, np.uint8).reshape(-1, 3), voc_palette(256)
    used = [value for value in stored.tolist() if value < len(colours)]
    if all((colours[value] == standard[value]).all() for value in used):
        return ""
    places = {tuple(colour) for colour in standard[[*range(21), IGNORED]].tolist()}
    if all(tuple(colours[value].tolist()) in places for value in used):
        return "its palette has VOC's colours in another order: saved through RGB, its values are not classes"
    return ""


def missing_labels_fault(class_list: ClassList, root: Path, missing: Sequence[str], folder: str) -> str:
    """Why label maps may be missing and the command that makes them; "" when nothing is known.

    VOC: masks of train.txt come from VOC itself, the others from SBD, so it counts which ones are missing, not whether
    there is a folder.

    Args:
        root: folder of the data set.
        missing: names (without suffix) whose label map is missing.
        folder: name of the labels folder.
    """
    if not missing or class_list.dataset not in PREPARE:
        return ""
    if class_list.dataset != "voc12":
        return PREPARE[class_list.dataset]
    own = {path.stem for path in (root / "SegmentationClass").glob("*.png")}
    from_voc = [name for name in missing if name in own]
    count = len(missing) - len(from_voc)
    parts = []
    if count:
        parts.append(f"{count} of the missing masks in {folder} are SBD's, which VOC itself lacks")
    if from_voc:
        parts.append(
            f"{len(from_voc)} of the missing masks in {folder} are in SegmentationClass (SBD lacks 676 pictures of VOC)"
        )
    return f"{' and '.join(parts)}: {PREPARE['voc12']}"


def _shown(items: Sequence[object]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(map(str, items[:_SHOWN])) + more
