"""Dice loss on the masks of the classes that are present.

Milletari et al., "V-Net", 3DV 2016, smoothed by 1 as in CLIP-RC and MaskFormer.
"""

from __future__ import annotations

import jittor as jt

from jseg.losses.class_masks import class_masks, map_sizes, sigmoid_parts
from jseg.ops import compiled


class _DiceSum(jt.Function):
    """Dice loss with its gradient written out, so that it keeps its digits where the sigmoid is all but 0 or 1."""

    def execute(self, logits: jt.Var, labels: jt.Var) -> jt.Var:
        overlap, predicted, labelled = _sums(logits, labels)
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
            numbers, maps = map_sizes(logits)
            body = f"dice_backward({maps}, in0_p, in1_p, in2_p, out0_p);"
            (grad,) = compiled.call("losses.h", body, [logits, labels, slopes], [logits.shape], numbers)
            return grad, None
        decay, _ = sigmoid_parts(logits)
        sigmoid_slope = decay / ((1 + decay) * (1 + decay))
        by_probability = ((2 * overlap + 1) / area - 2 * class_masks(labels, logits.shape[1])) / area
        return grad_sum * present * by_probability * sigmoid_slope, None


def _sums(logits: jt.Var, labels: jt.Var) -> tuple[jt.Var, ...]:
    """Overlap of probabilities and mask, sum of probabilities, pixels of the mask: (B, C) each."""
    if compiled.compiled():
        numbers, maps = map_sizes(logits)
        body = f"dice_forward({maps}, in0_p, in1_p, out0_p);"
        (sums,) = compiled.call("losses.h", body, [logits, labels], [(*logits.shape[:2], 3)], numbers)
        return tuple(sums[:, :, index] for index in range(3))
    target = class_masks(labels, logits.shape[1])
    probability = sigmoid_parts(logits)[1].stop_fuse()  # read twice: stored, not computed twice
    return tuple(_pixel_sum(x) for x in (probability * target, probability, target))


def _pixel_sum(maps: jt.Var) -> jt.Var:
    """(B, C, H, W) -> (B, C); in two steps, so that float32 keeps its digits."""
    return maps.sum(dim=3).sum(dim=2)


def dice_sum(logits: jt.Var, labels: jt.Var) -> jt.Var:
    """Sum of `1 - (2 * overlap + 1) / (area + area + 1)` over the (image, class) pairs that are present.

    Not yet divided by the number of masks. Ignored pixels count as background of every present class.

    Args:
        logits: (B, C, H, W) float32, unbounded.
        labels: (B, H, W) int32 in 0..C-1, or 255 = ignored.

    Returns:
        (1,) float32; 0 with zero gradient when no class is present.
    """
    return _DiceSum()(logits, labels)
