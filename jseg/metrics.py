"""Segmentation metrics from one confusion matrix: pixel accuracy, IoU per class, means over seen and unseen, hIoU.

Zhang et al., "Exploring Regional Clues in CLIP for Zero-Shot Semantic Segmentation", CVPR 2024, section 4.1: the
generalised protocol, in which every pixel is given one of the seen and unseen classes. NumPy only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from jseg.data.class_names import IGNORED

HEADLINE = ("pAcc", "mIoU(S)", "mIoU(U)", "hIoU")  # keys of the one-line summary, in the papers' order


def _defined_mean(values: np.ndarray) -> float:
    """Mean of the entries that are not NaN; NaN when there is none."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")


def harmonic_mean(seen: float, unseen: float) -> float:
    """`2SU / (S + U)`: 0 when both are 0, NaN when one is NaN."""
    return 2 * seen * unseen / (seen + unseen) if seen + unseen != 0 else 0.0


class ConfusionMatrix:
    """Counts of (label, prediction) pairs over any number of images.

    Attributes:
        counts: (C, C) int64 pixels; rows are labels, columns predictions. Ignored pixels are not in it.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.counts = np.zeros((num_classes, num_classes), dtype=np.int64)

    def update(self, prediction: np.ndarray, label: np.ndarray) -> None:
        """Adds one image.

        Args:
            prediction: (H, W) integers in [0, C).
            label: (H, W) integers in [0, C), or 255 for pixels that do not count.

        Raises:
            ValueError: the shapes differ, or a value is outside its range.
        """
        if prediction.shape != label.shape:
            raise ValueError(f"prediction has shape {prediction.shape}, label {label.shape}")
        counted = label != IGNORED
        rows, columns = label[counted].astype(np.int64), prediction[counted].astype(np.int64)
        for what, values in (("label", rows), ("prediction", columns)):
            if values.size and not 0 <= values.min() <= values.max() < self.num_classes:
                raise ValueError(f"{what} holds values outside 0..{self.num_classes - 1}")
        pairs = np.bincount(rows * self.num_classes + columns, minlength=self.num_classes**2)
        self.counts += pairs.reshape(self.counts.shape)

    @property
    def intersection(self) -> np.ndarray:
        """(C,) int64: pixels of each class that are predicted as this class."""
        return np.diagonal(self.counts).copy()

    @property
    def label_area(self) -> np.ndarray:
        """(C,) int64: pixels labelled as each class."""
        return self.counts.sum(axis=1)

    @property
    def prediction_area(self) -> np.ndarray:
        """(C,) int64: labelled pixels predicted as each class."""
        return self.counts.sum(axis=0)

    @property
    def union(self) -> np.ndarray:
        """(C,) int64: pixels that are labelled or predicted as each class."""
        return self.label_area + self.prediction_area - self.intersection

    def iou(self) -> np.ndarray:
        """(C,) float64 in [0, 1]: intersection over union; NaN for a class neither labelled nor predicted."""
        with np.errstate(invalid="ignore"):
            return self.intersection / self.union

    def accuracy(self) -> np.ndarray:
        """(C,) float64 in [0, 1]: correct share of each class's pixels; NaN for a class without labels."""
        with np.errstate(invalid="ignore"):
            return self.intersection / self.label_area

    def summary(self, seen: Iterable[int], unseen: Iterable[int], names: Sequence[str]) -> dict:
        """The reported figures.

        Args:
            seen, unseen: class ids that the two means run over; classes that occur nowhere are left out of the means.
            names: the C class names.

        Returns:
            `{"pAcc", "mIoU(S)", "mIoU(U)", "hIoU", "IoU": {name: …}}` in percent. None = undefined: no labelled pixel,
            no class of this group anywhere. hIoU is None when one of its means is, and 0 when both are 0.
        """
        iou, total = 100 * self.iou(), int(self.counts.sum())
        accuracy = int(np.trace(self.counts)) / total if total else float("nan")
        seen_mean, unseen_mean = (_defined_mean(iou[np.fromiter(ids, dtype=np.int64)]) for ids in (seen, unseen))
        figures = (100 * accuracy, seen_mean, unseen_mean, harmonic_mean(seen_mean, unseen_mean))
        result: dict = {key: _or_none(value) for key, value in zip(HEADLINE, figures, strict=True)}
        result["IoU"] = {name: _or_none(value) for name, value in zip(names, iou, strict=True)}
        return result


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def percent(value: float | None, width: int = 0) -> str:
    """`"93.71"`, or `"-"` for None; right-aligned in `width` characters."""
    return ("-" if value is None else f"{value:.2f}").rjust(width)


def headline(metrics: dict) -> str:
    """One line to paste: `pAcc / mIoU(S) / mIoU(U) / hIoU: 95.80 / 92.80 / 84.40 / 88.40`, `-` = undefined."""
    return f"{' / '.join(HEADLINE)}: {' / '.join(percent(metrics[key]) for key in HEADLINE)}"


def class_table(matrix: ConfusionMatrix, names: Sequence[str], unseen: Iterable[int]) -> str:
    """Lines of a table with IoU, accuracy and share of the labelled pixels of every class, in percent."""
    unseen = set(unseen)
    total = max(int(matrix.counts.sum()), 1)
    width = max(len("class"), *(len(name) for name in names))
    lines = [f"{'class':<{width}}          IoU      acc   pixels"]
    columns = zip(names, 100 * matrix.iou(), 100 * matrix.accuracy(), 100 * matrix.label_area / total, strict=True)
    for index, (name, *figures) in enumerate(columns):
        marker = "unseen" if index in unseen else ""
        lines.append(f"{name:<{width}} {marker:>6} " + " ".join(percent(_or_none(value), 7) for value in figures))
    return "\n".join(line.rstrip() for line in lines)
