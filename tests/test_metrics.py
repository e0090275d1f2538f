"""Metrics against a brute-force count and where they are undefined; golden files: tests/parity."""

import csv
import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jseg.metrics import IGNORED, ConfusionMatrix, class_table, group_table, headline


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
    alone = matrix.update(prediction, prediction)  # all right
    assert alone.counts.sum() == np.diagonal(alone.counts).sum() == pixels and alone.labelled_iou() == 100
    np.testing.assert_array_equal(matrix.counts, expected + alone.counts)


def test_the_table_of_counts_reads_back_whatever_the_names_hold() -> None:
    matrix, names = ConfusionMatrix(3), ["cat, or kitten", 'a "dog"', "emu"]
    matrix.update(np.array([[0, 1, 1, 2]]), np.array([[0, 1, 0, IGNORED]]))
    header, *rows = csv.reader(io.StringIO(matrix.csv_table(names)))
    assert header[1:] == names == [row[0] for row in rows]
    assert [row[1:] for row in rows] == [["1", "1", "0"], ["0", "1", "0"], ["0", "0", "0"]]  # rows are labels


def test_undefined_is_none_and_a_dash() -> None:
    matrix = ConfusionMatrix(3)
    matrix.update(np.array([[0, 1, 1]]), np.array([[0, 1, 0]]))
    metrics = matrix.summary([0, 1], [2], ["cat", "dog", "emu"])
    headlines = ["pAcc", "mIoU(S)", "mIoU(U)", "hIoU"]
    others = ["mIoU", "mAcc", "pAcc(S)", "mAcc(S)", "pAcc(U)", "mAcc(U)"]
    assert list(metrics) == [*headlines, *others, "IoU", "Acc"]
    assert metrics["mIoU(U)"] is None and metrics["hIoU"] is None and metrics["IoU"]["emu"] is None
    assert json.loads(json.dumps(metrics, allow_nan=False))["hIoU"] is None
    assert headline(metrics) == "pAcc / mIoU(S) / mIoU(U) / hIoU: 66.67 / 50.00 / - / -"
    table = class_table(matrix, ["cat", "dog", "emu"], [2]).splitlines()
    assert table[-1].split() == ["emu", "unseen", "-", "-", "0.00"]
    assert [line.split() for line in group_table(metrics).splitlines()[1:]] == [
        ["all", "66.67", "50.00", "75.00"], ["seen", "66.67", "50.00", "75.00"], ["unseen", "-", "-", "-"]
    ]  # fmt: skip
    matrix = ConfusionMatrix(2)
    matrix.counts[:] = [[0, 1], [1, 0]]
    assert matrix.summary([0], [1], ["cat", "dog"])["hIoU"] == 0  # both means are 0
    nothing_counted = ConfusionMatrix(1).summary([0], [], ["cat"])
    assert nothing_counted == dict.fromkeys([*headlines, *others]) | {"IoU": {"cat": None}, "Acc": {"cat": None}}


@given(st.integers(2, 6), st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_figures_of_all_seen_and_unseen_classes_equal_sets_of_pixels(count: int, pixels: int, seed: int) -> None:
    """The oracle counts pixels in sets, class by class; exact but for the last bits of the means."""
    rng = np.random.default_rng(seed)
    prediction, label = rng.integers(0, count, (2, 1, pixels))
    label[rng.random(label.shape) < 0.2] = IGNORED
    matrix, unseen = ConfusionMatrix(count), {*rng.permutation(count)[: count // 2].tolist()}
    matrix.update(prediction, label)
    names = [f"class {index}" for index in range(count)]
    found = matrix.summary([index for index in range(count) if index not in unseen], sorted(unseen), names)
    labelled = {place for place in range(pixels) if label[0, place] != IGNORED}
    by_label = [{place for place in labelled if label[0, place] == index} for index in range(count)]
    by_guess = [{place for place in labelled if prediction[0, place] == index} for index in range(count)]
    iou = {i: 100 * len(a & b) / len(a | b) for i, (a, b) in enumerate(zip(by_label, by_guess, strict=True)) if a | b}
    acc = {i: 100 * len(a & b) / len(a) for i, (a, b) in enumerate(zip(by_label, by_guess, strict=True)) if a}
    assert found["IoU"] == pytest.approx({name: iou.get(index) for index, name in enumerate(names)})
    assert found["Acc"] == pytest.approx({name: acc.get(index) for index, name in enumerate(names)})
    for group, ids in (("", {*range(count)}), ("(S)", {*range(count)} - unseen), ("(U)", unseen)):
        area = sum(len(by_label[index]) for index in ids)
        right = sum(len(by_label[index] & by_guess[index]) for index in ids)
        assert found[f"pAcc{group}"] == (pytest.approx(100 * right / area) if area else None)
        for name, values in (("mIoU", iou), ("mAcc", acc)):
            values = [values[index] for index in ids if index in values]
            assert found[name + group] == (pytest.approx(sum(values) / len(values)) if values else None)


@pytest.mark.parametrize(
    ("prediction", "label"),
    [([[0, 2]], [[0, 1]]), ([[0, -1]], [[0, 1]]), ([[0, 1]], [[0, 2]]), ([[0, 1]], [[0, -1]]), ([[0, 1]], [[0]])],
)
def test_refuses_values_outside_the_list_and_other_sizes(prediction: list, label: list) -> None:
    matrix = ConfusionMatrix(2)
    with pytest.raises(ValueError):
        matrix.update(np.array(prediction), np.array(label))
    assert matrix.counts.sum() == 0
