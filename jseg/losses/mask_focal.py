"""Sigmoid focal loss on class masks.

Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equation 5, as CLIP-RC uses it: over all classes and all
pixels, an ignored pixel being a negative of every class.
"""

from __future__ import annotations

import jittor as jt

from jseg.losses.class_masks import class_masks, map_sizes, sigmoid_parts
from jseg.ops import compiled


class _FocalSum(jt.Function):
    """Focal loss with its gradient written out, so that it is right at zero and at any size of logits.

    With z = -x on the class's own pixels and z = x elsewhere, a pixel costs `weight * softplus(z) * sigmoid(z)^gamma`.
    """

    def execute(self, logits: jt.Var, labels: jt.Var, alpha: float, gamma: float) -> jt.Var:
        self.inputs = logits, labels, alpha, gamma
        if compiled.compiled():
            numbers, maps = map_sizes(logits)
            body = f'focal_forward({maps}, in0_p, in1_p, number("alpha"), number("gamma"), out0_p);'
            numbers |= {"alpha": alpha, "gamma": gamma}
            (sums,) = compiled.call("losses.h", body, [logits, labels], [logits.shape[:2]], numbers)
            return sums.sum() / numbers["pixels"]
        _, error, cost, weight = _pixel_terms(logits, labels, alpha)
        height, width = logits.shape[2:]
        rows = (weight * cost * jt.pow(error, gamma)).sum(dim=3)  # summed in two steps: float32 keeps its digits
        return rows.sum() / (height * width)

    def grad(self, grad_sum: jt.Var) -> tuple[jt.Var, None, None, None]:
        logits, labels, alpha, gamma = self.inputs
        if compiled.compiled():
            numbers, maps = map_sizes(logits)
            numbers |= {"alpha": alpha, "gamma": gamma}
            body = f"""focal_backward({maps}, in0_p, in1_p, number("alpha"), number("gamma"),
                in2_p[0] / number("pixels"), out0_p);"""
            (grad,) = compiled.call("losses.h", body, [logits, labels, grad_sum], [logits.shape], numbers)
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
    return _FocalSum()(logits, labels, alpha, gamma)
