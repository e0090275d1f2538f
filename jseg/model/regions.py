"""Region alignment: text x region x global -> class queries; regions + global + patches -> pixels.

The projections `q_proj` and `lateral_proj` are linear, so values shared by many tokens are projected once and then
repeated or interpolated. Without regions (`model.region_grid=0`) these are the descriptors of ZegCLIP (Zhou et al.,
CVPR 2023): queries `concat[G * T, T]`, one for each class (M = 1 below), and pixels `concat[G, I]`.
"""

from __future__ import annotations

import jittor as jt

from jseg.clip.blocks import Linear
from jseg.model.image_encoder import ImageFeatures
from jseg.ops.bilinear import grid_interpolation_matrix
from jseg.ops.half import cast, widen
from jseg.ops.layers import linear


def region_texts(features: ImageFeatures, text: jt.Var) -> jt.Var:
    """Text features times (region + image) features, (B, M * C, D), index m * C + c."""
    visual = features.whole.unsqueeze(1)
    if features.regions is not None:
        visual = features.regions + visual  # (B, M, D)
    batch, regions, depth = visual.shape
    return (visual.unsqueeze(2) * text).reshape(batch, regions * text.shape[0], depth)


def query_features(features: ImageFeatures, text: jt.Var) -> jt.Var:
    """`concat[(R_m + G) * T_c, T_c]`, (B, M * C, 2D), index m * C + c: the input of `q_proj`."""
    weighted = region_texts(features, text)
    batch, length, depth = weighted.shape
    classes = text.shape[0]
    repeated = text.reshape(1, 1, classes, depth).broadcast((batch, length // classes, classes, depth))
    return jt.concat([weighted, repeated.reshape(batch, length, depth)], dim=2)


def region_maps(regions: jt.Var, features: ImageFeatures) -> jt.Var:
    """Vectors of the regions (B, M, D), resized bilinearly to the patch grid: (B, N, D)."""
    matrix = jt.array(grid_interpolation_matrix(features.region_grid, features.patch_grid))
    return jt.matmul(matrix.broadcast((regions.shape[0], *matrix.shape)), regions)


def pixel_features(features: ImageFeatures) -> jt.Var:
    """`concat[up(R), G, I]`, (B, N, 3D), without regions (B, N, 2D): the input of `lateral_proj`."""
    whole = features.whole.unsqueeze(1).broadcast(features.patches.shape)
    regions = [] if features.regions is None else [region_maps(features.regions, features)]
    return jt.concat([*regions, whole, features.patches], dim=2)


def partial_projection(x: jt.Var, layer: Linear, first: int, bias: bool = False) -> jt.Var:
    """The part of the output of `layer` that comes from x (…, width), its input from channel `first` on; float32."""
    weight = layer.weight[:, first : first + x.shape[-1]]
    return widen(linear(cast(x, layer.compute), weight, layer.bias if bias else None))


def class_queries(features: ImageFeatures, text: jt.Var, q_proj: Linear) -> jt.Var:
    """`q_proj(query_features(...))`, (B, M * C, D); the term of the text alone is computed once, not per region."""
    classes, depth = text.shape
    weighted = partial_projection(region_texts(features, text), q_proj, 0)
    alone = partial_projection(text, q_proj, depth, bias=True)  # (C, D)
    batch, length, _ = weighted.shape
    return (weighted.reshape(batch, length // classes, classes, depth) + alone).reshape(batch, length, depth)


def pixels(features: ImageFeatures, lateral_proj: Linear) -> jt.Var:
    """`lateral_proj(pixel_features(...))`, (B, N, D); regions and global are projected before they are repeated."""
    depth = features.whole.shape[-1]
    first = lateral_proj.weight.shape[1] - 2 * depth  # the weight is (D, 3D), without regions (D, 2D)
    whole = partial_projection(features.whole, lateral_proj, first, bias=True)
    patches = partial_projection(features.patches, lateral_proj, first + depth)
    if features.regions is not None:
        patches = patches + region_maps(partial_projection(features.regions, lateral_proj, 0), features)
    return patches + whole.unsqueeze(1)
