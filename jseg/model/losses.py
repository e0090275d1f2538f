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
from jseg.ops.bilinear import interpolation_taps, resize_bilinear
from jseg.ops.device import constant, join
from jseg.ops.function import Function

RECOVERY_BLOCKS = 512  # of threads, on CUDA, for each of the two means


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


def mask_sums(logits: jt.Var, labels: jt.Var, alpha: float, gamma: float) -> tuple[jt.Var, ...]:
    """Sums over (image, class) pairs, (1,) float32: focal loss, dice loss of present pairs, number of these.

    Logits (B, C, h, w) are resized, bilinear, to labels (B, H, W) int32, which outside of 0..C-1 are negatives of every
    class. Of a pair, dice loss (Milletari et al., "V-Net", 3DV 2016) is `1 - (2 * overlap + 1) / (area + area + 1)`,
    focal loss (Lin et al., ICCV 2017) the mean over pixels of `weight * softplus(z) * sigmoid(z)^gamma`, z = -x on its
    pixels and x elsewhere. Gradients are written out: digits remain where the sigmoid is all but 0 or 1.
    """
    if not compiled.compiled(cuda=True):  # the kernels resize on the fly
        logits = resize_bilinear(logits, labels.shape[1:])
    return _MaskSums.apply(logits, labels, alpha, gamma)


def _call(function: str, inputs: list[jt.Var], shapes: list, numbers: dict[str, float]) -> list[jt.Var]:
    return compiled.call("losses.h", function, inputs, shapes, numbers, None, ("losses.cuh", function))


class _MaskSums(Function):
    def execute(self, logits: jt.Var, labels: jt.Var, alpha: float, gamma: float) -> tuple[jt.Var, ...]:
        self.inputs, self.alpha, self.gamma = [logits, labels], alpha, gamma
        (*pairs, h, w), (height, width) = logits.shape, labels.shape[1:]
        names = ("images", "classes", "grid_height", "grid_width", "height", "width", "alpha", "gamma")
        self.numbers = dict(zip(names, (*logits.shape, height, width, alpha, gamma), strict=True))
        if compiled.compiled(cuda=True):
            self.inputs += [constant(interpolation_taps, *sides) for sides in ((h, height), (w, width))]
            shapes = [(1,), (1,), (1,), (*pairs, 2), (*pairs, 4)]
            focal, dice, masks, slopes, _ = _call("mask_sums", self.inputs, shapes, self.numbers)
            self.inputs.append(slopes)
            return focal, dice, masks
        target, sign, error, cost, weight, _ = self._pixel_terms()
        focal = (weight * cost).sum(dim=3).sum() / (height * width)  # along rows, then the rest: keeps digits
        probability = (target + sign * error).stop_fuse()  # read twice: stored, not computed twice
        overlap, predicted, labelled = (x.sum(dim=3).sum(dim=2) for x in (probability * target, probability, target))
        present, area, overlap = (labelled > 0).float32(), predicted + labelled + 1, 2 * overlap + 1
        self.inputs += [present * overlap / (area * area), present * 2 / area]
        return focal, (present * (1 - overlap / area)).sum(), present.sum()

    def grad(self, grad_focal: jt.Var | None, grad_dice: jt.Var | None, _: jt.Var | None) -> tuple[jt.Var | None, ...]:
        sums = [jt.zeros(1) if x is None else x for x in (grad_focal, grad_dice)]
        if compiled.compiled(cuda=True):
            (grad,) = _call("mask_gradient", [*self.inputs, *sums], [self.inputs[0].shape], self.numbers)
            return grad, None, None, None
        target, sign, error, cost, weight, decay = self._pixel_terms()
        slope = weight * (error + self.gamma * (1 - error) * cost)
        outside, inside = (x.unsqueeze(2).unsqueeze(3) for x in self.inputs[2:])
        of_dice = sums[1] * (outside - inside * target) * decay / ((1 + decay) * (1 + decay))
        return sign * slope * (sums[0] / (self.numbers["height"] * self.numbers["width"])) + of_dice, None, None, None

    def _pixel_terms(self) -> tuple[jt.Var, ...]:
        """Target, dz/dx, 1 - p of the truth, cross-entropy and its weight, exp(-|x|), (B, C, H, W) each."""
        logits, labels = self.inputs[:2]
        target = class_masks(labels, logits.shape[1])
        sign, decay = 1 - 2 * target, jt.exp(-jt.abs(logits))
        # the sigmoid of z; Jittor's own never falls below 9e-14. maximum() spares a slow branch
        error = jt.maximum(decay, (logits * sign >= 0).float32()) / (1 + decay)
        cost = jt.maximum(logits * sign, 0) + jt.log(1 + decay)
        weight = (1 - self.alpha) + (2 * self.alpha - 1) * target
        # 0 to the power of 0 is NaN with CUDA's fast math
        return target, sign, error, cost, weight * jt.pow(error, self.gamma) if self.gamma else weight, decay


def recovery_loss(outputs: TrainingOutputs) -> tuple[jt.Var, jt.Var]:
    """Mean absolute error of the recovered class queries, and that of the recovered pixels, (1,) float32 each."""
    pairs = outputs.recovered_queries, outputs.query_targets, outputs.recovered_pixels, outputs.pixel_targets
    if jt.flags.use_cuda and compiled.compiled(cuda=True):
        return _Recovery.apply(*pairs)
    differences = pairs[0] - pairs[1].detach(), pairs[2] - pairs[3].detach()
    # times the sign: jt.abs has slope 1 at 0, the loss has 0
    return tuple((x * ((x > 0).float32() - (x < 0).float32())).mean() for x in differences)


class _Recovery(Function):
    """`recovery_loss` by its CUDA kernels, which take both pairs in one launch."""

    def execute(self, *pairs: jt.Var) -> list[jt.Var]:
        self.pairs, (size, _, other_size, _) = list(pairs), (x.numel() for x in pairs)
        self.numbers = {"size": size, "other_size": other_size, "blocks": RECOVERY_BLOCKS}
        return _call("recovery", self.pairs, [(1,), (1,), (2, RECOVERY_BLOCKS)], self.numbers)[:2]

    def grad(self, *of_means: jt.Var | None) -> tuple[jt.Var | None, ...]:
        inputs = [*self.pairs, *(jt.zeros(1) if x is None else x for x in of_means)]
        of_queries, of_pixels = _call("recovery_gradient", inputs, [x.shape for x in self.pairs[::2]], self.numbers)
        return of_queries, None, of_pixels, None


def pseudo_labels(logits: jt.Var, labels: jt.Var, unseen: Sequence[int]) -> jt.Var:
    """Labels (B, H, W) int32 with -1 replaced by the unseen class whose logits (B, C, h, w) have the largest sigmoid.

    CVPR 2024, section 4.1. Logits are resized, bilinear, to (H, W). Equal sigmoids go to the lowest class id; those of
    all float32 logits above 17 are 1.
    """
    ids = constant(np.int32, tuple(sorted(unseen)))
    with jt.no_grad():
        unseen_logits = resize_bilinear(logits.detach()[:, ids], labels.shape[1:])
        # sigmoid = 1 / denominator: the smallest wins, without the division, which fast-math kernels round wrongly
        denominator = (1 + jt.exp(jt.minimum(-unseen_logits, 88.72))).stop_fuse()  # exp() of more overflows
        candidates = ids.reshape(1, -1, 1, 1).broadcast(denominator.shape)  # Jittor's argmin would run on a CPU
        winners = jt.ternary(denominator > denominator.min(1, keepdims=True), max(unseen), candidates).min(1)
        return jt.ternary(labels == UNSEEN_PIXEL, winners, labels)


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
        with jt.no_grad():  # so that it is fused
            values = join([self.focal, self.dice, self.recovery_q, self.recovery_v, self.num_masks], 0)
            return (values * constant(np.float32, (1, 1, share, share, 1))).float64()


class SegmentationLoss:
    """Turns model outputs and labels into the loss; `unseen`: ids of the classes that are -1 in the labels."""

    def __init__(self, config: LossConfig, unseen: Sequence[int] = ()) -> None:
        self.config, self.unseen = config, tuple(unseen)

    def sums(self, outputs: TrainingOutputs, labels: jt.Var | np.ndarray) -> LossSums:
        """The parts for integer labels (B, H, W) in 0..C-1, 255 = ignored, -1 = some unseen class."""
        labels = (labels if isinstance(labels, jt.Var) else jt.array(labels)).int32()
        if self.unseen:
            labels = pseudo_labels(outputs.logits_grid, labels, self.unseen)
        # without weight the recovery decoder is not computed at all
        recovery_q, recovery_v = recovery_loss(outputs) if self.config.recovery else (jt.zeros(1), jt.zeros(1))
        alpha, gamma = self.config.focal_alpha, self.config.focal_gamma
        focal, dice, num_masks = mask_sums(outputs.logits_grid, labels, alpha, gamma)
        return LossSums(focal, dice, recovery_q, recovery_v, num_masks.stop_grad(), labels)

    def total(self, sums: LossSums, num_masks: jt.Var | float, share: float = 1.0) -> jt.Var:
        """(4,), whose sum is the loss of a micro-batch with this share of the images; `num_masks` counts as >= 1."""
        ones, recovery = constant(np.float32, (1, 1, 1, 1)), self.config.recovery * share
        masks = jt.maximum(num_masks, ones) if isinstance(num_masks, jt.Var) else max(num_masks, 1)
        weights = constant(np.float32, (self.config.mask, self.config.dice, 0, 0)) / masks
        terms = join([sums.focal, sums.dice, sums.recovery_q, sums.recovery_v], 0)  # few launches for few numbers
        return terms * (weights + constant(np.float32, (0, 0, recovery, recovery)))

    def values(self, sums: np.ndarray) -> dict[str, float]:
        """The weighted terms, and `total`, of what `LossSums.joined` gives for a whole batch."""
        mask, dice, recovery, masks = self.config.mask, self.config.dice, self.config.recovery, max(sums[4], 1)
        weighted = sums[:4] * (mask, dice, recovery, recovery) / (masks, masks, 1, 1)
        terms = dict(zip(("mask", "dice", "recovery_q", "recovery_v"), weighted.tolist(), strict=True))
        return terms | {"total": sum(terms.values())}

    def apart(self, sums: LossSums, share: float = 1.0) -> list[jt.Var]:
        """The terms that are divided by the number of masks, before that, and the others."""
        mask_terms = self.config.mask * sums.focal + self.config.dice * sums.dice
        return [mask_terms, self.config.recovery * share * (sums.recovery_q + sums.recovery_v)]
