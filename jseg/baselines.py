"""Segmentation by a plain CLIP without any training: features of patches compared with class embeddings.

Patch features are the last layer's outputs, embedded like the class token. All other methods replace the last attention
layer, which keeps features in place; d is the depth of a head, softmaxes are over keys, in each head:

- value_path: every token gets its own value (Zhou et al., "Extract Free Dense Labels from CLIP", ECCV 2022, section
  3.1). class_token: a patch is read as the class token reads it: as that would come out if it saw this patch alone.
- sclip: softmax(q q^T / sqrt d) + softmax(k k^T / sqrt d) (Wang et al., "SCLIP", ECCV 2024).
- clearclip: softmax(q q^T / sqrt d), without residual and MLP (Lan et al., "ClearCLIP", ECCV 2024).
- naclip: softmax(k k^T / sqrt d + neighbourhood), without residual and MLP (Hajimiri et al., "Pay Attention to Your
  Neighbours", WACV 2025).
"""

from collections.abc import Mapping

import jittor as jt
import numpy as np
from jittor import nn

from jseg.clip.blocks import Trace
from jseg.clip.image_tower import ImageTower, resize_positions
from jseg.config import ModelConfig
from jseg.ops.attention import Grid, attend, cross_attention, qkv_of
from jseg.ops.device import constant, transpose
from jseg.ops.layers import unit_length
from jseg.weights.state import strict_load

SCALE = 40.0  # of cosines in the softmax over classes (NACLIP)
REACH = 5.0  # standard deviation of NACLIP's neighbourhood, in patches
ATTENTION_ALONE = ("clearclip", "naclip")  # neither residual nor MLP in the last block


class PlainClip(nn.Module):
    """A plain CLIP (weights under OpenAI's names) where evaluation expects a trained model.

    `features` is one of `jseg.config.TRAINING_FREE`: which features of the patches are compared with the text.
    """

    def __init__(self, config: ModelConfig, tensors: Mapping[str, np.ndarray], features: str) -> None:
        super().__init__()
        tower = ImageTower(
            config.image_size, config.patch_size, config.width, config.layers, config.heads, config.output_dim
        )
        own = {name.removeprefix("visual."): value for name, value in tensors.items() if name.startswith("visual.")}
        if "positional_embedding" in own:
            side = config.image_size // config.patch_size
            positions = jt.array(np.asarray(own["positional_embedding"], np.float32))
            own["positional_embedding"] = resize_positions(positions, (side, side)).numpy()
        strict_load(tower, own, "CLIP image weights")
        tower.region_grid = (0, 0)  # windows need not hold a patch for each region
        self.backbone, self.features = tower, features

    def execute(self, images: jt.Var, text: jt.Var) -> jt.Var:
        """Logits (B, C, h, w) whose sigmoid is the softmax of `SCALE * patch_scores` over the classes."""
        shares = nn.softmax(SCALE * patch_scores(self.backbone, images, text, self.features), dim=1)
        return (shares + 1e-7).log() - (1 - shares + 1e-7).log()


def before_last_block(tower: ImageTower, images: jt.Var) -> jt.Var:
    """Tokens (B, 1 + N, width) before the last block of the tower, which is not computed."""
    trace: Trace = {}
    tower(images, dense=True, trace=trace)  # nothing runs yet: Jittor computes only results that are read
    layers = len(tower.transformer.resblocks)
    return trace[f"tokens_block{layers - 2}"] if layers > 1 else trace["tokens_in"]


def neighbourhood(grid: Grid) -> np.ndarray:
    """What NACLIP adds to attention scores: (1 + h * w, 1 + h * w) float32 in [0, 1], 0 for the class token."""
    places = np.indices(grid).reshape(2, -1)
    squares = ((places[:, :, None] - places[:, None]) ** 2).sum(axis=0)
    return np.pad(np.exp(squares / (-2 * REACH**2)), ((1, 0), (1, 0))).astype(np.float32)


def last_attention(projected: jt.Var, heads: int, features: str, grid: Grid) -> jt.Var:
    """The last attention layer of a method: queries, keys and values (B, 1 + h * w, 3 * width) -> (…, width)."""
    q, k, v = qkv_of(projected)
    if features == "sclip":
        return cross_attention(q, q, v, heads) + cross_attention(k, k, v, heads)
    if features == "clearclip":
        return cross_attention(q, q, v, heads)
    if features == "naclip":
        return attend(k, k, v, heads, constant(neighbourhood, grid))
    return v


def patch_scores(tower: ImageTower, images: jt.Var, text: jt.Var, features: str) -> jt.Var:
    """Cosines (B, C, h, w) of patches and class embeddings (C, D), for images (B, 3, H, W) float32, normalised."""
    grid = tower.conv1.grid(images)
    if features == "patch_features":
        embedded = tower(images, dense=True)
    else:
        before, block = before_last_block(tower, images), tower.transformer.resblocks[-1]
        tokens = block.attn(block.ln_1(before), lambda x, heads: last_attention(x, heads, features, grid))
        if features not in ATTENTION_ALONE:
            tokens = tokens + (before[:, :1] if features == "class_token" else before)
            tokens = tokens + block.mlp(block.ln_2(tokens))
        embedded = jt.matmul(tower.ln_post(tokens), tower.proj)
    patches = unit_length(embedded[:, 1:].reshape(images.shape[0], *grid, -1))
    return transpose(nn.matmul_transpose(patches, text), 0, 3, 1, 2)
