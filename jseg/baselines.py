"""Segmentation by a plain CLIP without any training: features of patches compared with class embeddings.

Patch features are the last layer's outputs, embedded like the class token. With the value path, the last attention
layer passes every token its own value instead of mixing values, which keeps features in place (Zhou et al., "Extract
Free Dense Labels from CLIP", ECCV 2022, section 3.1). A patch may also be read as the class token reads it: the last
layer's class token, as it would come out if it attended to that patch alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import jittor as jt
import numpy as np
from jittor import nn

from jseg.clip.blocks import Trace, unit_length
from jseg.clip.image_tower import ImageTower, resize_positions
from jseg.config import TRAINING_FREE, ModelConfig
from jseg.ops.device import transpose
from jseg.weights.state import strict_load


class PlainClip(nn.Module):
    """A plain CLIP (weights under OpenAI's names) where evaluation expects a trained model; see `patch_scores`.

    `features` is a key of `TRAINING_FREE`: which features of the patches are compared with the text.
    """

    def __init__(self, config: ModelConfig, tensors: Mapping[str, np.ndarray], features: str) -> None:
        super().__init__()
        tower = ImageTower(
            config.image_size, config.patch_size, config.width, config.layers, config.heads, config.output_dim
        )
        own = {name.removeprefix("visual."): value for name, value in tensors.items() if name.startswith("visual.")}
        if "positional_embedding" in own:
            side = config.image_size // config.patch_size
            positions = np.asarray(own["positional_embedding"], np.float32)
            own["positional_embedding"] = resize_positions(positions, (side, side))
        strict_load(tower, own, "CLIP image weights")
        tower.region_grid = (0, 0)  # windows need not hold a patch for each region
        self.backbone, self.features = tower, TRAINING_FREE[features]

    def execute(self, images: jt.Var, text: jt.Var) -> jt.Var:
        """Scores as of `patch_scores`."""
        return patch_scores(self.backbone, images, text, *self.features)


def _own_value(projected: jt.Var, heads: int) -> jt.Var:
    return projected[:, :, projected.shape[-1] // 3 * 2 :]


def before_last_block(tower: ImageTower, images: jt.Var) -> jt.Var:
    """Tokens (B, 1 + N, width) before the last block of the tower, which is not computed."""
    trace: Trace = {}
    tower(images, dense=True, trace=trace)  # nothing runs yet: Jittor computes only results that are read
    layers = len(tower.transformer.resblocks)
    return trace[f"tokens_block{layers - 2}"] if layers > 1 else trace["tokens_in"]


def patch_scores(
    tower: ImageTower, images: jt.Var, text: jt.Var, value_path: bool, class_token: bool = False
) -> jt.Var:
    """Cosines (B, C, h, w) of patches and classes on the patch grid.

    Args:
        images: (B, 3, H, W) float32, normalised; H and W multiples of the patch size.
        text: (C, D) class embeddings, unit length.
        value_path: the last attention layer passes each token its own value.
        class_token: with the value path, each patch's value goes to the class token instead of the patch's own token.
    """
    if value_path:
        tokens, block = before_last_block(tower, images), tower.transformer.resblocks[-1]
        values = block.attn(block.ln_1(tokens), _own_value)
        tokens = (tokens[:, :1] if class_token else tokens) + values
        tokens = tokens + block.mlp(block.ln_2(tokens))
        embedded = jt.matmul(tower.ln_post(tokens), tower.proj)
    else:
        embedded = tower(images, dense=True)
    height, width = tower.conv1.grid(images)
    features = unit_length(embedded[:, 1:].reshape(images.shape[0], height, width, -1))
    return transpose(nn.matmul_transpose(features, text), 0, 3, 1, 2)
