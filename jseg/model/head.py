"""The head: image features and class embeddings -> mask logits, and the recovery decoder that training needs besides.

Region alignment: text x region x global -> class queries; regions + global + patches -> pixels. Without regions
(`model.region_grid=0`) these are the descriptors of ZegCLIP (Zhou et al., CVPR 2023), and M = 1 below. In the two-way
decoder, queries attend to pixels and pixels to queries. The recovery decoder predicts its inputs from its outputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

import jittor as jt
import numpy as np
from jittor import nn

from jseg.clip.blocks import Dropout, LayerNorm, Linear, Trace
from jseg.config import ModelConfig
from jseg.errors import UserError
from jseg.model.image_encoder import ImageFeatures, as_maps
from jseg.model.losses import TrainingOutputs
from jseg.ops.attention import Grid, cross_attention, two_way_attention
from jseg.ops.bilinear import grid_interpolation_matrix
from jseg.ops.device import constant, join, split, transpose
from jseg.ops.function import Function, skip_frozen
from jseg.ops.half import convert
from jseg.ops.layers import linear


def _shares(region_grid: Grid, patch_grid: Grid) -> np.ndarray:
    """What regions, image and patch, as parts of a pixel's input, take of regions and image: (N, parts, M + 1)."""
    matrix = grid_interpolation_matrix(region_grid, patch_grid)
    shares = np.zeros((len(matrix), 3, matrix.shape[1] + 1), np.float32)
    shares[:, 0, :-1], shares[:, 1, -1] = matrix, 1
    return shares if matrix.shape[1] else shares[:, 1:]


@lru_cache(maxsize=64)
def _sources(region_grid: Grid, patch_grid: Grid) -> list[jt.Var]:
    """The four tokens that each part of a pixel's input is made of, int32, and their shares, (N, parts, 4) each."""
    shares = np.pad(_shares(region_grid, patch_grid), ((0, 0), (0, 0), (0, 3)))  # at least four
    count, regions = len(shares), shares.shape[2] - 4
    order = np.argsort(-shares, 2, kind="stable")[:, :, :4]
    shares = np.take_along_axis(shares, order, 2)
    tokens = np.where(order < regions, order + 1 + count, 0)  # tokens are image, patches, regions
    shares[:, -1, 0], tokens[:, -1, 0] = 1, 1 + np.arange(count)  # the patch itself
    return [jt.array(x).stop_grad() for x in (tokens.astype(np.int32), shares)]


@lru_cache(maxsize=64)
def _sums(batch: int, region_grid: Grid, patch_grid: Grid, dtype: str) -> tuple[jt.Var, jt.Var]:
    """Matrices (B, M + 1, …) that sum up gradients of regions and image: of pixels' parts, and of `R_m + G`."""
    shares = _shares(region_grid, patch_grid)
    queries = max(shares.shape[2] - 1, 1)  # of a class
    both = shares.reshape(-1, shares.shape[2]).T, np.vstack([np.eye(shares.shape[2] - 1, queries), np.ones(queries)])
    both = (jt.array(np.repeat(x[None].astype(np.float32), batch, 0)).stop_grad() for x in both)
    return tuple(convert(x, kind) for x, kind in zip(both, (dtype, "float32"), strict=True))


class _DecoderInputs(Function):
    """Tokens of images and text (C, D) -> inputs of `q_proj` and of `lateral_proj` as `dtype`; the former as float32.

    `concat[(R_m + G) * T_c, T_c]`, (B, M * C, 2D), index m * C + c; `concat[up(R), G, I]`, (B, N, 3D), where the
    regions are resized bilinearly to the patch grid; without regions `concat[G * T_c, T_c]` and `concat[G, I]`.
    """

    def execute(self, tokens: jt.Var, text: jt.Var, region_grid: Grid, patch_grid: Grid, dtype: str) -> list[jt.Var]:
        self.shape, self.text, self.grids = tokens.shape, text, (tuple(region_grid), tuple(patch_grid))
        self.regions, (places, shares) = region_grid[0] * region_grid[1], _sources(*self.grids)
        batch, _, depth = tokens.shape
        shape = batch, max(self.regions, 1), len(text), 2, depth
        both = tokens.reindex(shape, ["i0", "0", "i4"])
        if self.regions:
            first = constant(np.int32, (tokens.shape[1] - self.regions,))
            both = both + tokens.reindex(shape, ["i0", "i1+@e0(0)", "i4"], 0, [], [first])
        half, other = (constant(np.float32, x) for x in (((1.0,), (0.0,)), ((0.0,), (1.0,))))
        queries = (both * half + other) * text.reindex(shape, ["i2", "i4"])
        self.parts, shape = shares.shape[1], (batch, *shares.shape[:2], depth)
        four = [tokens.reindex(shape, ["i0", f"@e0(i1,i2,{i})", "i3"], 0, [], [places]) for i in range(4)]
        pixels = sum(x * shares.reindex(shape, ["i1", "i2", f"{i}"]) for i, x in enumerate(four))
        outputs = convert(queries, dtype), convert(pixels, dtype), queries
        return [x.reshape(batch, -1, x.shape[-1] * x.shape[-2]) for x in outputs]

    def grad(self, of_queries: jt.Var, of_pixels: jt.Var, _: jt.Var | None) -> tuple[jt.Var | None, ...]:
        batch, length, depth = self.shape
        shape = batch, max(self.regions, 1), len(self.text), depth
        of_both = of_queries.reshape(*shape[:3], 2, depth).reindex(shape, ["i0", "i1", "i2", "0", "i3"])
        of_both = (convert(of_both, "float32") * self.text).sum(2)  # of region plus image
        of_pixels = of_pixels if jt.flags.use_cuda else convert(of_pixels, "float32")
        sums = _sums(batch, *self.grids, str(of_pixels.dtype))
        few, sums = jt.matmul(sums[0], of_pixels.reshape(batch, -1, depth)), jt.matmul(sums[1], of_both)
        # rows of regions and image go where these tokens are: image, patches, regions
        where = ["i0", "(i1+@e0(0))%@e0(1)", "i2"], 0, [], [constant(np.int32, (self.regions, length))]
        of_patches = of_pixels.reshape(batch, -1, self.parts, depth)
        of_patches = of_patches.reindex(self.shape, ["i0", "i1-1", f"{self.parts - 1}", "i2"])
        few, of_patches = (convert(x, "float32") for x in (few.reindex(self.shape, *where), of_patches))
        return sums.reindex(self.shape, *where) + few + of_patches, None, None, None, None


# the same (B, T, width) twice: in the type that products take, and as float32; before the first layer both the former
Tokens = tuple[jt.Var, jt.Var]
Layers = Iterable[tuple["DecoderLayer", "DecoderLayer"]]  # of queries, of pixels


class CrossAttention(nn.Module):
    """Attention of one side to the other, with biased projections and dropout on the weights."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.proj = (Linear(width, width) for _ in range(4))
        self.weight_dropout = Dropout(dropout)

    def execute(self, x: jt.Var, memory: jt.Var) -> jt.Var:
        """What x (B, Tx, width) finds in memory (B, Tm, width), (B, Tx, width), to be projected by `proj`."""
        return cross_attention(self.q(x), self.k(memory), self.v(memory), self.heads, self.weight_dropout.rate_now())


class DecoderLayer(nn.Module):
    """Cross-attention and MLP, each added to its input and normalised after."""

    def __init__(self, width: int, heads: int, ffn_factor: int, dropout: float, eps: float = 1e-5) -> None:
        super().__init__()
        self.linear1, self.linear2 = Linear(width, ffn_factor * width), Linear(ffn_factor * width, width)
        self.norm2, self.norm3 = LayerNorm(width, eps), LayerNorm(width, eps)
        self.multihead_attn = CrossAttention(width, heads, dropout)
        self.dropout = Dropout(dropout)

    def execute(self, x: Tokens, memory: Tokens, found: jt.Var | None = None) -> Tokens:
        """x (B, Tx, width) with memory (B, Tm, width) -> (B, Tx, width); `found`: what it finds, if that is known."""
        rate, compute = self.dropout.rate_now(), self.linear1.compute
        found = self.multihead_attn(x[0], memory[0]) if found is None else found
        rounded, wide = self.norm2(self.multihead_attn.proj(found, residual=x[1], rate=rate), compute, "wide")
        inner = self.linear1(rounded, activation="relu", rate=rate)
        return self.norm3(self.linear2(inner, residual=wide, rate=rate), compute, "wide")


def join_projections(layers: Layers) -> list[tuple[jt.Var, jt.Var]]:
    """Weight (3 * width, width) and bias for the queries of each layer, and for its pixels.

    They project to queries of the own side's layer, and keys and values of the other side's.
    """
    sides = [(x.multihead_attn, y.multihead_attn) for pair in layers for x, y in (pair, pair[::-1])]
    parts = [part for own, other in sides for part in (own.q, other.k, other.v)]
    joined = join([part.factor for part in parts], 0), join([part.bias for part in parts], 0)
    return list(zip(*(split(x, [len(x) // len(sides)] * len(sides), 0) for x in joined), strict=True))


def decode(
    layers: Layers, q: Tokens, v: Tokens, projections: Iterator[tuple[jt.Var, jt.Var]], trace: Trace | None = None
) -> tuple[Tokens, Tokens]:
    """Queries (B, M * C, D) and pixels (B, N, D) through all layers; each layer updates both from the old values."""
    found = None, None
    for index, (q_layer, v_layer) in enumerate(layers, start=1):
        if jt.flags.use_cuda:
            sides, attention = [linear(x, *next(projections)) for x in (q[0], v[0])], q_layer.multihead_attn
            found = two_way_attention(*sides, attention.heads, attention.weight_dropout.rate_now())
        q, v = q_layer(q, v, found[0]), v_layer(v, q, found[1])
        if trace is not None:
            trace[f"q{index}"], trace[f"v{index}"] = q[1], v[1]
    return q, v


class RecoveryDecoder(nn.Module):
    """Linear layers around a two-way decoder; state names as released (`k` = pixels)."""

    def __init__(self, q_layers: list[DecoderLayer], v_layers: list[DecoderLayer], width: int) -> None:
        super().__init__()
        self.decouple_q, self.decouple_v = nn.ModuleList(q_layers), nn.ModuleList(v_layers)
        self.linear_q_in, self.linear_k_in = Linear(width, width), Linear(width, width)
        self.linear_q_out, self.linear_k_out = Linear(width, 2 * width), Linear(width, width)

    def execute(self, q: Tokens, v: Tokens, projections: Iterator[tuple[jt.Var, jt.Var]]) -> tuple[jt.Var, jt.Var]:
        """Decoded queries (B, M * C, D) and pixels (B, N, D) -> recovered (B, M * C, 2D) and (B, N, D)."""
        q, v = self.linear_q_in(q[0], twice=True), self.linear_k_in(v[0], twice=True)
        q, v = decode(zip(self.decouple_q, self.decouple_v, strict=True), q, v, projections)
        return self.linear_q_out(q[0], wide=True), self.linear_k_out(v[0], wide=True)


class DecodeHead(nn.Module):
    """Image features and text (C, D) -> mask logits."""

    def __init__(self, config: ModelConfig, norm_eps: float = 1e-5) -> None:
        super().__init__()
        depth = self.depth = config.output_dim

        def layers(count: int) -> list[DecoderLayer]:
            sizes = (depth, config.decoder_heads, config.ffn_factor, config.decoder_dropout, norm_eps)
            return [DecoderLayer(*sizes) for _ in range(count)]

        self.decoder_q, self.decoder_v = nn.Module(), nn.Module()
        self.decoder_q.layers = nn.ModuleList(layers(config.decoder_layers))
        self.decoder_v.layers = nn.ModuleList(layers(config.decoder_layers))
        self.recovery_decoder = RecoveryDecoder(layers(config.recovery_layers), layers(config.recovery_layers), depth)
        self.lateral_proj = Linear((3 if config.region_grid else 2) * depth, depth)
        self.q_proj = Linear(2 * depth, depth)

    def decode(self, features: ImageFeatures, text: jt.Var, trace: Trace | None, others: Layers = ()) -> tuple:
        """Class queries (B, M * C, D) and pixels (B, N, D) after the decoder; mask logits; for the recovery decoder,
        with layers `others`, `projections` and what it is to find."""
        if len(text.shape) != 2 or text.shape[1] != self.depth:
            raise UserError(f"text features are {tuple(text.shape)}: expected (classes, {self.depth}) for this model")
        inputs = features.tokens, text, features.region_grid, features.patch_grid, self.q_proj.compute
        queries, maps, wide = skip_frozen(_DecoderInputs.apply)(*inputs)
        q, v = self.q_proj(queries, twice=True), self.lateral_proj(maps, twice=True)
        if trace is not None:
            trace["ram_q"], trace["ram_v"], trace["q0"], trace["v0"] = wide, maps, q[0], v[0]
        layers = list(zip(self.decoder_q.layers, self.decoder_v.layers, strict=True))
        projections = iter(join_projections([*layers, *others]) if jt.flags.use_cuda else ())  # together: few launches
        q, v = decode(layers, q, v, projections, trace)
        regions = q[1].shape[1] // len(text)  # over which the mean is taken, in one launch, (B, C, D)
        shares = constant(np.full, (len(wide), 1, regions), np.float32(1 / regions))
        mean = jt.matmul(shares, q[1].reshape(len(wide), regions, -1)).reshape(len(wide), -1, self.depth)
        if jt.flags.use_cuda:
            logits = nn.bmm_transpose(mean, v[1]).reshape(*mean.shape[:2], *features.patch_grid)
        else:
            logits = as_maps(jt.matmul(v[1], transpose(mean, 0, 2, 1)), features.patch_grid)
        if trace is not None:
            trace["logits_grid"] = logits
        return q, v, logits, projections, wide.detach()

    def execute(self, features: ImageFeatures, text: jt.Var, trace: Trace | None = None) -> jt.Var:
        """Mask logits (B, C, h, w) on the patch grid."""
        return self.decode(features, text, trace)[2]

    def training_outputs(self, features: ImageFeatures, text: jt.Var, trace: Trace | None = None) -> TrainingOutputs:
        """As `execute`, with the recovery decoder."""
        recovery = self.recovery_decoder
        layers = zip(recovery.decouple_q, recovery.decouple_v, strict=True)
        q, v, logits, projections, query_targets = self.decode(features, text, trace, layers)
        queries, patches = recovery(q, v, projections)
        with jt.no_grad():
            pixel_targets = features.tokens.reindex(patches.shape, ["i0", "i1+1", "i2"])  # fused with what follows
        return TrainingOutputs(logits, queries, query_targets, patches, pixel_targets)
