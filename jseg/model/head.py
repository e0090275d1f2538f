"""The head: image features and class embeddings -> mask logits, and the recovery decoder that training needs besides.

Region alignment: text x region x global -> class queries; regions + global + patches -> pixels. Without regions
(`model.region_grid=0`) these are the descriptors of ZegCLIP (Zhou et al., CVPR 2023), and M = 1 below. In the two-way
decoder, queries attend to pixels and pixels to queries. The recovery decoder predicts its inputs from its outputs.
"""

from __future__ import annotations

import jittor as jt
from jittor import nn

from jseg.clip.blocks import Dropout, LayerNorm, Linear, Trace
from jseg.config import ModelConfig
from jseg.errors import UserError
from jseg.model.image_encoder import ImageFeatures, as_maps
from jseg.model.losses import TrainingOutputs
from jseg.ops.attention import cross_attention, two_way_attention
from jseg.ops.bilinear import grid_interpolation_matrix
from jseg.ops.device import constant, join, split, transpose
from jseg.ops.half import cast, widen
from jseg.ops.layers import linear


def region_texts(features: ImageFeatures, text: jt.Var) -> jt.Var:
    """Text features times (region + image) features, (B, M, C, D)."""
    whole = features.whole.unsqueeze(1)
    return (whole if features.regions is None else features.regions + whole).unsqueeze(2) * text


def query_features(features: ImageFeatures, text: jt.Var) -> jt.Var:
    """`concat[(R_m + G) * T_c, T_c]`, (B, M * C, 2D), index m * C + c: the input of `q_proj`."""
    weighted = region_texts(features, text)
    both = join([weighted, text.broadcast(weighted.shape)], 3)
    return both.reshape(both.shape[0], -1, both.shape[3])


def region_maps(regions: jt.Var, features: ImageFeatures) -> jt.Var:
    """Vectors of the regions (B, M, D), resized bilinearly to the patch grid: (B, N, D)."""
    matrix = constant(grid_interpolation_matrix, features.region_grid, features.patch_grid)
    return jt.matmul(matrix.broadcast((regions.shape[0], *matrix.shape)), regions)


def pixel_features(features: ImageFeatures) -> jt.Var:
    """`concat[up(R), G, I]`, (B, N, 3D), without regions (B, N, 2D): the input of `lateral_proj`."""
    whole = features.whole.unsqueeze(1).broadcast(features.patches.shape)
    regions = [] if features.regions is None else [region_maps(features.regions, features)]
    return jt.concat([*regions, whole, features.patches], dim=2)


def project_part(x: jt.Var, layer: Linear, weight: jt.Var, bias: jt.Var | None = None) -> jt.Var:
    """The part of the output of `layer` that comes from x (…, width), by the columns `weight` for it; float32."""
    return linear(cast(x, layer.compute), weight, bias, wide=True)


def class_queries(features: ImageFeatures, text: jt.Var, q_proj: Linear) -> jt.Var:
    """`q_proj(query_features(...))`, (B, M * C, D); the term of the text alone is computed once, not per region."""
    for_both, for_text = split(q_proj.factor, [text.shape[1]] * 2, 1)
    queries = project_part(region_texts(features, text), q_proj, for_both)
    queries = queries + project_part(text, q_proj, for_text, q_proj.bias)  # (B, M, C, D) + (C, D)
    return queries.reshape(queries.shape[0], -1, queries.shape[3])


def pixels(features: ImageFeatures, lateral_proj: Linear) -> jt.Var:
    """`lateral_proj(pixel_features(...))`, (B, N, D); regions and global are projected before they are repeated."""
    depth, width = lateral_proj.weight.shape  # width: 3 times D, without regions twice
    *for_regions, for_whole, for_patches = split(lateral_proj.factor, [depth] * (width // depth), 1)
    patches = project_part(features.patches, lateral_proj, for_patches)
    if features.regions is not None:
        patches = patches + region_maps(project_part(features.regions, lateral_proj, for_regions[0]), features)
    return patches + project_part(features.whole, lateral_proj, for_whole, lateral_proj.bias).unsqueeze(1)


Tokens = tuple[jt.Var, jt.Var]  # the same (B, T, width) twice: in the type that products take, and as float32


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


def join_projections(layers: list[tuple[DecoderLayer, DecoderLayer]]) -> list[tuple[jt.Var, jt.Var]]:
    """Weight (3 * width, width) and bias for the queries of each layer, and for its pixels.

    They project to queries of the own side's layer, and keys and values of the other side's.
    """
    sides = [(x.multihead_attn, y.multihead_attn) for pair in layers for x, y in (pair, pair[::-1])]
    parts = [part for own, other in sides for part in (own.q, other.k, other.v)]
    joined = join([part.factor for part in parts], 0), join([part.bias for part in parts], 0)
    return list(zip(*(split(x, [len(x) // len(sides)] * len(sides), 0) for x in joined), strict=True))


def decode(
    q_layers: nn.ModuleList, v_layers: nn.ModuleList, q: jt.Var, v: jt.Var, trace: Trace | None = None
) -> tuple[Tokens, Tokens]:
    """Queries (B, M * C, D) and pixels (B, N, D) through all layers; each layer updates both from the old values."""
    # rounded once for several products; not on CPU, where Jittor would cut off the sums of their gradients
    dtype = q_layers[0].linear1.compute if jt.flags.use_cuda else "float32"
    both = (q, widen(q)), (v, widen(v))
    of_q, of_v = ((x if str(x.dtype) == dtype else cast(wide, dtype), wide) for x, wide in both)
    layers, found = list(zip(q_layers, v_layers, strict=True)), (None, None)
    projections = iter(join_projections(layers) if jt.flags.use_cuda else ())
    for index, (q_layer, v_layer) in enumerate(layers, start=1):
        if jt.flags.use_cuda:
            sides, attention = [linear(x, *next(projections)) for x in (of_q[0], of_v[0])], q_layer.multihead_attn
            found = two_way_attention(*sides, attention.heads, attention.weight_dropout.rate_now())
        of_q, of_v = q_layer(of_q, of_v, found[0]), v_layer(of_v, of_q, found[1])
        if trace is not None:
            trace[f"q{index}"], trace[f"v{index}"] = of_q[1], of_v[1]
    return of_q, of_v


class RecoveryDecoder(nn.Module):
    """Linear layers around a two-way decoder; state names as released (`k` = pixels)."""

    def __init__(self, q_layers: list[DecoderLayer], v_layers: list[DecoderLayer], width: int) -> None:
        super().__init__()
        self.decouple_q, self.decouple_v = nn.ModuleList(q_layers), nn.ModuleList(v_layers)
        self.linear_q_in, self.linear_k_in = Linear(width, width), Linear(width, width)
        self.linear_q_out, self.linear_k_out = Linear(width, 2 * width), Linear(width, width)

    def execute(self, q: Tokens, v: Tokens) -> tuple[jt.Var, jt.Var]:
        """Decoded queries (B, M * C, D) and pixels (B, N, D) -> recovered (B, M * C, 2D) and (B, N, D)."""
        q, v = decode(self.decouple_q, self.decouple_v, self.linear_q_in(q[0]), self.linear_k_in(v[0]))
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

    def decode(self, features: ImageFeatures, text: jt.Var, trace: Trace | None) -> tuple[Tokens, Tokens, jt.Var]:
        """Class queries (B, M * C, D), index m * C + c, and pixels (B, N, D) after the decoder; mask logits."""
        if len(text.shape) != 2 or text.shape[1] != self.depth:
            raise UserError(f"text features are {tuple(text.shape)}: expected (classes, {self.depth}) for this model")
        q, v = class_queries(features, text, self.q_proj), pixels(features, self.lateral_proj)
        if trace is not None:
            trace["ram_q"], trace["ram_v"] = query_features(features, text), pixel_features(features)
            trace["q0"], trace["v0"] = q, v
        q, v = decode(self.decoder_q.layers, self.decoder_v.layers, q, v, trace)
        mean = q[1].reshape(len(q[1]), -1, len(text), self.depth).mean(1)  # over regions, (B, C, D)
        if jt.flags.use_cuda:
            logits = nn.bmm_transpose(mean, v[1]).reshape(*mean.shape[:2], *features.patch_grid)
        else:
            logits = as_maps(jt.matmul(v[1], transpose(mean, 0, 2, 1)), features.patch_grid)
        if trace is not None:
            trace["logits_grid"] = logits
        return q, v, logits

    def execute(self, features: ImageFeatures, text: jt.Var, trace: Trace | None = None) -> jt.Var:
        """Mask logits (B, C, h, w) on the patch grid."""
        return self.decode(features, text, trace)[2]

    def training_outputs(self, features: ImageFeatures, text: jt.Var, trace: Trace | None = None) -> TrainingOutputs:
        """As `execute`, with the recovery decoder."""
        q, v, logits = self.decode(features, text, trace)
        queries, patches = self.recovery_decoder(q, v)
        query_targets, pixel_targets = query_features(features, text).detach(), features.patches.detach()
        return TrainingOutputs(logits, queries, query_targets, patches, pixel_targets)
