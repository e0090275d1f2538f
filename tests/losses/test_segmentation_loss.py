"""The weighted sum: its parts, and that micro-batches add up to the batch."""

from __future__ import annotations

import jittor as jt
import numpy as np
import pytest

from jseg.config import LossConfig
from jseg.data.class_names import IGNORED
from jseg.data.label_maps import UNSEEN_PIXEL
from jseg.model.clip_rc import TrainingOutputs
from jseg.model.losses import LossSums, SegmentationLoss, count_masks, dice_sum, focal_sum
from jseg.ops.bilinear import resize_bilinear

SIZE = (16, 24)
IMAGES, CLASSES = 4, 5
CONFIG = LossConfig(mask=20.0, dice=3.0, recovery=7.0)
PARTS = {"mask": 20.0, "dice": 3.0, "recovery_q": 7.0, "recovery_v": 7.0}


def arrays(seed: int) -> list[np.ndarray]:
    """Arrays for the fields of TrainingOutputs."""
    rng = np.random.default_rng(seed)
    shapes = [(IMAGES, CLASSES, 4, 6), (IMAGES, 10, 8), (IMAGES, 10, 8), (IMAGES, 24, 4), (IMAGES, 24, 4)]
    return [(3 * rng.standard_normal(shape)).astype(np.float32) for shape in shapes]


def labels_with(values: list[int], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).choice(values, (IMAGES, *SIZE)).astype(np.int32)


def part_of(values: list[np.ndarray], images: slice) -> tuple[TrainingOutputs, list[jt.Var]]:
    """Model outputs of some images, and those of the Vars that a gradient must reach."""
    variables = [jt.array(value[images]) for value in values]
    return TrainingOutputs(*variables), [variables[0], variables[1], variables[3]]


def halves() -> list[slice]:
    return [slice(0, IMAGES // 2), slice(IMAGES // 2, IMAGES)]


def test_total_is_the_weighted_sum() -> None:
    labels = labels_with([0, 1, 4, IGNORED], seed=0)
    outputs, _ = part_of(arrays(0), slice(None))
    loss = SegmentationLoss(CONFIG)
    sums = loss.sums(outputs, labels, SIZE)
    logits = resize_bilinear(outputs.logits_grid, SIZE)
    focal, dice = (f(logits, jt.array(labels)).item() / count_masks(labels) for f in (focal_sum, dice_sum))
    terms = {name: term.item() for name, term in loss.terms(sums, count_masks(labels)).items()}
    assert terms["mask"] == pytest.approx(20 * focal, rel=1e-6)
    assert terms["dice"] == pytest.approx(3 * dice, rel=1e-6)
    assert terms["recovery_q"] == pytest.approx(7 * sums.recovery_q.item(), rel=1e-6)
    assert loss.total(sums, count_masks(labels)).item() == pytest.approx(sum(terms.values()), rel=1e-6)
    assert sums.num_masks.item() == count_masks(labels) == 3 * IMAGES
    np.testing.assert_array_equal(sums.labels.numpy(), labels)


def test_micro_batches_add_up_to_the_batch() -> None:
    """Also where the halves hold different numbers of masks."""
    values, labels = arrays(1), labels_with([0, 1, 2, 3, 4, IGNORED], seed=1)
    labels[: IMAGES // 2] = np.where(labels[: IMAGES // 2] > 0, IGNORED, 0)
    num_masks = count_masks(labels)
    loss = SegmentationLoss(CONFIG)
    outputs, variables = part_of(values, slice(None))
    total = loss.total(loss.sums(outputs, labels, SIZE), num_masks)
    whole = [gradient.numpy() for gradient in jt.grad(total, variables)]
    added = 0.0
    for images in halves():
        outputs, variables = part_of(values, images)
        part = loss.total(loss.sums(outputs, labels[images], SIZE), num_masks, share=0.5)
        added += part.item()
        for gradient, expected in zip(jt.grad(part, variables), whole, strict=True):
            np.testing.assert_allclose(
                gradient.numpy(), expected[images], rtol=1e-5, atol=1e-6 * np.abs(expected).max()
            )
    assert added == pytest.approx(total.item(), rel=1e-6)


def test_self_training_parts_divided_afterwards_equal_the_batch() -> None:
    """With pseudo labels the number of masks is known only after the last micro-batch."""
    values, labels = arrays(2), labels_with([0, 1, UNSEEN_PIXEL, IGNORED], seed=2)
    loss = SegmentationLoss(CONFIG, unseen=(2, 3, 4))
    outputs, variables = part_of(values, slice(None))
    sums = loss.sums(outputs, labels, SIZE)
    total = loss.total(sums, sums.num_masks)
    (whole,) = jt.grad(total, variables[:1])
    assert sums.num_masks.item() == count_masks(sums.labels.numpy()) > count_masks(labels)
    num_masks, mask_parts, recovery = 0.0, [], 0.0
    for images in halves():
        outputs, variables = part_of(values, images)
        sums = loss.sums(outputs, labels[images], SIZE)
        num_masks += sums.num_masks.item()
        recovery += loss.recovery_part(sums, share=0.5).item()
        part = loss.mask_part(sums)
        mask_parts.append((part.item(), jt.grad(part, variables[:1])[0].numpy()))
    assert sum(value for value, _ in mask_parts) / num_masks + recovery == pytest.approx(total.item(), rel=1e-6)
    gradient = np.concatenate([gradient for _, gradient in mask_parts]) / num_masks
    np.testing.assert_allclose(gradient, whole.numpy(), rtol=1e-5, atol=1e-6 * np.abs(gradient).max())


def test_number_of_masks_is_at_least_one() -> None:
    outputs, _ = part_of(arrays(3), slice(None))
    loss = SegmentationLoss(CONFIG)
    sums: LossSums = loss.sums(outputs, labels_with([IGNORED], seed=3), SIZE)
    assert sums.num_masks.item() == 0
    expected = loss.total(sums, 1).item()
    assert np.isfinite(expected)
    assert loss.total(sums, 0).item() == loss.total(sums, sums.num_masks).item() == expected


def test_recovery_weight_zero_leaves_zero_gradients() -> None:
    outputs, variables = part_of(arrays(4), slice(None))
    loss = SegmentationLoss(LossConfig(recovery=0.0))
    sums = loss.sums(outputs, labels_with([0, 1], seed=4), SIZE)
    for gradient in jt.grad(loss.total(sums, sums.num_masks), variables[1:]):
        assert not gradient.numpy().any()
