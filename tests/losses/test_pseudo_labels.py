"""Pseudo labels: which pixels change, and what equal scores become."""

from __future__ import annotations

import json
from pathlib import Path

import jittor as jt
import numpy as np
import pytest

from jseg.data.class_names import IGNORED
from jseg.data.label_maps import UNSEEN_PIXEL
from jseg.model.losses import pseudo_labels

torch = pytest.importorskip("torch")


def marked_labels(shape: tuple[int, ...], seen: list[int], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).choice([*seen, UNSEEN_PIXEL, IGNORED], shape).astype(np.int32)


def expected_labels(logits: np.ndarray, labels: np.ndarray, unseen: list[int]) -> np.ndarray:
    """The definition, with PyTorch's float32 sigmoid; NumPy's argmax takes the first of equals."""
    scores = torch.sigmoid(torch.from_numpy(logits)).numpy()[:, unseen]
    return np.where(labels == UNSEEN_PIXEL, np.array(unseen)[scores.argmax(axis=1)], labels)


@pytest.mark.parametrize("scale", [1.0, 6.0, 15.0, 40.0, 1000.0])
def test_equals_the_argmax_of_float32_sigmoids(scale: float) -> None:
    """Also where sigmoids are equal though logits are not."""
    logits = (scale * np.random.default_rng(1).standard_normal((2, 7, 40, 50))).astype(np.float32)
    logits[(logits < -87) & (logits > -104)] = 0  # subnormal sigmoids: the process's flags decide whether they are 0
    labels, unseen = marked_labels((2, 40, 50), [0, 2, 3], seed=2), [1, 4, 5, 6]
    ours = pseudo_labels(jt.array(logits), jt.array(labels), unseen).numpy()
    np.testing.assert_array_equal(ours, expected_labels(logits, labels, unseen))


def test_equal_sigmoids_go_to_the_lowest_class() -> None:
    """All of 17..40 have sigmoid 1 in float32, and those near 12 share one value below it."""
    columns = [[17.4, 40.0, 30.0], [12.01, 12.012, 12.011], [5.0, 5.1, 5.0], [-200.0, -150.0, -120.0]]
    logits = np.array(columns, np.float32).T.reshape(1, 3, 1, 4)
    labels = np.full((1, 1, 4), UNSEEN_PIXEL, np.int32)
    assert torch.sigmoid(torch.tensor([12.01, 12.012])).unique().numel() == 1
    for unseen in ([0, 1, 2], [2, 1, 0]):
        assert pseudo_labels(jt.array(logits), jt.array(labels), unseen).numpy().tolist() == [[[0, 0, 1, 0]]]


def test_only_marked_pixels_change() -> None:
    logits = jt.array(np.random.default_rng(3).standard_normal((2, 4, 9, 9)).astype(np.float32))
    labels = marked_labels((2, 9, 9), [0, 1], seed=4)
    result = pseudo_labels(logits, jt.array(labels), [2, 3])
    kept = labels != UNSEEN_PIXEL
    np.testing.assert_array_equal(result.numpy()[kept], labels[kept])
    assert set(np.unique(result.numpy()[~kept])) <= {2, 3}
    assert result.dtype == "int32"


@pytest.mark.parity
def test_released_self_training_labels(golden: Path) -> None:
    files = sorted(golden.glob("jseg_release/labels_*transductive*.npz"))
    if not files:
        pytest.skip("this golden set has no self-training labels")
    for file in files:
        with np.load(file) as arrays:
            unseen = json.loads(str(arrays["cfg"]))["novel_class"]
            stored, logits, expected = arrays["in/gt"][:, 0], arrays["in/logits"], arrays["out/gt_out"][:, 0]
        labels = np.where(np.isin(stored, unseen), UNSEEN_PIXEL, stored).astype(np.int32)
        np.testing.assert_array_equal(pseudo_labels(jt.array(logits), jt.array(labels), unseen).numpy(), expected)
