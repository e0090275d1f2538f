"""The loss that CLIP-RC is trained on: focal and dice on one mask per class, and recovery.

`mask * focal + dice * dice + recovery * (L1 of queries + L1 of pixels)`: CLIP-RC, CVPR 2024, section 3.5. Focal and
dice are sums until they are divided by the number of masks in the batch: those of micro-batches add up exactly.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jittor as jt
import numpy as np

from jseg.config import LossConfig
from jseg.data.class_names import UNSEEN_PIXEL
from jseg.ops import compiled
from jseg.ops.bilinear import resize_bilinear
from jseg.ops.function import Function


@dataclass
class TrainingOutputs:
    """The model's outputs in training; targets carry no gradient."""

    logits_grid: jt.Var  # (B, C, h, w) on the patch grid
    recovered_queries: jt.Var  # (B, M * C, 2D)
    query_targets: jt.Var  # (B, M * C, 2D)
    recovered_pixels: jt.Var  # (B, N, D)
    pixel_targets: jt.Var  # (B, N, D)


def class_masks(labels: jt.Var, num_classes: int) -> jt.Var:
    """Labels (B, H, W) -> (B, C, H, W) float32: 1 where a pixel is of a class; never stored, as Jittor fuses it."""
    classes = jt.arange(num_classes).reshape(1, num_classes, 1, 1)
    return (labels.unsqueeze(1) == classes).float32()


def count_masks(labels: jt.Var, num_classes: int) -> jt.Var:
    """(1,) float32 number of (image, class) pairs that are present in labels (B, H, W)."""
    return class_masks(labels, num_classes).max(dim=3).max(dim=2).sum().stop_grad()


def _call(function: str, logits: jt.Var, inputs: list[jt.Var], shape: tuple[int, ...], **settings: float) -> jt.Var:
    """Runs a function of jseg/ops/kernels/losses.h, on CUDA losses.cuh."""
    images, classes, height, width = logits.shape
    numbers = {"images": images, "classes": classes, "pixels": height * width, **settings}
    return compiled.call("losses.h", function, [logits, *inputs], [shape], numbers, None, ("losses.cuh", function))[0]


def sigmoid_parts(x: jt.Var) -> tuple[jt.Var, jt.Var]:
    """`(exp(-|x|), sigmoid(x))`, exact to rounding; Jittor's own sigmoid never falls below 9e-14."""
    decay = jt.exp(-jt.abs(x))
    # exp(min(x, 0)) is 1 for x >= 0 and `decay`, never above 1, otherwise: maximum() spares a slow branch
    return decay, jt.maximum(decay, (x >= 0).float32()) / (1 + decay)


class _FocalSum(Function):
    """With z = -x on a class's pixels and z = x elsewhere, a pixel costs `weight * softplus(z) * sigmoid(z)^gamma`."""

    def execute(self, logits: jt.Var, labels: jt.Var, alpha: float, gamma: float) -> jt.Var:
        self.inputs = logits, labels, alpha, gamma
        if compiled.compiled(cuda=True):
            sums = _call("focal_forward", logits, [labels], logits.shape[:2], alpha=alpha, gamma=gamma)
        else:
            _, error, cost, weight = _pixel_terms(logits, labels, alpha)
            sums = (weight * cost * _power(error, gamma)).sum(dim=3)  # along rows, then the rest: keeps digits
        return sums.sum() / (logits.shape[2] * logits.shape[3])

    def grad(self, grad_sum: jt.Var) -> tuple[jt.Var, None, None, None]:
        logits, labels, alpha, gamma = self.inputs
        if compiled.compiled(cuda=True):
            grad = _call("focal_backward", logits, [labels, grad_sum], logits.shape, alpha=alpha, gamma=gamma)
            return grad, None, None, None
        sign, error, cost, weight = _pixel_terms(logits, labels, alpha)
        slope = weight * _power(error, gamma) * (error + gamma * (1 - error) * cost)
        return sign * slope * (grad_sum / (logits.shape[2] * logits.shape[3])), None, None, None


def _power(error: jt.Var, gamma: float) -> jt.Var | float:
    return jt.pow(error, gamma) if gamma else 1.0  # 0 to the power of 0 is NaN with CUDA's fast math


def _pixel_terms(logits: jt.Var, labels: jt.Var, alpha: float) -> tuple[jt.Var, jt.Var, jt.Var, jt.Var]:
    """Sign of dz/dx, 1 - p of the truth, cross-entropy and class weight of every pixel and class, (B, C, H, W) each."""
    target = class_masks(labels, logits.shape[1])
    sign = 1 - 2 * target
    z = logits * sign
    decay, error = sigmoid_parts(z)
    cost = jt.maximum(z, 0) + jt.log(1 + decay)
    return sign, error, cost, (1 - alpha) + (2 * alpha - 1) * target


def focal_sum(logits: jt.Var, labels: jt.Var, alpha: float = 0.25, gamma: float = 2.0) -> jt.Var:
    """Sum over images and classes of the mean over pixels of the focal loss (Lin et al., ICCV 2017), (1,) float32.

    Logits (B, C, H, W) float32; labels (B, H, W) int32: a value outside 0..C-1 is a negative of every class.
    """
    return _FocalSum.apply(logits, labels, alpha, gamma)


class _DiceSum(Function):
    """Dice loss with its gradient written out, so that it keeps its digits where the sigmoid is all but 0 or 1."""

    def execute(self, logits: jt.Var, labels: jt.Var) -> jt.Var:
        if compiled.compiled(cuda=True):
            sums = _call("dice_forward", logits, [labels], (*logits.shape[:2], 3))
            overlap, predicted, labelled = (sums[:, :, index] for index in range(3))  # (B, C) each
        else:
            target = class_masks(labels, logits.shape[1])
            probability = sigmoid_parts(logits)[1].stop_fuse()  # read twice: stored, not computed twice
            maps = probability * target, probability, target
            overlap, predicted, labelled = (x.sum(dim=3).sum(dim=2) for x in maps)  # in two steps, as above
        present, area = (labelled > 0).float32(), predicted + labelled + 1
        self.saved = logits, labels, present, overlap, area
        return (present * (1 - (2 * overlap + 1) / area)).sum()

    def grad(self, grad_sum: jt.Var) -> tuple[jt.Var, None]:
        logits, labels, *pairs = self.saved
        present, overlap, area = (x.unsqueeze(2).unsqueeze(3) for x in pairs)
        if compiled.compiled(cuda=True):
            outside, inside = grad_sum * present * (2 * overlap + 1) / (area * area), grad_sum * present * 2 / area
            slopes = jt.concat([outside, inside], dim=3)
            return _call("dice_backward", logits, [labels, slopes], logits.shape), None
        decay, _ = sigmoid_parts(logits)
        sigmoid_slope = decay / ((1 + decay) * (1 + decay))
        by_probability = ((2 * overlap + 1) / area - 2 * class_masks(labels, logits.shape[1])) / area
        return grad_sum * present * by_probability * sigmoid_slope, None


def dice_sum(logits: jt.Var, labels: jt.Var) -> jt.Var:
    """Sum of `1 - (2 * overlap + 1) / (area + area + 1)` over the present (image, class) pairs, (1,) float32.

    Milletari et al., "V-Net", 3DV 2016. Arguments as for `focal_sum`; ignored pixels count as background.
    """
    return _DiceSum.apply(logits, labels)


def recovery_loss(outputs: TrainingOutputs) -> tuple[jt.Var, jt.Var]:
    """Mean absolute error of the recovered class queries, and that of the recovered pixels, (1,) float32 each."""
    queries = outputs.recovered_queries - outputs.query_targets.detach()
    pixels = outputs.recovered_pixels - outputs.pixel_targets.detach()
    # times the sign: jt.abs has slope 1 at 0, the loss has 0
    return tuple((x * ((x > 0).float32() - (x < 0).float32())).mean() for x in (queries, pixels))


def pseudo_labels(logits: jt.Var, labels: jt.Var, unseen: Sequence[int]) -> jt.Var:
    """Labels (B, H, W) int32 with -1 replaced by the unseen class whose logits (B, C, H, W) have the largest sigmoid.

    CVPR 2024, section 4.1. Equal sigmoids go to the lowest class id; in float32 all logits above 17 have sigmoid 1.
    """
    ids = jt.array(np.array(sorted(unseen), dtype=np.int32))
    with jt.no_grad():
        unseen_logits = logits.detach()[:, ids]
        # sigmoid = 1 / denominator: the smallest wins, without the division, which fast-math kernels round wrongly
        denominator = 1 + jt.exp(jt.minimum(-unseen_logits, 88.72))  # exp() of more overflows
        winner, _ = jt.argmin(denominator.stop_fuse(), dim=1)  # the first of equals
        return jt.ternary(labels == UNSEEN_PIXEL, ids[winner], labels)


@dataclass
class LossSums:
    """The parts of the loss of one (micro-)batch, unweighted; every Var is (1,) float32."""

    focal: jt.Var  # sum over (image, class) pairs
    dice: jt.Var  # sum over the present (image, class) pairs
    recovery_q: jt.Var  # mean over the elements of this batch; 0 where the term has no weight
    recovery_v: jt.Var
    num_masks: jt.Var  # present (image, class) pairs, pseudo labels counted; may be 0
    labels: jt.Var | None = None  # (B, H, W) int32, as used: pseudo labels filled in

    def joined(self, share: float = 1.0) -> jt.Var:
        """focal, dice, recovery_q, recovery_v (both times `share`) and num_masks, (5,) float64 without a gradient."""
        values = self.focal, self.dice, self.recovery_q * share, self.recovery_v * share, self.num_masks
        return sum(x.float64().reindex((5,), [f"i0-{place}"]) for place, x in enumerate(values)).stop_grad()


class SegmentationLoss:
    """Turns model outputs and labels into the loss; `unseen`: ids of the classes that are -1 in the labels."""

    def __init__(self, config: LossConfig, unseen: Sequence[int] = ()) -> None:
        self.config, self.unseen = config, tuple(unseen)

    def sums(self, outputs: TrainingOutputs, labels: jt.Var | np.ndarray, size: tuple[int, int]) -> LossSums:
        """The parts for integer labels (B, H, W) in 0..C-1, 255 = ignored, -1 = some unseen class; size = (H, W)."""
        logits = resize_bilinear(outputs.logits_grid, size)
        labels = (labels if isinstance(labels, jt.Var) else jt.array(labels)).int32()
        if self.unseen:
            labels = pseudo_labels(logits, labels, self.unseen)
        # without weight the recovery decoder is not computed at all
        recovery_q, recovery_v = recovery_loss(outputs) if self.config.recovery else (jt.zeros(1), jt.zeros(1))
        focal = focal_sum(logits, labels, self.config.focal_alpha, self.config.focal_gamma)
        num_masks = count_masks(labels, logits.shape[1])
        return LossSums(focal, dice_sum(logits, labels), recovery_q, recovery_v, num_masks, labels)

    def terms(self, sums: LossSums, num_masks: jt.Var | float, share: float = 1.0) -> dict[str, jt.Var]:
        """Weighted terms of a micro-batch with this share of the images; `num_masks` of the batch counts as >= 1."""
        masks = jt.maximum(num_masks, 1) if isinstance(num_masks, jt.Var) else max(num_masks, 1)
        recovery = self.config.recovery * share
        terms = {"mask": self.config.mask * sums.focal / masks, "dice": self.config.dice * sums.dice / masks}
        return terms | {"recovery_q": recovery * sums.recovery_q, "recovery_v": recovery * sums.recovery_v}

    def total(self, sums: LossSums, num_masks: jt.Var | float, share: float = 1.0) -> jt.Var:
        """The loss; arguments as for `terms`."""
        return sum(self.terms(sums, num_masks, share).values())

    def values(self, sums: np.ndarray) -> dict[str, float]:
        """The weighted terms, and `total`, of what `LossSums.joined` gives for a whole batch."""
        terms = self.terms(LossSums(*sums.tolist()), float(sums[4]))
        return terms | {"total": sum(terms.values())}

    def mask_part(self, sums: LossSums) -> jt.Var:
        """The terms that are divided by the number of masks, before it: known only after the last micro-batch."""
        return self.config.mask * sums.focal + self.config.dice * sums.dice

    def recovery_part(self, sums: LossSums, share: float = 1.0) -> jt.Var:
        """The rest of the loss: `total = mask_part / max(num_masks, 1) + recovery_part`."""
        return self.config.recovery * share * (sums.recovery_q + sums.recovery_v)
