"""The image encoder: CLIP's image tower with prompts and region tokens; image -> patches, regions, global.

Token order: `[class token | N patches | M regions]`. Every layer has K learned prompts of its own (Jia et al., "Visual
Prompt Tuning", ECCV 2022, VPT-deep): keys and values of its attention only, because their outputs are never used.
A `trace` receives `tokens_in` (B, 1 + K + N + M, width) = input of block 0 with prompts after the class token,
`tokens_block<i>` (B, 1 + N + M, width), `visual` (B, D, h, w), `cls` (B, D), and of regions `region` (B, D, rh, rw).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import jittor as jt
import numpy as np
from jittor import nn

from jseg.clip.blocks import Dropout, LayerNorm, Linear, ResidualBlock, Trace
from jseg.clip.image_tower import ImageTower
from jseg.config import ModelConfig
from jseg.ops.attention import check_region_grid, region_attention
from jseg.ops.device import constant, join, split, transpose
from jseg.ops.half import cast, widen
from jseg.ops.layers import dropout, layer_norm, linear, unit_length


@dataclass
class ImageFeatures:
    """The embeddings of a batch of images; all vectors have unit length."""

    tokens: jt.Var  # (B, 1 + N + M, D): one vector for the image, patches and regions, both row-major in their grids
    patch_grid: tuple[int, int]  # (h, w)
    region_grid: tuple[int, int]  # (rh, rw), (0, 0) without regions


class ImageEncoder(ImageTower):
    """CLIP's image tower (frozen) with learned prompts in every layer and region tokens (frozen)."""

    compute = "float32"
    kept_prompts: dict[int, jt.Var] | None = None  # by layer, inside `keep_prompts`

    def __init__(self, config: ModelConfig, norm_eps: float = 1e-5, prompt_norm_eps: float = 1e-6) -> None:
        super().__init__(
            config.image_size, config.patch_size, config.width, config.layers, config.heads, config.output_dim, norm_eps
        )
        width = config.width
        self.region_grid = (config.region_grid, config.region_grid)
        if config.region_grid:
            self.region_level_bridge = jt.zeros((config.region_grid**2, width))
        self.prompt_embeddings = jt.zeros((1, config.prompts, width))
        if config.layers > 1:
            self.deep_prompt_embeddings = jt.zeros((config.layers - 1, config.prompts, width))
        self.prompt_proj, self.prompt_norm = Linear(width, width), LayerNorm(width, prompt_norm_eps)
        self.prompt_dropout = Dropout(config.prompt_dropout)

    def input_tokens(self, images: jt.Var, grid: tuple[int, int]) -> jt.Var:
        """`[class token | patches | regions]` after `ln_pre`, (B, 1 + N + M, width)."""
        patches, positions = self.conv1(images), self.positions(grid)
        batch, count, width = patches.shape

        def placed(x: jt.Var, first: int) -> jt.Var:  # as rows of each image from `first` on; fused into one launch
            shape = batch, 1 + count + self.region_grid[0] * self.region_grid[1], width
            index = [*["i0"] * (len(x.shape) - 2), "i1-@e0(0)", "i2"]
            return x.reindex(shape, index, 0, [], [constant(np.int32, (first,))])

        # the released models add the class embedding twice
        tokens = 2 * placed(self.class_embedding.reshape(1, -1), 0) + placed(positions, 0) + widen(placed(patches, 1))
        if self.region_grid[0]:
            tokens = tokens + placed(self.region_level_bridge, 1 + count)
        return self.ln_pre(tokens).stop_grad()  # nothing up to here trains

    def execute(self, images: jt.Var, trace: Trace | None = None) -> ImageFeatures:
        """Features of normalised images (B, 3, H, W) float32, of any size and aspect whose patches the regions fit."""
        trace, same_for_all = {} if trace is None else trace, jt.flags.no_grad and not self.prompt_dropout.rate_now()
        kept = self.kept_prompts if same_for_all and self.kept_prompts is not None else {}
        grid = self.conv1.grid(images)
        check_region_grid(grid, self.region_grid)
        tokens, batch = self.input_tokens(images, grid), images.shape[0]
        prompts = self.prompts(1 if same_for_all else batch)
        repeated = prompts[0].broadcast((batch, *prompts[0].shape[1:]))
        trace["tokens_in"] = jt.concat([tokens[:, :1], repeated, tokens[:, 1:]], dim=1)
        if not kept:  # else `prompts`, which are lazy, are never computed
            kept.update(enumerate(self.project_prompts(prompts)))
        for layer, block in enumerate(self.transformer.resblocks):
            tokens = block(tokens, lambda x, n, own=kept[layer]: region_attention(x, own, n, 1, grid, self.region_grid))
            trace[f"tokens_block{layer}"] = tokens
        # the released models leave the region tokens out of prompt_norm
        count = 1 + grid[0] * grid[1]
        outputs = self.ln_post(self.prompt_norm(tokens, first=count * bool(self.region_grid[0])), self.compute)
        outputs = unit_length(linear(outputs, transpose(self.proj, 1, 0), wide=not jt.flags.use_cuda))
        trace["cls"], trace["visual"] = outputs[:, 0], as_maps(outputs[:, 1:count], grid)
        if self.region_grid[0]:
            trace["region"] = as_maps(outputs[:, count:], self.region_grid)
        return ImageFeatures(outputs, grid, self.region_grid)

    def prompts(self, copies: int) -> jt.Var | list[jt.Var]:
        """Prompts with dropout, (layers, copies, K, width) float32; on CPU a list, drawn layer by layer."""
        deep = [self.deep_prompt_embeddings] if len(self.transformer.resblocks) > 1 else []
        prompts, rate = join([self.prompt_embeddings, *deep], 0).unsqueeze(1), self.prompt_dropout.rate_now()
        shape = len(prompts), copies, *prompts.shape[2:]
        if jt.flags.use_cuda:  # repeated first, so that the pass after the product drops out
            return self.prompt_proj(prompts.broadcast(shape), rate=rate, wide=True)
        prompts = self.prompt_proj(prompts, wide=True).broadcast(shape)
        return [dropout(x, rate) if rate else x for x in prompts]

    def project_prompts(self, prompts: jt.Var | list[jt.Var]) -> Sequence[jt.Var]:
        """Their queries (not used), keys and values in each layer, (copies, K, 3 * width) of type `compute`."""
        blocks = list(self.transformer.resblocks)
        if jt.flags.use_cuda:
            return project_together(blocks, prompts, self.compute)
        return [block.attn.project(block.ln_1(x, self.compute)) for block, x in zip(blocks, prompts, strict=True)]


@contextmanager
def keep_prompts(tower: ImageTower) -> Iterator[None]:
    """Inside, evaluation computes keys and values of prompts once, not once per batch; weights must not change."""
    tower.kept_prompts = {}
    try:
        yield
    finally:
        tower.kept_prompts = None


def project_together(blocks: list[ResidualBlock], x: jt.Var, dtype: str) -> Sequence[jt.Var]:
    """`block.attn.project(block.ln_1(x[i], dtype))` of every frozen block i, by one product of a batch of matrices."""
    shape, norms = x.shape, [block.ln_1 for block in blocks]
    factor, shift = (join([getattr(norm, name) for norm in norms], 0) for name in ("weight", "bias"))
    weights, biases = (join([getattr(x.attn, f"in_proj_{name}") for x in blocks], 0) for name in ("weight", "bias"))
    ones, zeros = (constant(of, shape[-1], np.float32) for of in (np.ones, np.zeros))
    x = layer_norm(x.reshape(len(x), -1, shape[-1]), ones, zeros, norms[0].eps)
    x = cast(x * factor.reshape(len(x), 1, -1) + shift.reshape(len(x), 1, -1), dtype)
    x = widen(nn.bmm_transpose(x, cast(weights, dtype).reshape(len(x), -1, shape[-1]))) + biases.reshape(len(x), 1, -1)
    return [y.reshape(*shape[1:-1], -1) for y in split(cast(x, dtype), [1] * len(blocks), 0)]


def as_maps(tokens: jt.Var, grid: tuple[int, int]) -> jt.Var:
    """(B, h * w, D) tokens in row-major order -> (B, D, h, w)."""
    return transpose(tokens, 0, 2, 1).reshape(tokens.shape[0], tokens.shape[2], *grid)
