"""The weighted sum that CLIP-RC is trained on.

`mask * focal + dice * dice + recovery * (L1 of queries + L1 of pixels)`: Zhang et al., CVPR 2024, section 3.5. Focal
and dice are divided by the number of masks in the whole batch, so they are kept as sums until that number is known:
the sums of micro-batches then add up to exactly those of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jittor as jt
import numpy as np

from jseg.engine.config import LossConfig
from jseg.losses.class_masks import class_masks
from jseg.losses.mask_dice import dice_sum
from jseg.losses.mask_focal import focal_sum
from jseg.losses.pseudo_labels import pseudo_labels
from jseg.losses.recovery import recovery_loss
from jseg.model.clip_rc import upsample

if TYPE_CHECKING:
    from jseg.model.clip_rc import TrainingOutputs


@dataclass
class LossSums:
    """What one (micro-)batch contributes, unweighted; every Var is (1,) float32."""

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
        self.config = config
        self.unseen = tuple(unseen)

    def sums(self, outputs: TrainingOutputs, labels: jt.Var | np.ndarray, size: tuple[int, int]) -> LossSums:
        """The parts of the loss, sums kept apart from the number of masks.

        Args:
            outputs: of `ClipRC.training_outputs`, with C classes.
            labels: (B, H, W) int32 in 0..C-1, 255 = ignored, -1 = some unseen class.
            size: (H, W) of the labels in pixels; the logits are resized to it.
        """
        logits = upsample(outputs.logits_grid, size)
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
            num_masks=_count(labels, logits.shape[1]),
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
        """The weighted terms that have to be divided by the number of masks, not yet divided, (1,) float32.

        For self-training in micro-batches, where that number is known only after the last forward pass: accumulate the
        gradients of this apart from those of `recovery_part`, and divide in the end.
        """
        return self.config.mask * sums.focal + self.config.dice * sums.dice

    def recovery_part(self, sums: LossSums, share: float = 1.0) -> jt.Var:
        """The rest of the loss: `total = mask_part / max(num_masks, 1) + recovery_part`, (1,) float32."""
        return self.config.recovery * share * (sums.recovery_q + sums.recovery_v)


def _count(labels: jt.Var, num_classes: int) -> jt.Var:
    """Number of present (image, class) pairs, (1,) float32 without gradient."""
    with jt.no_grad():
        return class_masks(labels, num_classes).max(dim=3).max(dim=2).sum()
