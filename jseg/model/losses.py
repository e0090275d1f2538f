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


def sigmoid_parts(x: jt.Var) -> tuple[jt.Var, jt.Var]:
    """`(exp(-|x|), sigmoid(x))`, exact to rounding; Jittor's own sigmoid never falls below 9e-14."""
    decay = jt.exp(-jt.abs(x))
    # exp(min(x, 0)) is 1 for x >= 0 and `decay`, never above 1, otherwise: maximum() spares a slow branch
    return decay, jt.maximum(decay, (x >= 0).float32()) / (1 + decay)


class _MaskSums(Function):
    """`mask_sums`, with gradients written out, which keep their digits where the sigmoid is all but 0 or 1.

    With z = -x on a class's pixels and z = x elsewhere, a pixel costs `weight * softplus(z) * sigmoid(z)^gamma`.
    """

    def execute(self, logits: jt.Var, labels: jt.Var, alpha: float, gamma: float) -> tuple[jt.Var, jt.Var, jt.Var]:
        (*pairs, height, width), one = logits.shape, (1,)
        self.inputs, self.alpha, self.gamma = [logits, labels], alpha, gamma
        self.numbers = {
            "images": pairs[0],
            "classes": pairs[1],
            "pixels": height * width,
            "alpha": alpha,
            "gamma": gamma,
        }
        if compiled.compiled(cuda=True):
            shapes = [one, one, one, (*pairs, 2), (*pairs, 4)]
            focal, dice, masks, slopes, _ = self.call("mask_sums", self.inputs, shapes)
            self.inputs.append(slopes)
            return focal, dice, masks
        target, _, error, cost, weight = self.pixel_terms()
        focal = (weight * cost * self.power(error)).sum(dim=3).sum() / (
            height * width
        )  # along rows first: keeps digits
        probability = sigmoid_parts(logits)[1].stop_fuse()  # read twice: stored, not computed twice
        overlap, predicted, labelled = (x.sum(dim=3).sum(dim=2) for x in (probability * target, probability, target))
        present, area, overlap = (labelled > 0).float32(), predicted + labelled + 1, 2 * overlap + 1
        self.inputs += [present * overlap / (area * area), present * 2 / area]
        return focal, (present * (1 - overlap / area)).sum(), present.sum()

    def grad(self, grad_focal: jt.Var | None, grad_dice: jt.Var | None, _: jt.Var | None) -> tuple[jt.Var | None, ...]:
        sums = [jt.zeros(1) if x is None else x for x in (grad_focal, grad_dice)]
        if compiled.compiled(cuda=True):
            return self.call("mask_gradient", [*self.inputs, *sums], [self.inputs[0].shape])[0], None, None, None
        target, sign, error, cost, weight = self.pixel_terms()
        slope = weight * self.power(error) * (error + self.gamma * (1 - error) * cost)
        outside, inside = (x.unsqueeze(2).unsqueeze(3) for x in self.inputs[2:])
        decay = sigmoid_parts(self.inputs[0])[0]
        of_dice = sums[1] * (outside - inside * target) * decay / ((1 + decay) * (1 + decay))
        return sign * slope * (sums[0] / self.numbers["pixels"]) + of_dice, None, None, None

    def call(self, function: str, inputs: list[jt.Var], shapes: list[tuple[int, ...]]) -> list[jt.Var]:
        return compiled.call("losses.h", function, inputs, shapes, self.numbers, None, ("losses.cuh", function))

    def power(self, error: jt.Var) -> jt.Var | float:
        return jt.pow(error, self.gamma) if self.gamma else 1.0  # 0 to the power of 0 is NaN with CUDA's fast math

    def pixel_terms(self) -> tuple[jt.Var, jt.Var, jt.Var, jt.Var, jt.Var]:
        """Target, dz/dx, 1 - p of the truth, cross-entropy, class weight of pixels and classes, (B, C, H, W) each."""
        logits, labels = self.inputs[:2]
        target = class_masks(labels, logits.shape[1])
        sign = 1 - 2 * target
        decay, error = sigmoid_parts(logits * sign)
        cost = jt.maximum(logits * sign, 0) + jt.log(1 + decay)
        return target, sign, error, cost, (1 - self.alpha) + (2 * self.alpha - 1) * target


def mask_sums(logits: jt.Var, labels: jt.Var, alpha: float = 0.25, gamma: float = 2.0) -> tuple[jt.Var, jt.Var, jt.Var]:
    """Sums over (image, class) pairs, (1,) float32: focal loss, dice loss of present pairs, number of these.

    Of a pair, focal loss (Lin et al., ICCV 2017) is the mean over pixels, dice loss (Milletari et al., "V-Net", 3DV
    2016) `1 - (2 * overlap + 1) / (area + area + 1)`. Logits (B, C, H, W) float32; labels (B, H, W) int32: a value
    outside 0..C-1 is a negative of every class.
    """
    return _MaskSums.apply(logits, labels, alpha, gamma)


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
        focal, dice, num_masks = mask_sums(logits, labels, self.config.focal_alpha, self.config.focal_gamma)
        return LossSums(focal, dice, recovery_q, recovery_v, num_masks.detach(), labels)

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
