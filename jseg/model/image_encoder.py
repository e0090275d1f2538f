"""The image encoder: CLIP's image tower with prompts and region tokens; image -> patches, regions, global.

Token order: `[class token | N patches | M regions]`. Every layer has K learned prompts of its own (Jia et al., "Visual
Prompt Tuning", ECCV 2022, VPT-deep): keys and values of its attention only, because their outputs are never used.
A `trace` receives `tokens_in` (B, 1 + K + N + M, width) = input of block 0 with prompts after the class token,
`tokens_block<i>` (B, 1 + N + M, width), `visual` (B, D, h, w), `cls` (B, D), and of regions `region` (B, D, rh, rw).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import jittor as jt

from jseg.clip.blocks import Dropout, LayerNorm, Linear, Trace, unit_length
from jseg.clip.image_tower import ImageTower
from jseg.config import ModelConfig
from jseg.ops.attention import check_region_grid, region_attention
from jseg.ops.device import transpose
from jseg.ops.half import cast, widen
from jseg.ops.layers import linear


@dataclass
class ImageFeatures:
    """The embeddings of a batch of images; all vectors have unit length."""

    whole: jt.Var  # (B, D) one vector for the image
    regions: jt.Var | None  # (B, M, D), row-major in region_grid; None = the model has none
    patches: jt.Var  # (B, N, D), row-major in patch_grid
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
        positions = self.positions(grid)
        patches = self.conv1(images) + positions[1:]
        batch, _, width = patches.shape
        # the released models add the class embedding twice
        tokens = [(2 * self.class_embedding + positions[0]).broadcast((batch, 1, width)), patches]
        if self.region_grid[0]:
            bridge = self.region_level_bridge
            tokens.append(bridge.unsqueeze(0).broadcast((batch, *bridge.shape)))
        return self.ln_pre(jt.concat(tokens, dim=1)).stop_grad()  # nothing up to here trains

    def execute(self, images: jt.Var, trace: Trace | None = None) -> ImageFeatures:
        """Features of normalised images (B, 3, H, W) float32, of any size and aspect whose patches the regions fit."""
        trace, same_for_all = {} if trace is None else trace, jt.flags.no_grad and not self.prompt_dropout.rate_now()
        kept = self.kept_prompts if same_for_all and self.kept_prompts is not None else {}
        grid = self.conv1.grid(images)
        check_region_grid(grid, self.region_grid)
        tokens, batch = self.input_tokens(images, grid), images.shape[0]
        deep = [self.deep_prompt_embeddings] if len(self.transformer.resblocks) > 1 else []
        projected = widen(self.prompt_proj(jt.concat([self.prompt_embeddings, *deep])))  # (layers, K, width)
        copies = 1 if same_for_all else batch
        projected = projected.unsqueeze(1).broadcast((len(projected), copies, *projected.shape[1:]))
        for layer, block in enumerate(self.transformer.resblocks):
            prompts = projected[layer]
            if not same_for_all:
                prompts = self.prompt_dropout(prompts)
            if layer == 0:
                repeated = prompts.broadcast((batch, *prompts.shape[1:]))
                trace["tokens_in"] = jt.concat([tokens[:, :1], repeated, tokens[:, 1:]], dim=1)
            if layer not in kept:  # else `prompts`, which are lazy, are never computed
                kept[layer] = block.attn.project(block.ln_1(prompts, self.compute))
            tokens = block(tokens, lambda x, n, own=kept[layer]: region_attention(x, own, n, 1, grid, self.region_grid))
            trace[f"tokens_block{layer}"] = tokens
        end = 1 + grid[0] * grid[1]  # of the patches
        outputs, regions = self.prompt_norm(tokens[:, :end]), None
        if self.region_grid[0]:  # the released models leave the region tokens out of prompt_norm
            outputs = jt.concat([outputs, tokens[:, end:]], dim=1)
        outputs = cast(self.ln_post(outputs), self.compute)
        outputs = unit_length(widen(linear(outputs, transpose(self.proj, 1, 0))))
        trace["cls"], trace["visual"] = outputs[:, 0], as_maps(outputs[:, 1:end], grid)
        if self.region_grid[0]:
            regions = outputs[:, end:]
            trace["region"] = as_maps(regions, self.region_grid)
        return ImageFeatures(outputs[:, 0], regions, outputs[:, 1:end], grid, self.region_grid)


@contextmanager
def keep_prompts(tower: ImageTower) -> Iterator[None]:
    """Inside, evaluation computes keys and values of prompts once, not once per batch; weights must not change."""
    tower.kept_prompts = {}
    try:
        yield
    finally:
        tower.kept_prompts = None


def as_maps(tokens: jt.Var, grid: tuple[int, int]) -> jt.Var:
    """(B, h * w, D) tokens in row-major order -> (B, D, h, w)."""
    return transpose(tokens, 0, 2, 1).reshape(tokens.shape[0], tokens.shape[2], *grid)
