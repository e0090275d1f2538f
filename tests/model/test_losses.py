"""The losses against PyTorch and the releases' own numbers, forward and gradient; micro-batches; pseudo labels."""

import jittor as jt
import numpy as np
import pytest
import torch

from jseg.config import LossConfig
from jseg.data.class_names import IGNORED, UNSEEN_PIXEL
from jseg.model.losses import SegmentationLoss, TrainingOutputs, count_masks, mask_sums, pseudo_labels, recovery_loss
from jseg.ops.bilinear import resize_bilinear

functional = torch.nn.functional


def torch_masks(labels: np.ndarray, num_classes: int) -> torch.Tensor:
    return (torch.from_numpy(labels)[:, None] == torch.arange(num_classes).view(1, -1, 1, 1)).double()


def torch_focal(logits: torch.Tensor, labels: np.ndarray, alpha: float, gamma: float) -> torch.Tensor:
    """Written from the paper's definition, in float64."""
    target = torch_masks(labels, logits.shape[1])
    error = torch.where(target > 0, torch.sigmoid(-logits), torch.sigmoid(logits))
    cost = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    weight = torch.where(target > 0, alpha, 1 - alpha)
    return (weight * error**gamma * cost).mean(dim=(2, 3)).sum()


def torch_dice(logits: torch.Tensor, labels: np.ndarray) -> torch.Tensor:
    target = torch_masks(labels, logits.shape[1])
    probability = torch.sigmoid(logits)
    overlap, area = (probability * target).sum((2, 3)), (probability + target).sum((2, 3))
    return (1 - (2 * overlap + 1) / (area + 1))[target.sum((2, 3)) > 0].sum()


def check(ours: jt.Var, logits: jt.Var, theirs: torch.Tensor, torch_logits: torch.Tensor) -> None:
    """Same value and same gradient."""
    np.testing.assert_allclose(ours.item(), theirs.item(), rtol=1e-5, atol=1e-12)
    gradient = jt.grad(ours, logits).numpy()
    (expected,) = torch.autograd.grad(theirs, torch_logits)
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(gradient, expected.numpy(), rtol=0, atol=1e-5 * float(expected.abs().max()) + 1e-30)


def random_labels(shape: tuple[int, ...], num_classes: int, seed: int) -> np.ndarray:
    labels = np.random.default_rng(seed).integers(0, num_classes + 1, shape).astype(np.int32)
    labels[labels == num_classes] = 255
    return labels


@pytest.mark.parametrize("alpha, gamma", [(0.25, 2.0), (0.6, 1.5), (0.25, 0.0)])
@pytest.mark.parametrize("size", [None, (33, 71), (5, 3)])
@pytest.mark.parametrize("shape", [(2, 5, 16, 20), (1, 3, 7, 5), (3, 1, 1, 2)])
def test_mask_losses_equal_torch(
    shape: tuple[int, int, int, int], size: tuple[int, int] | None, alpha: float, gamma: float
) -> None:
    """Also where logits are resized, up and down."""
    values, size = (5 * np.random.default_rng(1).standard_normal(shape)).astype(np.float32), size or shape[2:]
    labels = random_labels((shape[0], *size), shape[1], seed=2)
    labels[0], labels[-1, 0] = 0, -1  # all other classes absent from this image
    logits, reference = jt.array(values), torch.tensor(values, dtype=torch.float64, requires_grad=True)
    focal, dice, masks = mask_sums(logits, jt.array(labels), alpha, gamma)
    resized = functional.interpolate(reference, size, mode="bilinear", align_corners=False)
    check(focal, logits, torch_focal(resized, labels, alpha, gamma), reference)
    check(dice, logits, torch_dice(resized, labels), reference)
    present = (torch_masks(labels, shape[1]).sum((2, 3)) > 0).sum()
    assert masks.item() == count_masks(jt.array(labels), shape[1]).item() == present


@pytest.mark.parametrize("magnitude", [0.0, 20.0, 90.0, 1000.0])
def test_extreme_logits(magnitude: float) -> None:
    """No overflow, and the right gradient, where every logit is +-magnitude (0: where slopes change side)."""
    rng = np.random.default_rng(5)
    values = (magnitude * rng.choice([-1, 1], (2, 4, 8, 9))).astype(np.float32)
    labels = random_labels((2, 8, 9), 4, seed=6)
    logits, reference = jt.array(values), torch.tensor(values, dtype=torch.float64, requires_grad=True)
    focal, dice, _ = mask_sums(logits, jt.array(labels), 0.25, 2.0)
    check(focal, logits, torch_focal(reference, labels, 0.25, 2), reference)
    check(dice, logits, torch_dice(reference, labels), reference)


def test_recovery_loss_and_its_gradient() -> None:
    rng = np.random.default_rng(0)
    shapes = [(2, 6, 8), (2, 6, 8), (2, 9, 4), (2, 9, 4)]
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    arrays[0][0, 0, 0] = arrays[1][0, 0, 0]  # slope 0 where nothing is missing
    variables = [jt.array(value) for value in arrays]
    losses = recovery_loss(TrainingOutputs(jt.zeros(1), *variables))
    for loss, i in zip(losses, (0, 2), strict=True):
        difference = arrays[i] - arrays[i + 1]
        np.testing.assert_allclose(loss.item(), np.abs(difference).mean(), rtol=1e-6)
        gradients = [x.numpy() for x in jt.grad(loss, variables[i : i + 2])]
        np.testing.assert_allclose(gradients[0], np.sign(difference) / difference.size, rtol=1e-6)
        assert not gradients[1].any()


@pytest.mark.parametrize("scale", [1.0, 6.0, 15.0, 40.0, 1000.0])
def test_equals_the_argmax_of_float32_sigmoids(scale: float) -> None:
    """Also where sigmoids are equal though logits are not."""
    logits = (scale * np.random.default_rng(1).standard_normal((2, 7, 40, 50))).astype(np.float32)
    logits[(logits < -87) & (logits > -104)] = 0  # subnormal sigmoids: the process's flags decide whether they are 0
    labels = np.random.default_rng(2).choice([0, 2, 3, UNSEEN_PIXEL, IGNORED], (2, 40, 50)).astype(np.int32)
    unseen = np.array([1, 4, 5, 6])
    scores = torch.sigmoid(torch.from_numpy(logits)).numpy()[:, unseen]
    expected = np.where(labels == UNSEEN_PIXEL, unseen[scores.argmax(axis=1)], labels)
    np.testing.assert_array_equal(pseudo_labels(jt.array(logits), jt.array(labels), unseen).numpy(), expected)


def test_equal_sigmoids_go_to_the_lowest_class() -> None:
    """All of 17..40 have sigmoid 1 in float32, and those near 12 share one value below it."""
    columns = [[17.4, 40.0, 30.0], [12.01, 12.012, 12.011], [5.0, 5.1, 5.0], [-200.0, -150.0, -120.0]]
    logits = np.array(columns, np.float32).T.reshape(1, 3, 1, 4)
    labels = np.full((1, 1, 4), UNSEEN_PIXEL, np.int32)
    assert torch.sigmoid(torch.tensor([12.01, 12.012])).unique().numel() == 1
    for unseen in ([0, 1, 2], [2, 1, 0]):
        assert pseudo_labels(jt.array(logits), jt.array(labels), unseen).numpy().tolist() == [[[0, 0, 1, 0]]]


@pytest.fixture
def outputs() -> TrainingOutputs:
    generator = np.random.default_rng(0)
    shapes = [(4, 5, 4, 6), (4, 10, 8), (4, 10, 8), (4, 24, 4), (4, 24, 4)]
    return TrainingOutputs(*(jt.array((3 * generator.standard_normal(shape)).astype(np.float32)) for shape in shapes))


def test_total_is_the_weighted_sum(outputs: TrainingOutputs) -> None:
    labels = np.random.default_rng(1).choice([0, 1, 4, IGNORED], (4, 16, 24)).astype(np.int32)
    loss = SegmentationLoss(LossConfig(mask=20.0, dice=3.0, recovery=7.0))
    sums, masks = loss.sums(outputs, labels), count_masks(jt.array(labels), 5).item()
    logits = resize_bilinear(outputs.logits_grid, (16, 24))
    focal, dice = (x.item() / masks for x in mask_sums(logits, jt.array(labels), 0.25, 2.0)[:2])
    recovery = [term.item() for term in recovery_loss(outputs)]
    expected = {"mask": 20 * focal, "dice": 3 * dice, "recovery_q": 7 * recovery[0], "recovery_v": 7 * recovery[1]}
    expected["total"] = sum(expected.values())
    assert loss.values(sums.joined().numpy()) == pytest.approx(expected, rel=1e-6)
    assert loss.total(sums, masks).sum().item() == pytest.approx(expected["total"], rel=1e-6)
    of_masks, others = loss.apart(sums)
    assert (of_masks / masks + others).item() == pytest.approx(expected["total"])
    assert sums.num_masks.item() == masks == 3 * 4
    np.testing.assert_array_equal(sums.labels.numpy(), labels)
