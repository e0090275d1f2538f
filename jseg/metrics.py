"""Segmentation metrics from one confusion matrix: pixel accuracy, IoU per class, means over seen and unseen, hIoU.

Zhang et al., "Exploring Regional Clues in CLIP for Zero-Shot Semantic Segmentation", CVPR 2024, section 4.1: the
generalised protocol, in which every pixel is given one of the seen and unseen classes. NumPy only.
"""

from __future__ import annotations

import copy
import csv
import io
import time
from collections.abc import Iterable, Sequence

import numpy as np

from jseg.config import METRICS, Config
from jseg.data.class_names import IGNORED
from jseg.outputs import CSV_MARK

GROUPS = ("", "(S)", "(U)")  # ends of keys: all, seen, unseen classes


class ConfusionMatrix:
    """Pixels of any number of images; `counts`: (C, C) int64, rows are labels, columns predictions."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.counts = np.zeros((num_classes, num_classes), dtype=np.int64)

    def update(self, prediction: np.ndarray, label: np.ndarray) -> ConfusionMatrix:
        """Adds an image: both (H, W) integers in [0, C), labels also 255; ValueError for other values or shapes.

        Returns the matrix of this image alone.
        """
        rows, columns = pairs = np.stack([label, prediction])[:, label != IGNORED].astype(np.int64)
        if pairs.size and not 0 <= pairs.min() <= pairs.max() < self.num_classes:
            raise ValueError(f"labels or predictions outside 0..{self.num_classes - 1}")
        counts, alone = np.bincount(rows * self.num_classes + columns, minlength=self.num_classes**2), copy.copy(self)
        alone.counts = counts.reshape(self.counts.shape)
        self.counts += alone.counts
        return alone

    @property
    def intersection(self) -> np.ndarray:
        """(C,) int64: pixels of each class that are predicted as this class."""
        return np.diagonal(self.counts).copy()

    @property
    def label_area(self) -> np.ndarray:
        """(C,) int64: pixels labelled as each class."""
        return self.counts.sum(axis=1)

    def iou(self) -> np.ndarray:
        """(C,) float64 in [0, 1]: intersection over union; NaN for a class neither labelled nor predicted."""
        with np.errstate(invalid="ignore"):
            return self.intersection / (self.label_area + self.counts.sum(axis=0) - self.intersection)

    def labelled_iou(self) -> float | None:
        """Mean IoU in percent of the classes that have labelled pixels; None without any."""
        labelled = self.label_area > 0
        return 100 * float(self.iou()[labelled].mean()) if labelled.any() else None

    def accuracy(self) -> np.ndarray:
        """(C,) float64 in [0, 1]: correct share of each class's pixels; NaN for a class without labels."""
        with np.errstate(invalid="ignore"):
            return self.intersection / self.label_area

    def csv_table(self, names: Sequence[str]) -> str:
        """`counts` as a CSV table, with the class names as first column and first row."""
        rows = [[name, *row] for name, row in zip(names, self.counts.tolist(), strict=True)]
        csv.writer(file := io.StringIO(), lineterminator="\n").writerows([[CSV_MARK, *names], *rows])
        return file.getvalue()

    def summary(self, seen: Iterable[int], unseen: Iterable[int], names: Sequence[str]) -> dict:
        """The reported figures in percent: `METRICS`, then pAcc, mIoU and mAcc of all, seen (S) and unseen (U) classes.

        After them `"IoU": {name: …}` and `"Acc": {name: …}`. None = undefined: no labelled pixel, or no class of a
        group occurs anywhere. Classes that occur nowhere are left out of the means. hIoU is None when one of its means
        is, and 0 when both are 0.
        """
        iou, accuracy, found = 100 * self.iou(), 100 * self.accuracy(), {}
        for group, ids in zip(GROUPS, (range(self.num_classes), seen, unseen), strict=True):
            chosen = np.fromiter(ids, dtype=np.int64)
            labelled = int(self.label_area[chosen].sum())
            found[f"pAcc{group}"] = 100 * (int(self.intersection[chosen].sum()) / labelled if labelled else np.nan)
            for name, values in (("mIoU", iou[chosen]), ("mAcc", accuracy[chosen])):
                values = values[~np.isnan(values)]
                found[name + group] = float(values.mean()) if values.size else np.nan
        means = found["mIoU(S)"], found["mIoU(U)"]
        found["hIoU"] = 2 * means[0] * means[1] / (means[0] + means[1]) if sum(means) != 0 else 0.0
        figures = {key: found[key] for key in dict.fromkeys((*METRICS, *found))}
        figures |= {"IoU": dict(zip(names, iou.tolist(), strict=True))}
        figures |= {"Acc": dict(zip(names, accuracy.tolist(), strict=True))}
        return _without_nan(figures)


def about(config: Config, weights: str, config_file: str = "config.json", device: str = "") -> dict:
    """What a file of metrics says of itself: {"run": {weights, config, protocol, gamma, date, device if given}}."""
    date, test = time.strftime("%Y-%m-%dT%H:%M:%S%z"), config.test
    run = {"weights": weights, "config": config_file, "protocol": test.protocol, "gamma": config.gamma(), "date": date}
    return {"run": run | ({"device": device} if device else {})}


def _without_nan(figures: dict) -> dict:
    """The same with None for NaN, also in the dictionaries in it."""
    return {key: _without_nan(x) if isinstance(x, dict) else None if np.isnan(x) else x for key, x in figures.items()}


def percent(value: float | None, width: int = 0) -> str:
    """`"93.71"`, or `"-"` for None and NaN; right-aligned in `width` characters."""
    return ("-" if value is None or np.isnan(value) else f"{value:.2f}").rjust(width)


def headline(metrics: dict) -> str:
    """One line to paste: `pAcc / mIoU(S) / mIoU(U) / hIoU: 95.80 / 92.80 / 84.40 / 88.40`, `-` = undefined."""
    return f"{' / '.join(METRICS)}: {' / '.join(percent(metrics[key]) for key in METRICS)}"


def class_table(matrix: ConfusionMatrix, names: Sequence[str], unseen: Sequence[int]) -> str:
    """Lines of a table with IoU, accuracy and share of the labelled pixels of every class, in percent."""
    width = max(len("class"), *map(len, names))
    lines = [f"{'class':<{width}}          IoU      acc   pixels"]
    shares = 100 * matrix.label_area / max(int(matrix.counts.sum()), 1)
    columns = zip(names, 100 * matrix.iou(), 100 * matrix.accuracy(), shares, strict=True)
    for index, (name, *figures) in enumerate(columns):
        marker = "unseen" if index in unseen else ""
        lines.append(f"{name:<{width}} {marker:>6} " + " ".join(percent(value, 7) for value in figures))
    return "\n".join(lines)


def group_table(metrics: dict) -> str:
    """Lines of a table with pAcc, mIoU and mAcc of all, seen and unseen classes, in percent; `-` = undefined."""
    lines = ["classes     pAcc    mIoU    mAcc"]
    for name, group in zip(("all", "seen", "unseen"), GROUPS, strict=True):
        figures = (percent(metrics[key + group], 7) for key in ("pAcc", "mIoU", "mAcc"))
        lines.append(f"{name:<8} {' '.join(figures)}")
    return "\n".join(lines)
