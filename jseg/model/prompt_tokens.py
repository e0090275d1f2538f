"""Learned visual prompts: extra tokens after the class token, fresh ones before every layer.

Jia et al., "Visual Prompt Tuning", ECCV 2022 (VPT-deep), as CLIP-RC uses it.
"""

from __future__ import annotations

import jittor as jt
import numpy as np
from jittor import nn

from jseg.clip.blocks import Dropout, normal, uniform
from jseg.ops.half import widen


def project_prompts(embeddings: jt.Var, projection: nn.Linear, dropout: Dropout, batch: int) -> jt.Var:
    """The prompts of one layer for a batch.

    Args:
        embeddings: (K, width), learned.
        projection: the linear layer that the prompts of all layers share.
        dropout: applied after the prompts are repeated for the batch, so that each image has its own mask.

    Returns:
        (B, K, width); in evaluation (1, K, width), as all images have the same.
    """
    projected = widen(projection(embeddings)).unsqueeze(0)
    if not dropout.rate_now() and jt.flags.no_grad:
        return projected  # the same for all images
    return dropout(projected.broadcast((batch, *projected.shape[1:])))


def random_prompt_weights(
    layers: int, prompts: int, width: int, patch_size: int, generator: np.random.Generator
) -> dict[str, np.ndarray]:
    """What the prompts of the published runs started from, by state name of the image encoder."""
    bound = (6 / (3 * patch_size * patch_size + width)) ** 0.5
    deep = {"deep_prompt_embeddings": uniform(generator, (layers - 1, prompts, width), bound)} if layers > 1 else {}
    return deep | {
        "prompt_embeddings": uniform(generator, (1, prompts, width), bound),
        "prompt_proj.weight": normal(generator, (width, width), (2 / width) ** 0.5),  # Kaiming, fan out, gain sqrt(2)
        "prompt_proj.bias": uniform(generator, (width,), width**-0.5),
        "prompt_norm.weight": np.ones(width, np.float32),
        "prompt_norm.bias": np.zeros(width, np.float32),
    }
