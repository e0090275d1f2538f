"""Focal and dice sums against the released losses' own numbers and against PyTorch, forward and gradient."""

from __future__ import annotations

import json
from pathlib import Path

import jittor as jt
import numpy as np
import pytest

from jseg.model.losses import class_masks, count_masks, dice_sum, focal_sum, sigmoid_parts

torch = pytest.importorskip("torch")
functional = torch.nn.functional

VALUE_RTOL = 1e-5
GRADIENT_RTOL_OF_MAX = 1e-5


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
    np.testing.assert_allclose(ours.item(), theirs.item(), rtol=VALUE_RTOL, atol=1e-12)
    gradient = jt.grad(ours, logits).numpy()
    (expected,) = torch.autograd.grad(theirs, torch_logits)
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(
        gradient, expected.numpy(), rtol=0, atol=GRADIENT_RTOL_OF_MAX * float(expected.abs().max()) + 1e-30
    )


def random_labels(shape: tuple[int, ...], num_classes: int, seed: int) -> np.ndarray:
    labels = np.random.default_rng(seed).integers(0, num_classes + 1, shape).astype(np.int32)
    labels[labels == num_classes] = 255
    return labels


@pytest.mark.parametrize("alpha, gamma", [(0.25, 2.0), (0.6, 1.5), (0.25, 0.0)])
@pytest.mark.parametrize("shape", [(2, 5, 16, 20), (1, 3, 7, 5), (3, 1, 4, 4)])
def test_focal_equals_torch(shape: tuple[int, int, int, int], alpha: float, gamma: float) -> None:
    values = (5 * np.random.default_rng(1).standard_normal(shape)).astype(np.float32)
    labels = random_labels((shape[0], *shape[2:]), shape[1], seed=2)
    logits, reference = jt.array(values), torch.tensor(values, dtype=torch.float64, requires_grad=True)
    check(
        focal_sum(logits, jt.array(labels), alpha, gamma),
        logits,
        torch_focal(reference, labels, alpha, gamma),
        reference,
    )


@pytest.mark.parametrize("shape", [(2, 5, 16, 20), (1, 3, 7, 5), (3, 1, 4, 4)])
def test_dice_equals_torch(shape: tuple[int, int, int, int]) -> None:
    values = (5 * np.random.default_rng(3).standard_normal(shape)).astype(np.float32)
    labels = random_labels((shape[0], *shape[2:]), shape[1], seed=4)
    labels[0] = 0  # all other classes absent from this image
    logits, reference = jt.array(values), torch.tensor(values, dtype=torch.float64, requires_grad=True)
    check(dice_sum(logits, jt.array(labels)), logits, torch_dice(reference, labels), reference)


@pytest.mark.parametrize("magnitude", [0.0, 20.0, 90.0, 1000.0])
def test_extreme_logits(magnitude: float) -> None:
    """No overflow, and the right gradient, where every logit is +-magnitude (0: where slopes change side)."""
    rng = np.random.default_rng(5)
    values = (magnitude * rng.choice([-1, 1], (2, 4, 8, 9))).astype(np.float32)
    labels = random_labels((2, 8, 9), 4, seed=6)
    logits, reference = jt.array(values), torch.tensor(values, dtype=torch.float64, requires_grad=True)
    check(focal_sum(logits, jt.array(labels)), logits, torch_focal(reference, labels, 0.25, 2), reference)
    check(dice_sum(logits, jt.array(labels)), logits, torch_dice(reference, labels), reference)


def test_a_broken_network_shows_in_the_loss() -> None:
    logits, labels = jt.array(np.full((1, 2, 3, 3), np.nan, np.float32)), jt.zeros((1, 3, 3), dtype="int32")
    assert np.isnan(focal_sum(logits, labels).item())
    assert np.isnan(dice_sum(logits, labels).item())


def test_ignored_pixels_are_negatives_of_every_class() -> None:
    values = np.random.default_rng(7).standard_normal((1, 3, 4, 4)).astype(np.float32)
    ignored = focal_sum(jt.array(values), jt.full((1, 4, 4), 255, dtype="int32")).item()
    outside = focal_sum(jt.array(values), jt.full((1, 4, 4), 3, dtype="int32")).item()
    logits = torch.from_numpy(values).double()
    expected = (0.75 * torch.sigmoid(logits) ** 2 * functional.softplus(logits)).mean((2, 3)).sum().item()
    assert ignored == outside == pytest.approx(expected, rel=VALUE_RTOL)


def test_dice_without_any_class_is_zero_with_zero_gradient() -> None:
    logits = jt.array(np.random.default_rng(8).standard_normal((2, 3, 4, 4)).astype(np.float32))
    loss = dice_sum(logits, jt.full((2, 4, 4), 255, dtype="int32"))
    assert loss.item() == 0
    assert not jt.grad(loss, logits).numpy().any()


def test_gradient_is_scaled_by_what_comes_from_above() -> None:
    labels = jt.array(random_labels((1, 4, 4), 3, seed=9))
    logits = jt.array(np.random.default_rng(9).standard_normal((1, 3, 4, 4)).astype(np.float32))
    for loss in (focal_sum, dice_sum):
        once, thrice = (jt.grad(factor * loss(logits, labels), logits).numpy() for factor in (1, 3))
        np.testing.assert_allclose(thrice, 3 * once, rtol=1e-6)


def test_sigmoid_keeps_its_digits_at_both_ends() -> None:
    x = np.array([-1000, -87, -50, -20, -1, 0, 1, 20, 1000], np.float32)
    _, ours = sigmoid_parts(jt.array(x))
    np.testing.assert_allclose(ours.numpy(), torch.sigmoid(torch.from_numpy(x).double()), rtol=1e-6)


def test_class_masks() -> None:
    labels = np.array([[[0, 2], [255, -1]]], np.int32)
    expected = np.zeros((1, 3, 2, 2), np.float32)
    expected[0, 0, 0, 0] = expected[0, 2, 0, 1] = 1
    np.testing.assert_array_equal(class_masks(jt.array(labels), 3).numpy(), expected)


def test_count_masks() -> None:
    labels = np.full((3, 4, 4), 255, np.int32)
    labels[0, 0] = [0, 1, 1, 170]
    labels[2] = -1
    labels[2, 0, 0] = 0
    assert count_masks(labels) == 4
    assert count_masks(labels[1:2]) == 0


LOSS_KEYS = ("loss_mask", "loss_dice", "grad_loss_mask", "grad_loss_dice")


def golden_cases(golden: Path) -> list[tuple[str, dict]]:
    """Cases of the two releases in one shape: logits, labels, weights, weighted losses and their gradients."""
    cases = []
    for file in sorted(golden.glob("torch_release/losses_only*.npz")):
        with np.load(file) as arrays:
            for case in json.loads(str(arrays["case_names"])):
                values = {key: arrays[f"{case}.{key}"] for key in ("logits", "labels", *LOSS_KEYS)}
                cases.append((f"{file.stem}:{case}", values | {"weights": (1, 1)}))
    for file in sorted(golden.glob("jseg_release/loss_*.npz")):
        with np.load(file) as arrays:
            mask, dice, both = arrays["in/weights"]
            values = {key: arrays[f"out/{key}"] for key in LOSS_KEYS}
            values |= {"logits": arrays["in/pred_masks"], "labels": arrays["in/label"]}
            cases.append((file.stem, values | {"weights": (mask * both, dice * both)}))
    return cases


@pytest.mark.parity
def test_released_losses(golden: Path) -> None:
    cases = golden_cases(golden)
    if not cases:
        pytest.skip("this golden set has no losses")
    for name, case in cases:
        labels = np.asarray(case["labels"], np.int32)
        logits = jt.array(case["logits"])
        resized = jt.nn.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
        for part, weight, loss in zip(("mask", "dice"), case["weights"], (focal_sum, dice_sum), strict=True):
            value = float(weight) * loss(resized, jt.array(labels)) / max(count_masks(labels), 1)
            np.testing.assert_allclose(value.item(), case[f"loss_{part}"], rtol=VALUE_RTOL, err_msg=name)
            expected = case[f"grad_loss_{part}"]
            atol = GRADIENT_RTOL_OF_MAX * np.abs(expected).max()
            np.testing.assert_allclose(jt.grad(value, logits).numpy(), expected, rtol=0, atol=atol, err_msg=name)
