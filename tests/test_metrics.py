"""Metrics against the golden files, a brute-force count and the cases where they are undefined."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jseg.metrics import IGNORED, ConfusionMatrix, class_table, headline

TOLERANCE = 1e-9  # golden README: metrics
AREAS = {"intersect": "intersection", "union": "union", "pred": "prediction_area", "label": "label_area"}


def filled(pairs: list[tuple[np.ndarray, np.ndarray]], num_classes: int, reduce_zero_label: bool) -> ConfusionMatrix:
    """A confusion matrix over (prediction, label) pairs; with `reduce_zero_label` the stored 0 means ignored."""
    matrix = ConfusionMatrix(num_classes)
    for prediction, label in pairs:
        label = label.astype(np.int64)
        if reduce_zero_label:
            label = np.where((label == 0) | (label == IGNORED), IGNORED, label - 1)
        matrix.update(prediction, label)
    return matrix


def fraction(value: float | None) -> float:
    """A reported percentage as the golden files hold it."""
    return np.nan if value is None else value / 100


def check(matrix: ConfusionMatrix, expected: dict[str, np.ndarray], seen: list[int], unseen: list[int]) -> None:
    """Areas exactly, everything else within the tolerance, NaN where the golden file has NaN."""
    for golden_name, name in AREAS.items():
        np.testing.assert_array_equal(getattr(matrix, name), expected[f"area_{golden_name}"], err_msg=name)
    names = [f"class {index}" for index in range(matrix.num_classes)]
    metrics = matrix.summary(seen, unseen, names)
    ours = {
        "IoU": matrix.iou(),
        "Acc": matrix.accuracy(),
        "aAcc": fraction(metrics["pAcc"]),
        "mIoU_seen": fraction(metrics["mIoU(S)"]),
        "mIoU_unseen": fraction(metrics["mIoU(U)"]),
        "hIoU": fraction(metrics["hIoU"]),
        "mIoU": fraction(matrix.summary(range(matrix.num_classes), [], names)["mIoU(S)"]),
    }
    for key, value in ours.items():
        np.testing.assert_allclose(value, expected[key], rtol=0, atol=TOLERANCE, err_msg=key)
    np.testing.assert_allclose(
        [fraction(value) for value in metrics["IoU"].values()], expected["IoU"], rtol=0, atol=TOLERANCE
    )


@pytest.mark.parity
def test_torch_release(golden: Path) -> None:
    files = sorted((golden / "torch_release").glob("metrics*.npz"))
    assert files
    for path in files:
        stored = np.load(path)
        for case in json.loads(str(stored["case_names"])):
            values = {key[len(case) + 1 :]: stored[key] for key in stored.files if key.startswith(f"{case}.")}
            pairs = [(values[f"pred{i}"], values[f"label{i}"]) for i in range(int(values["n"]))]
            matrix = filled(pairs, int(values["num_classes"]), bool(values["reduce_zero_label"]))
            check(matrix, values, values["seen"].tolist(), values["unseen"].tolist())


@pytest.mark.parity
def test_jseg_release(golden: Path) -> None:
    files = sorted((golden / "jseg_release").glob("metrics_*.npz"))
    assert files
    for path in files:
        stored = np.load(path)
        count = sum(key.startswith("in/pred_") for key in stored.files)
        pairs = [(stored[f"in/pred_{i}"], stored[f"in/label_{i}"]) for i in range(count)]
        matrix = filled(pairs, int(stored["in/num_classes"]), bool(stored["in/reduce_zero_label"]))
        expected = {key[4:]: stored[key] for key in stored.files if key.startswith("out/")}
        expected.update(mIoU_seen=expected["mIoU_S"], mIoU_unseen=expected["mIoU_U"])
        unseen = stored["in/unseen"].tolist()
        check(matrix, expected, [index for index in range(matrix.num_classes) if index not in unseen], unseen)


@given(st.integers(1, 6), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_counts_equal_brute_force(num_classes: int, pixels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    prediction = rng.integers(0, num_classes, (1, pixels), dtype=np.uint8)
    label = rng.choice([*range(num_classes), IGNORED], (1, pixels)).astype(np.uint8)
    matrix = ConfusionMatrix(num_classes)
    matrix.update(prediction, label)
    expected = np.zeros((num_classes, num_classes), dtype=np.int64)
    for row, column in zip(label[0].tolist(), prediction[0].tolist(), strict=True):
        if row != IGNORED:
            expected[row, column] += 1
    np.testing.assert_array_equal(matrix.counts, expected)


def test_counts_stay_exact_beyond_float32() -> None:
    matrix = ConfusionMatrix(2)
    matrix.counts[0, 0] = 2**53  # one more pixel is lost in float64, and long before that in float32
    matrix.update(np.zeros((1, 1), np.uint8), np.zeros((1, 1), np.uint8))
    assert matrix.intersection[0] == 2**53 + 1


def test_undefined_is_none_and_a_dash() -> None:
    matrix = ConfusionMatrix(3)
    matrix.update(np.array([[0, 1, 1]]), np.array([[0, 1, 0]]))
    metrics = matrix.summary([0, 1], [2], ["cat", "dog", "emu"])
    assert list(metrics) == ["pAcc", "mIoU(S)", "mIoU(U)", "hIoU", "IoU"]
    assert metrics["mIoU(U)"] is None and metrics["hIoU"] is None and metrics["IoU"]["emu"] is None
    assert json.loads(json.dumps(metrics, allow_nan=False))["hIoU"] is None
    assert headline(metrics) == "pAcc / mIoU(S) / mIoU(U) / hIoU: 66.67 / 50.00 / - / -"
    table = class_table(matrix, ["cat", "dog", "emu"], [2]).splitlines()
    assert table[-1].split() == ["emu", "unseen", "-", "-", "0.00"]
    matrix = ConfusionMatrix(2)
    matrix.counts[:] = [[0, 1], [1, 0]]
    assert matrix.summary([0], [1], ["cat", "dog"])["hIoU"] == 0  # both means are 0
    nothing_counted = ConfusionMatrix(1).summary([0], [], ["cat"])
    assert nothing_counted == dict.fromkeys(("pAcc", "mIoU(S)", "mIoU(U)", "hIoU")) | {"IoU": {"cat": None}}


@pytest.mark.parametrize(
    ("prediction", "label"),
    [([[0, 2]], [[0, 1]]), ([[0, -1]], [[0, 1]]), ([[0, 1]], [[0, 2]]), ([[0, 1]], [[0, -1]]), ([[0, 1]], [[0]])],
)
def test_refuses_values_outside_the_list_and_other_sizes(prediction: list, label: list) -> None:
    matrix = ConfusionMatrix(2)
    with pytest.raises(ValueError):
        matrix.update(np.array(prediction), np.array(label))
    assert matrix.counts.sum() == 0
