"""metrics* (torch_release) and metrics_* (jseg_release): the confusion matrix and what is made of it."""

from __future__ import annotations

import numpy as np

from jseg.data.class_names import IGNORED
from jseg.metrics import ConfusionMatrix
from jseg.parity.golden_file import GoldenFile

RELEASED_EXCLUDED = {"*upstream_eval_json": "the same numbers, rounded, under other names"}


def _figures(
    predictions: list[np.ndarray],
    labels: list[np.ndarray],
    num_classes: int,
    zero_is_ignored: bool,
    seen: list[int],
    unseen: list[int],
) -> dict[str, np.ndarray]:
    """All figures by the names of golden files; shares in [0, 1]."""
    matrix = ConfusionMatrix(num_classes)
    for prediction, label in zip(predictions, labels, strict=True):
        if zero_is_ignored:  # stored 0 = background, k = class k - 1
            label = np.where((label == 0) | (label == IGNORED), IGNORED, label - 1)
        matrix.update(prediction, label)
    summary = matrix.summary(seen, unseen, [str(index) for index in range(num_classes)])
    every = matrix.summary(range(num_classes), (), [str(index) for index in range(num_classes)])
    percent = {"aAcc": summary["pAcc"], "mIoU": every["mIoU(S)"], "mIoU_seen": summary["mIoU(S)"]}
    percent |= {"mIoU_unseen": summary["mIoU(U)"], "hIoU": summary["hIoU"]}
    shares = {name: np.nan if value is None else value / 100 for name, value in percent.items()}
    accuracy = matrix.accuracy()
    figures = {
        "area_intersect": matrix.intersection,
        "area_union": matrix.union,
        "area_pred": matrix.prediction_area,
        "area_label": matrix.label_area,
        "IoU": matrix.iou(),
        "Acc": accuracy,
        "mAcc": np.nanmean(accuracy) if np.isfinite(accuracy).any() else np.nan,
        **shares,
        **{f"printed_{name}": np.round(100 * value, 2) for name, value in shares.items()},
    }
    return {name: np.asarray(value, dtype=np.float64) for name, value in figures.items()}


def check_metrics(file: GoldenFile) -> dict[str, np.ndarray]:
    """Several cases in one file."""
    computed = {}
    for case in file.json("case_names"):
        indices = range(int(file[f"{case}.n"]))
        ours = _figures(
            [file[f"{case}.pred{index}"] for index in indices],
            [file[f"{case}.label{index}"] for index in indices],
            int(file[f"{case}.num_classes"]),
            bool(file[f"{case}.reduce_zero_label"]),
            file[f"{case}.seen"].tolist(),
            file[f"{case}.unseen"].tolist(),
        )
        computed |= {f"{case}.{name}": value for name, value in ours.items()}
    return computed


def check_released_metrics(file: GoldenFile) -> dict[str, np.ndarray]:
    """One case."""
    count, unseen = int(file["in/num_classes"]), file["in/unseen"].tolist()
    pictures = sorted(file.starting_with("in/pred_"), key=int)
    ours = _figures(
        [file[f"in/pred_{index}"] for index in pictures],
        [file[f"in/label_{index}"] for index in pictures],
        count,
        bool(file["in/reduce_zero_label"]),
        [index for index in range(count) if index not in unseen],
        unseen,
    )
    ours |= {"mIoU_S": ours["mIoU_seen"], "mIoU_U": ours["mIoU_unseen"]}
    return {f"out/{name}": value for name, value in ours.items()}
