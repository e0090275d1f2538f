"""The loss that CLIP-RC is trained on: focal and dice on one mask per class, and recovery.

`mask * focal + dice * dice + recovery * (L1 of queries + L1 of pixels)`: Zhang et al., "Exploring Regional Clues in
CLIP for Zero-Shot Semantic Segmentation", CVPR 2024, section 3.5. Focal and dice are divided by the number of masks in
the whole batch, so they are kept as sums until that number is known: the sums of micro-batches add up to exactly those
of the batch.

- Focal (Lin et al., ICCV 2017, equation 5): over all classes and pixels; an ignored pixel is a negative of every class.
- Dice (Milletari et al., "V-Net", 3DV 2016), smoothed by 1 as in MaskFormer: on the masks of the present classes.
- Recovery (CVPR 2024, section 3.4): the decoder's input features must be recoverable from its outputs.
- Pseudo labels of the transductive setting (section 4.1): that a pixel is of *some* unseen class comes from the ground
  truth; it gets the best of the unseen classes in the masks of the same forward pass, without teacher or threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jittor as jt
import numpy as np

from jseg.config import LossConfig
from jseg.data.class_names import IGNORED
from jseg.data.label_maps import UNSEEN_PIXEL
from jseg.ops import compiled
from jseg.ops.bilinear import resize_bilinear
from jseg.ops.function import Function

LARGEST_EXPONENT = 88.72  # exp() of more overflows float32; the sigmoid there is 0


@dataclass
class TrainingOutputs:
    """The model's outputs in training. Targets carry no gradient."""

    logits_grid: jt.Var  # (B, C, h, w) on the patch grid
    recovered_queries: jt.Var  # (B, M * C, 2D)
    query_targets: jt.Var  # (B, M * C, 2D)
    recovered_pixels: jt.Var  # (B, N, D)
    pixel_targets: jt.Var  # (B, N, D)


def class_masks(labels: jt.Var, num_classes: int) -> jt.Var:
    """1 where a pixel is of a class, else 0; never stored, as Jittor fuses it into whatever reads it.

    Args:
        labels: (B, H, W) int32; any value outside 0..C-1 (255 = ignored above all) is in no mask.
        num_classes: C.

    Returns:
        (B, C, H, W) float32 in {0, 1}.
    """
    classes = jt.arange(num_classes).reshape(1, num_classes, 1, 1)
    return (labels.unsqueeze(1) == classes).float32()


def count_masks(labels: np.ndarray) -> int:
    """Number of (image, class) pairs that are present in a batch: the divisor of focal and dice sums.

    Args:
        labels: (B, H, W) integers; 255 (ignored) and negative values (classes to be guessed) do not count.
    """
    small = np.asarray(labels).astype(np.int16)  # NumPy sorts these in linear time
    return sum(np.unique(image[(image >= 0) & (image != IGNORED)]).size for image in small)


def _call(function: str, logits: jt.Var, inputs: list[jt.Var], shape: tuple[int, ...], **settings: float) -> jt.Var:
    """Runs a function of jseg/ops/kernels/losses.h on logits (B, C, H, W) and further inputs."""
    images, classes, height, width = logits.shape
    numbers = {"images": images, "classes": classes, "pixels": height * width, **settings}
    return compiled.call("losses.h", function, [logits, *inputs], [shape], numbers)[0]


def sigmoid_parts(x: jt.Var) -> tuple[jt.Var, jt.Var]:
    """`(exp(-|x|), sigmoid(x))`, element-wise; exact to rounding for every finite x.

    Jittor's own sigmoid is clamped: it never falls below 9e-14.
    """
    decay = jt.exp(-jt.abs(x))
    # exp(min(x, 0)) is 1 for x >= 0 and `decay`, never above 1, otherwise: maximum() spares a slow branch
    return decay, jt.maximum(decay, (x >= 0).float32()) / (1 + decay)


class _FocalSum(Function):
    """Focal loss with its gradient written out, so that it is right at zero and at any size of logits.

    With z = -x on the class's own pixels and z = x elsewhere, a pixel costs `weight * softplus(z) * sigmoid(z)^gamma`.
    """

    def execute(self, logits: jt.Var, labels: jt.Var, alpha: float, gamma: float) -> jt.Var:
        self.inputs = logits, labels, alpha, gamma
        height, width = logits.shape[2:]
        if compiled.compiled():
            sums = _call("focal_forward", logits, [labels], logits.shape[:2], alpha=alpha, gamma=gamma)
            return sums.sum() / (height * width)
        _, error, cost, weight = _pixel_terms(logits, labels, alpha)
        rows = (weight * cost * jt.pow(error, gamma)).sum(dim=3)  # summed in two steps: float32 keeps its digits
        return rows.sum() / (height * width)

    def grad(self, grad_sum: jt.Var) -> tuple[jt.Var, None, None, None]:
        logits, labels, alpha, gamma = self.inputs
        if compiled.compiled():
            grad = _call("focal_backward", logits, [labels, grad_sum], logits.shape, alpha=alpha, gamma=gamma)
            return grad, None, None, None
        sign, error, cost, weight = _pixel_terms(logits, labels, alpha)
        height, width = logits.shape[2:]
        slope = weight * jt.pow(error, gamma) * (error + gamma * (1 - error) * cost)
        return sign * slope * (grad_sum / (height * width)), None, None, None


def _pixel_terms(logits: jt.Var, labels: jt.Var, alpha: float) -> tuple[jt.Var, jt.Var, jt.Var, jt.Var]:
    """Sign of dz/dx, 1 - p of the truth, cross-entropy and class weight of every pixel and class, (B, C, H, W) each."""
    target = class_masks(labels, logits.shape[1])
    sign = 1 - 2 * target
    z = logits * sign
    decay, error = sigmoid_parts(z)
    cost = jt.maximum(z, 0) + jt.log(1 + decay)
    return sign, error, cost, (1 - alpha) + (2 * alpha - 1) * target


def focal_sum(logits: jt.Var, labels: jt.Var, alpha: float = 0.25, gamma: float = 2.0) -> jt.Var:
    """Sum over images and classes of the mean focal loss over pixels, not yet divided by the number of masks.

    Args:
        logits: (B, C, H, W) float32, unbounded.
        labels: (B, H, W) int32 in 0..C-1; any other value (255 = ignored) makes the pixel a negative of every class.
        alpha: weight of positives in [0, 1]; negatives weigh `1 - alpha`.
        gamma: focusing exponent >= 0.

    Returns:
        (1,) float32.
    """
    return _FocalSum.apply(logits, labels, alpha, gamma)


class _DiceSum(Function):
    """Dice loss with its gradient written out, so that it keeps its digits where the sigmoid is all but 0 or 1."""

    def execute(self, logits: jt.Var, labels: jt.Var) -> jt.Var:
        overlap, predicted, labelled = _dice_sums(logits, labels)
        present = (labelled > 0).float32()
        area = predicted + labelled + 1
        self.maps = logits, labels
        self.pairs = present, overlap, area
        return (present * (1 - (2 * overlap + 1) / area)).sum()

    def grad(self, grad_sum: jt.Var) -> tuple[jt.Var, None]:
        logits, labels = self.maps
        present, overlap, area = (x.unsqueeze(2).unsqueeze(3) for x in self.pairs)
        if compiled.compiled():
            outside, inside = grad_sum * present * (2 * overlap + 1) / (area * area), grad_sum * present * 2 / area
            slopes = jt.concat([outside, inside], dim=3)
            return _call("dice_backward", logits, [labels, slopes], logits.shape), None
        decay, _ = sigmoid_parts(logits)
        sigmoid_slope = decay / ((1 + decay) * (1 + decay))
        by_probability = ((2 * overlap + 1) / area - 2 * class_masks(labels, logits.shape[1])) / area
        return grad_sum * present * by_probability * sigmoid_slope, None


def _dice_sums(logits: jt.Var, labels: jt.Var) -> tuple[jt.Var, ...]:
    """Overlap of probabilities and mask, sum of probabilities, pixels of the mask: (B, C) each."""
    if compiled.compiled():
        sums = _call("dice_forward", logits, [labels], (*logits.shape[:2], 3))
        return tuple(sums[:, :, index] for index in range(3))
    target = class_masks(labels, logits.shape[1])
    probability = sigmoid_parts(logits)[1].stop_fuse()  # read twice: stored, not computed twice
    # in two steps, so that float32 keeps its digits
    return tuple(maps.sum(dim=3).sum(dim=2) for maps in (probability * target, probability, target))


def dice_sum(logits: jt.Var, labels: jt.Var) -> jt.Var:
    """Sum of `1 - (2 * overlap + 1) / (area + area + 1)` over the (image, class) pairs that are present.

    Not yet divided by the number of masks. Ignored pixels count as background of every present class.

    Args:
        logits: (B, C, H, W) float32, unbounded.
        labels: (B, H, W) int32 in 0..C-1, or 255 = ignored.

    Returns:
        (1,) float32; 0 with zero gradient when no class is present.
    """
    return _DiceSum.apply(logits, labels)


def mean_absolute_error(recovered: jt.Var, target: jt.Var) -> jt.Var:
    """Mean of `|recovered - target|` over all elements, (1,) float32; no gradient reaches `target`."""
    difference = recovered - target.detach()
    sign = (difference > 0).float32() - (difference < 0).float32()  # jt.abs has slope 1 at 0, the loss has 0
    return (difference * sign).mean()


def recovery_loss(outputs: TrainingOutputs) -> tuple[jt.Var, jt.Var]:
    """The loss of the class queries and of the pixels, (1,) float32 each."""
    queries = mean_absolute_error(outputs.recovered_queries, outputs.query_targets)
    return queries, mean_absolute_error(outputs.recovered_pixels, outputs.pixel_targets)


def pseudo_labels(logits: jt.Var, labels: jt.Var, unseen: Sequence[int]) -> jt.Var:
    """Replaces the mark "some unseen class" by the unseen class with the largest sigmoid.

    Equal sigmoids go to the lowest class id. That happens often: in float32 all logits above 17 have sigmoid 1, and
    already from 8 on many neighbours share one value. So sigmoids are compared, not logits.

    Args:
        logits: (B, C, H, W) float32 of all classes.
        labels: (B, H, W) int32: seen class ids, -1 where some unseen class is, 255 = ignored.
        unseen: ids of the unseen classes, at least one.

    Returns:
        (B, H, W) int32: `labels` with every -1 replaced; everything else unchanged, 255 included. No gradient.
    """
    ids = jt.array(np.array(sorted(unseen), dtype=np.int32))
    with jt.no_grad():
        unseen_logits = logits.detach()[:, ids]
        # sigmoid = 1 / denominator, so the smallest denominator wins; it is rounded just as the sigmoid's own is, and
        # spares the division, which fast-math kernels do not round correctly
        denominator = 1 + jt.exp(jt.minimum(-unseen_logits, LARGEST_EXPONENT))
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
    labels: jt.Var  # (B, H, W) int32, as used: pseudo labels filled in


class SegmentationLoss:
    """Turns model outputs and labels into the loss.

    Args:
        config: weights of the terms, alpha and gamma of the focal loss.
        unseen: in the transductive setting, where labels mark their pixels -1, ids of the unseen classes; else empty.
    """

    def __init__(self, config: LossConfig, unseen: Sequence[int] = ()) -> None:
        self.config, self.unseen = config, tuple(unseen)

    def sums(self, outputs: TrainingOutputs, labels: jt.Var | np.ndarray, size: tuple[int, int]) -> LossSums:
        """The parts of the loss, sums kept apart from the number of masks.

        Args:
            outputs: of `ClipRC.training_outputs`, with C classes.
            labels: (B, H, W) int32 in 0..C-1, 255 = ignored, -1 = some unseen class.
            size: (H, W) of the labels; the logits are resized to it.
        """
        logits = resize_bilinear(outputs.logits_grid, size)
        labels = labels if isinstance(labels, jt.Var) else jt.array(np.asarray(labels, dtype=np.int32))
        if self.unseen:
            labels = pseudo_labels(logits, labels, self.unseen)
        # without weight the recovery decoder is not computed at all
        recovery_q, recovery_v = recovery_loss(outputs) if self.config.recovery else (jt.zeros(1), jt.zeros(1))
        return LossSums(
            focal=focal_sum(logits, labels, self.config.focal_alpha, self.config.focal_gamma),
            dice=dice_sum(logits, labels),
            recovery_q=recovery_q,
            recovery_v=recovery_v,
            num_masks=class_masks(labels, logits.shape[1]).max(dim=3).max(dim=2).sum().stop_grad(),
            labels=labels,
        )

    def terms(self, sums: LossSums, num_masks: jt.Var | float, share: float = 1.0) -> dict[str, jt.Var]:
        """The weighted terms of the loss, which add up to it.

        Args:
            sums: of one micro-batch.
            num_masks: present (image, class) pairs in the whole batch, averaged over ranks; counted as 1 if below.
            share: part of the batch's images that are in this micro-batch, in (0, 1].

        Returns:
            mask, dice, recovery_q, recovery_v: (1,) float32 each.
        """
        masks = jt.maximum(num_masks, 1) if isinstance(num_masks, jt.Var) else max(num_masks, 1)
        weights = self.config
        return {
            "mask": weights.mask * sums.focal / masks,
            "dice": weights.dice * sums.dice / masks,
            "recovery_q": weights.recovery * share * sums.recovery_q,
            "recovery_v": weights.recovery * share * sums.recovery_v,
        }

    def total(self, sums: LossSums, num_masks: jt.Var | float, share: float = 1.0) -> jt.Var:
        """The loss, (1,) float32; arguments as for `terms`."""
        return sum(self.terms(sums, num_masks, share).values())

    def mask_part(self, sums: LossSums) -> jt.Var:
        """The weighted terms before division by the number of masks, (1,) float32.

        For self-training in micro-batches, where that number is known only after the last forward pass: accumulate the
        gradients of this part separately, and divide in the end.
        """
        return self.config.mask * sums.focal + self.config.dice * sums.dice

    def recovery_part(self, sums: LossSums, share: float = 1.0) -> jt.Var:
        """The rest of the loss: `total = mask_part / max(num_masks, 1) + recovery_part`, (1,) float32."""
        return self.config.recovery * share * (sums.recovery_q + sums.recovery_v)
