"""CLIP's image tower (https://github.com/openai/CLIP), with OpenAI's state names but for the prefix `visual.`."""

import jittor as jt
import numpy as np
from jittor import nn

from jseg.clip.blocks import LayerNorm, Trace, Transformer, normal, random_tower_weights, uniform
from jseg.errors import UserError
from jseg.ops.attention import self_attention
from jseg.ops.bilinear import resize_bilinear
from jseg.ops.device import transpose
from jseg.ops.half import cast, widen
from jseg.ops.layers import linear


def side_of_grid(positions: np.ndarray | jt.Var) -> int:
    """n of a square grid of positions (1 + n * n, width); UserError when it is none."""
    side = round((positions.shape[0] - 1) ** 0.5)
    if side < 1 or side * side + 1 != positions.shape[0]:
        raise UserError(f"positional embedding of {positions.shape[0]} rows: expected 1 + n * n (a square grid)")
    return side


def resize_positions(positions: jt.Var, grid: tuple[int, int]) -> jt.Var:
    """Resizes a positional embedding bilinearly (half-pixel centres, no antialiasing) to a grid (h, w) of patches.

    (1 + n * n, width) float32, the class token's row first -> (1 + h * w, width) float32
    """
    side, width = side_of_grid(positions), positions.shape[1]
    if (side, side) == tuple(grid):
        return positions
    maps = transpose(positions[1:].reshape(1, side, side, width), 0, 3, 1, 2)
    patches = transpose(resize_bilinear(maps, grid), 0, 2, 3, 1).reshape(-1, width)
    return jt.concat([positions[:1], patches], dim=0)


class PatchEmbedding(nn.Module):
    """Linear projection of square patches; the weight has the shape of the convolution that it stands for."""

    compute = "float32"

    def __init__(self, patch_size: int, width: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.weight = jt.zeros((width, 3, patch_size, patch_size))

    def grid(self, images: jt.Var) -> tuple[int, int]:
        """(h, w) in patches of images (B, 3, H, W); UserError when a side is no multiple of the patch size."""
        (height, width), size = images.shape[2:], self.patch_size
        if height % size or width % size or not height or not width:
            raise UserError(f"image of {height}x{width} pixels: both sides must be multiples of the patch size {size}")
        return height // size, width // size

    def execute(self, images: jt.Var) -> jt.Var:
        """(B, 3, H, W) -> (B, h * w, width), patches in row-major order; float32, on CUDA of type `compute`."""
        batch, (rows, columns), size = images.shape[0], self.grid(images), self.patch_size
        shape, index = (batch, rows, columns, 3, size, size), ["i0", "i3", f"i1*{size}+i4", f"i2*{size}+i5"]
        patches = cast(images.reindex(shape, index), self.compute).reshape(batch, rows * columns, 3 * size * size)
        return linear(patches, self.weight.reshape(-1, 3 * size * size), wide=not jt.flags.use_cuda)


class ImageTower(nn.Module):
    """Images -> embeddings; for other sizes and aspects than `image_size` pixels, positions are resized."""

    def __init__(
        self, image_size: int, patch_size: int, width: int, layers: int, heads: int, output_dim: int, eps: float = 1e-5
    ) -> None:
        super().__init__()
        side = image_size // patch_size
        self.class_embedding, self.positional_embedding = jt.zeros(width), jt.zeros((1 + side * side, width))
        self.proj = jt.zeros((width, output_dim))
        self.conv1 = PatchEmbedding(patch_size, width)
        self.ln_pre, self.transformer = LayerNorm(width, eps), Transformer(width, layers, heads, eps)
        self.ln_post = LayerNorm(width, eps)

    def positions(self, grid: tuple[int, int]) -> jt.Var:
        """The positional embedding for a patch grid (h, w): (1 + h * w, width)."""
        return resize_positions(self.positional_embedding, grid)

    def execute(self, images: jt.Var, dense: bool = False, trace: Trace | None = None) -> jt.Var:
        """Embeddings of normalised images, not normalised themselves; `dense` also embeds every patch.

        (B, 3, H, W) float32 -> (B, output_dim); dense: (B, 1 + h * w, output_dim), the class token first. In `trace`
        are left `tokens_in` and `tokens_block<i>`, the input of block 0 and the output of block i.
        """
        positions, batch = self.positions(self.conv1.grid(images)), images.shape[0]
        tokens = widen(self.conv1(images)) + positions[1:]
        first = (self.class_embedding + positions[0]).broadcast((batch, 1, tokens.shape[-1]))
        tokens = self.ln_pre(jt.concat([first, tokens], dim=1))
        if trace is not None:
            trace["tokens_in"] = tokens
        tokens = self.transformer(tokens, self_attention, trace)
        return jt.matmul(self.ln_post(tokens if dense else tokens[:, 0]), self.proj)


def random_image_weights(tower: ImageTower, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Weights as CLIP initialises its image tower, by state name: what an untrained tower starts from."""
    width = tower.transformer.width
    inner, outer = width**-0.5, (4 * width) ** -0.5
    draws = {
        **dict.fromkeys(("class_embedding", "positional_embedding", "proj"), (normal, inner)),
        "conv1.weight": (uniform, int(np.prod(tower.conv1.weight.shape[1:])) ** -0.5),
        "attn.in_proj_weight": (uniform, (6 / (4 * width)) ** 0.5),  # Xavier
        **dict.fromkeys(("attn.out_proj.weight", "mlp.c_fc.weight", "mlp.c_fc.bias"), (uniform, inner)),
        **dict.fromkeys(("mlp.c_proj.weight", "mlp.c_proj.bias"), (uniform, outer)),
    }
    return random_tower_weights(tower, draws, generator)
