"""losses_only* (torch_release) and loss_* (jseg_release): focal and dice on given logits."""

from __future__ import annotations

import jittor as jt
import numpy as np

from jseg.model.losses import count_masks, dice_sum, focal_sum
from jseg.ops.bilinear import resize_bilinear
from jseg.parity.golden_file import GoldenFile


def _losses(logits: np.ndarray, labels: np.ndarray, mask: float, dice: float) -> dict[str, np.ndarray]:
    """Weighted losses, their sum, and the gradients by the logits of all three."""
    labels, variable = labels.reshape(-1, *labels.shape[-2:]).astype(np.int32), jt.array(logits)
    resized, targets = resize_bilinear(variable, labels.shape[1:]), jt.array(labels)
    masks = max(count_masks(labels), 1)
    losses = {
        "loss_mask": mask * focal_sum(resized, targets) / masks,
        "loss_dice": dice * dice_sum(resized, targets) / masks,
    }
    losses["total"] = losses["loss_mask"] + losses["loss_dice"]
    result = {name: np.array(loss.item()) for name, loss in losses.items()}
    return result | {f"grad_{name}": jt.grad(loss, variable).numpy() for name, loss in losses.items()}


def check_losses_only(file: GoldenFile) -> dict[str, np.ndarray]:
    """Unweighted losses of several cases in one file."""
    computed = {}
    for case in file.json("case_names"):
        ours = _losses(file[f"{case}.logits"], file[f"{case}.labels"], 1.0, 1.0)
        computed |= {f"{case}.{name}": value for name, value in ours.items()}
    return computed


def check_weighted_losses(file: GoldenFile) -> dict[str, np.ndarray]:
    """One case with weights of mask, dice and of both."""
    mask, dice, both = (float(weight) for weight in file["in/weights"])
    ours = _losses(file["in/pred_masks"], file["in/label"], mask * both, dice * both)
    ours["grad"] = ours.pop("grad_total")
    return {f"out/{name}": value for name, value in ours.items()}
