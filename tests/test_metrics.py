"""Metrics against a brute-force count and where they are undefined; golden files: tests/parity."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jseg.metrics import IGNORED, ConfusionMatrix, class_table, headline


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
