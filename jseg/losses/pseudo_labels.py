"""Pseudo labels of the transductive setting: the model names the pixels of unseen classes itself.

Zhang et al., CVPR 2024, section 4.1 (self-training). That a pixel is of *some* unseen class comes from the ground
truth; it is given the best of the unseen classes in the masks of the same forward pass, without teacher or threshold.
"""

from __future__ import annotations

from collections.abc import Sequence

import jittor as jt
import numpy as np

from jseg.data.label_maps import UNSEEN_PIXEL

LARGEST_EXPONENT = 88.72  # exp() of more overflows float32; the sigmoid there is 0


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
