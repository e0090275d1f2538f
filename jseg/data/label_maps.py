"""Stored label PNGs -> class numbers -> training targets, and which classes a training run may see. NumPy only.

Three numberings are in use: the pixel values of the files ("stored"), the class numbers 0..C-1 of the class list, and
the training targets of a setting. 255 = ignored in the last two.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jseg.data.class_names import IGNORED, ClassList
from jseg.errors import UserError

UNSEEN_PIXEL = -1  # transductive target: "some unseen class", which the losses replace by pseudo-labels


def listed(values: Sequence, most: int = 8) -> str:
    """The first `most` values with commas between, and how many more there are."""
    more = f" and {len(values) - most} more" if len(values) > most else ""
    return ", ".join(map(str, values[:most])) + more


def stored_lookup(class_list: ClassList) -> np.ndarray:
    """(256,) int16: stored pixel value -> class number, 255 for ignored, -1 for values outside the class list."""
    lookup = np.full(256, -1, np.int16)
    lookup[list(class_list.stored_ignored)] = IGNORED
    lookup[list(class_list.stored)] = np.arange(len(class_list.stored))
    return lookup


def class_labels(stored: np.ndarray, class_list: ClassList, where: str) -> np.ndarray:
    """(H, W) uint8 stored values -> (H, W) uint8 class numbers, 255 = ignored.

    UserError lists values outside the class list, with `where` (the file).
    """
    labels = stored_lookup(class_list)[stored]
    if (labels < 0).any():
        values = listed(np.unique(stored[labels < 0]).tolist())
        known = f"{class_list.stored[0]}-{class_list.stored[-1]} and {listed(class_list.stored_ignored)}"
        raise UserError(
            f"{where}: label values {values} are not in the class list of {class_list.title} (it has {known})"
        )
    return labels.astype(np.uint8)


def stored_labels(labels: np.ndarray, class_list: ClassList) -> np.ndarray:
    """Class numbers -> stored values, for label PNGs in the data set's own numbering; ignored pixels become 255."""
    lookup = np.full(256, IGNORED, np.uint8)
    lookup[: len(class_list.stored)] = class_list.stored
    return lookup[labels]


def training_classes(class_list: ClassList, setting: str) -> tuple[int, ...]:
    """Class numbers whose text features a run of `setting` trains with, in order of its training targets."""
    return class_list.seen if setting == "inductive" else tuple(range(len(class_list.names)))


def training_labels(labels: np.ndarray, class_list: ClassList, setting: str) -> np.ndarray:
    """Class numbers (any shape, 255 = ignored) -> int32 training targets of a setting.

    inductive: the seen classes are numbered 0..S-1, unseen ones become 255. transductive: seen classes are kept, pixels
    of unseen ones become `UNSEEN_PIXEL`. supervised: unchanged.
    """
    lookup, classes = np.full(256, IGNORED, np.int32), training_classes(class_list, setting)
    lookup[list(classes)] = np.arange(len(classes))
    if setting == "transductive":
        lookup[list(class_list.unseen)] = UNSEEN_PIXEL
    return lookup[labels]
