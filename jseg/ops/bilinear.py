"""Bilinear resizing as products with small matrices, with the numbers of the usual `align_corners=False`.

The backward pass of Jittor's own scatters; that of a product is many times faster and always adds in one order.
"""

from functools import lru_cache

import jittor as jt
import numpy as np
from jittor import nn

from jseg.ops.device import constant, transpose


def interpolation_taps(source: int, target: int) -> np.ndarray:
    """The two samples that each of `target` samples is made of: left, right, share of right, (3, target) float32."""
    # rounded to single precision as in PyTorch: else resized positions would differ by 3e-6 from the released models'
    ratio = np.float64(np.float32(source) / np.float32(target))
    position = np.maximum((np.arange(target) + 0.5) * ratio - 0.5, 0.0).astype(np.float32)
    left = np.minimum(np.floor(position), source - 1)
    return np.stack([left, np.minimum(left + 1, source - 1), position - left])


@lru_cache(maxsize=64)
def interpolation_matrix(source: int, target: int) -> np.ndarray:
    """(target, source) float32 matrix that resizes a line of `source` samples to `target` samples."""
    left, right, share = interpolation_taps(source, target)[:, :, None]
    matrix = (np.arange(source) == left) * (1 - share) + (np.arange(source) == right) * share
    matrix.setflags(write=False)  # shared by all callers
    return matrix


def grid_interpolation_matrix(source: tuple[int, int], target: tuple[int, int]) -> np.ndarray:
    """(th * tw, sh * sw) float32 matrix that resizes a map of row-major tokens from grid `source` to grid `target`."""
    return np.kron(interpolation_matrix(source[0], target[0]), interpolation_matrix(source[1], target[1]))


def resize_bilinear(maps: jt.Var, size: tuple[int, int]) -> jt.Var:
    """Resizes maps (B, C, h, w) float32 to (B, C, H, W) with `size` = (H, W)."""
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    return multiply(maps, *(constant(interpolation_matrix, *sides) for sides in zip(maps.shape[2:], size, strict=True)))


def multiply(maps: jt.Var, down: jt.Var, across: jt.Var) -> jt.Var:
    """Maps (B, C, h, w) times matrices that resize their columns (H, h) and their rows (W, w): (B, C, H, W)."""
    batch, channels, height, width = maps.shape
    # columns first: the transposes then touch the small maps only
    columns = nn.matmul_transpose(transpose(maps, 0, 1, 3, 2).reshape(-1, height), down)  # (B * C * w, H)
    rows = transpose(columns.reshape(batch, channels, width, len(down)), 0, 1, 3, 2)  # (B, C, H, w)
    return nn.matmul_transpose(rows.reshape(-1, width), across).reshape(batch, channels, len(down), len(across))
