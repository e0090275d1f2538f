"""Recovery loss: the decoder's outputs must still tell the features that went in.

Zhang et al., "Exploring Regional Clues in CLIP for Zero-Shot Semantic Segmentation", CVPR 2024, section 3.4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jittor as jt

if TYPE_CHECKING:
    from jseg.model.clip_rc import TrainingOutputs


def mean_absolute_error(recovered: jt.Var, target: jt.Var) -> jt.Var:
    """Mean of `|recovered - target|` over all elements, (1,) float32; no gradient reaches `target`."""
    difference = recovered - target.detach()
    sign = (difference > 0).float32() - (difference < 0).float32()  # jt.abs has slope 1 at 0, the loss has 0
    return (difference * sign).mean()


def recovery_loss(outputs: TrainingOutputs) -> tuple[jt.Var, jt.Var]:
    """The loss of the class queries and of the pixels, (1,) float32 each."""
    return (
        mean_absolute_error(outputs.recovered_queries, outputs.query_targets),
        mean_absolute_error(outputs.recovered_pixels, outputs.pixel_targets),
    )
