"""Label maps as one binary mask per class, and sigmoids that stay exact at any logit.

The masks are never stored: Jittor fuses the comparison into whatever reads it.
"""

from __future__ import annotations

import jittor as jt
import numpy as np

from jseg.data.class_names import IGNORED


def class_masks(labels: jt.Var, num_classes: int) -> jt.Var:
    """1 where a pixel is of a class, else 0.

    Args:
        labels: (B, H, W) int32; any value outside 0..C-1 (255 = ignored above all) is in no mask.
        num_classes: C.

    Returns:
        (B, C, H, W) float32 in {0, 1}.
    """
    classes = jt.arange(num_classes).reshape(1, num_classes, 1, 1)
    return (labels.unsqueeze(1) == classes).float32()


def count_masks(labels: np.ndarray) -> int:
    """Number of (image, class) pairs that are present in a batch; what focal and dice sums are divided by.

    Args:
        labels: (B, H, W) integers; 255 (ignored) and negative values (classes to be guessed) do not count.
    """
    counted = (np.unique(image[(image >= 0) & (image != IGNORED)]).size for image in _small_integers(labels))
    return sum(counted)


def _small_integers(labels: np.ndarray) -> np.ndarray:
    """The same labels as int16: NumPy sorts those in linear time."""
    return np.asarray(labels).astype(np.int16)


def map_sizes(logits: jt.Var) -> tuple[dict[str, float], str]:
    """What the kernels of jseg/ops/kernels/losses.h need of logits (B, C, H, W): numbers, and a `Maps` made of them."""
    images, classes, height, width = logits.shape
    numbers = {"images": images, "classes": classes, "pixels": height * width}
    return numbers, 'Maps{(long)number("images"), (long)number("classes"), (long)number("pixels")}'


def sigmoid_parts(x: jt.Var) -> tuple[jt.Var, jt.Var]:
    """`(exp(-|x|), sigmoid(x))`, element-wise; exact to rounding for every finite x.

    Jittor's own sigmoid is clamped: it never falls below 9e-14.
    """
    decay = jt.exp(-jt.abs(x))
    # exp(min(x, 0)) is 1 for x >= 0 and `decay`, never above 1, otherwise: maximum() spares a slow branch
    return decay, jt.maximum(decay, (x >= 0).float32()) / (1 + decay)
