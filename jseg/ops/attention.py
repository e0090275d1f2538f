"""Attention of the encoder (with region tokens), of the towers and of the decoder (queries and pixels).

Tokens are (B, T, width), their heads neighbouring channels; where queries, keys and values lie side by side, they are
(B, T, 3 * width). All inputs have one type, float32, bfloat16 or float16, which is that of the output as well. On CPU
the kernels of jseg/ops/kernels/attention.h run, on CUDA those of attention.cuh: scores never reach memory, and dropped
weights are drawn again for the gradient.
"""

from collections.abc import Callable, Sequence

import jittor as jt
import numpy as np
from jittor import nn

from jseg.errors import UserError
from jseg.ops import compiled
from jseg.ops.device import constant
from jseg.ops.function import Function
from jseg.ops.half import in_float32
from jseg.ops.layers import draw_seed, keep_factors

Grid = tuple[int, int]  # rows, columns
FLOAT = "float32"
MASKED = -1e30  # exp(MASKED - maximum) is 0; finite, so that fast-math kernels need not know infinities
CUDA_DEPTH = 80  # the deepest heads whose float32 tiles fit into 99 KB of shared memory, as GPUs from 8.0 on have it


def check_region_grid(patch_grid: Grid, region_grid: Grid) -> None:
    """Raises UserError unless every region gets at least one patch."""
    if region_grid[0] > patch_grid[0] or region_grid[1] > patch_grid[1]:
        raise UserError(
            f"model.region_grid: {region_grid[0]}x{region_grid[1]} regions do not fit into an image of "
            f"{patch_grid[0]}x{patch_grid[1]} patches: use a larger image or fewer regions"
        )


def region_of_patch(patch_grid: Grid, region_grid: Grid) -> np.ndarray:
    """Index of the region that each patch belongs to, int32 (h * w,), row-major.

    A region is a block of h // rh by w // rw patches; those left over at the right and the bottom are marked -1.
    """
    if not min(region_grid):
        return np.full(patch_grid[0] * patch_grid[1], -1, np.int32)
    sizes = zip(patch_grid, region_grid, strict=True)
    rows, columns = np.ix_(*(np.arange(patches) // (patches // regions) for patches, regions in sizes))
    outside = (rows >= region_grid[0]) | (columns >= region_grid[1])
    return np.where(outside, -1, rows * region_grid[1] + columns).astype(np.int32).reshape(-1)


def attention_allowed(leading: int, patch_grid: Grid, region_grid: Grid, prompts: int = 0) -> np.ndarray:
    """Who may attend to whom, bool (T, T + K): queries `[leading | patches | regions]`, keys these and K prompts."""
    patches, regions = patch_grid[0] * patch_grid[1], region_grid[0] * region_grid[1]
    first_region, length = leading + patches, leading + patches + regions
    allowed = np.zeros((length, length + prompts), dtype=bool)
    allowed[:first_region, :first_region] = allowed[:first_region, length:] = True
    own = region_of_patch(patch_grid, region_grid)[:, None] == np.arange(regions)  # (N, M)
    allowed[leading:first_region, first_region:length] = own
    allowed[first_region:, leading:first_region] = own.T
    np.fill_diagonal(allowed[first_region:, first_region:length], True)
    return allowed


def _additive_mask(of: Callable[..., np.ndarray], *structure: object) -> np.ndarray:
    return np.where(of(*structure), 0.0, MASKED).astype(np.float32)


def attend(
    q: jt.Var, k: jt.Var, v: jt.Var, heads: int, mask: jt.Var | None = None, keep: jt.Var | None = None
) -> jt.Var:
    """`softmax(q k^T / sqrt(d) + mask) * keep @ v` in float32 by Jittor's operators; `keep` is (B, heads, Tq, Tk)."""
    q, k, v = (x.reshape(*x.shape[:2], heads, x.shape[2] // heads).transpose(0, 2, 1, 3) for x in (q, k, v))
    scores = nn.bmm_transpose(q * q.shape[-1] ** -0.5, k)
    if mask is not None:
        scores = scores + mask
    weights = (scores - scores.max(-1, keepdims=True).stop_grad()).exp()
    weights = weights / weights.sum(-1, keepdims=True)
    output = jt.matmul(weights if keep is None else weights * keep, v).transpose(0, 2, 1, 3)
    return output.reshape(*output.shape[:2], heads * output.shape[3])


def qkv_of(x: jt.Var) -> tuple[jt.Var, ...]:
    """Queries, keys and values (B, T, width) of x (B, T, 3 * width)."""
    return tuple(x[:, :, i * x.shape[2] // 3 : (i + 1) * x.shape[2] // 3] for i in range(3))


def _has_kernel(x: jt.Var, depth: int) -> bool:
    """Whether kernels run for tokens x with heads of `depth` channels."""
    return compiled.compiled(depth <= CUDA_DEPTH) and (x.dtype == FLOAT or bool(jt.flags.use_cuda))


def region_attention(
    projected: jt.Var, prompts: jt.Var, heads: int, leading: int, patch_grid: Grid, region_grid: Grid
) -> jt.Var:
    """Self-attention of the image encoder over tokens in the order `[leading | patches | regions]`, with prompts.

    A region sees the patches of its own block and itself; a patch sees all leading tokens, all patches, all prompts and
    its own region; a leading token sees leading tokens, patches and prompts. Prompts are seen only.

    `projected` (B, T, 3 * width) with T = leading + h * w + rh * rw, `prompts` (B, K, 3 * width), or (1, K, 3 * width),
    the same for all images. Grids are row-major. -> (B, T, width)
    """
    batch, length = projected.shape[:2]
    tokens = leading + patch_grid[0] * patch_grid[1] + region_grid[0] * region_grid[1]
    if tokens != length or prompts.shape[0] not in (1, batch) or projected.shape[-1] % (3 * heads):
        raise ValueError(f"tokens {projected.shape}, prompts {prompts.shape}, {heads} heads do not fit {tokens} tokens")
    if prompts.shape[0] < batch and not (jt.flags.no_grad or prompts.shape[1] == 0):
        prompts = prompts.broadcast((batch, *prompts.shape[1:]))  # the kernels' gradient is one for each image
    if _has_kernel(projected, projected.shape[-1] // (3 * heads)):
        return _joint(projected, prompts, heads, "REGIONS", (leading, *patch_grid, *region_grid))
    if projected.dtype != FLOAT:
        return in_float32(region_attention, (projected, prompts), heads, leading, patch_grid, region_grid)
    keys = jt.concat([projected, prompts.broadcast((batch, *prompts.shape[1:]))], dim=1)
    mask = constant(_additive_mask, attention_allowed, leading, patch_grid, region_grid, prompts.shape[1])
    return attend(qkv_of(projected)[0], *qkv_of(keys)[1:], heads, mask)


def self_attention(projected: jt.Var, heads: int, causal: bool = False) -> jt.Var:
    """Every token (B, T, 3 * width) attends to every token, or, `causal`, to itself and those before: (B, T, width)."""
    if _has_kernel(projected, projected.shape[-1] // (3 * heads)):
        return _joint(projected, None, heads, "CAUSAL" if causal else "FULL")
    if projected.dtype != FLOAT:
        return in_float32(self_attention, (projected,), heads, causal)
    return attend(*qkv_of(projected), heads, constant(_additive_mask, np.tri, projected.shape[1]) if causal else None)


def cross_attention(q: jt.Var, k: jt.Var, v: jt.Var, heads: int, dropout: float = 0.0) -> jt.Var:
    """Every query (B, Tq, width) attends to every key (B, Tk, width): (B, Tq, width).

    A share `dropout` of the attention weights is 0, drawn from seeded generators, and the others grow by as much.
    """
    (batch, queries, width), keys = q.shape, k.shape[1]
    if _has_kernel(q, width // heads):
        numbers = {"batch": batch, "heads": heads, "depth": width // heads, "queries": queries, "keys": keys}
        numbers, seed = numbers | {"dropout": dropout}, draw_seed() if dropout else jt.zeros((2,)).stop_grad()
        return _Attention.apply("cross", numbers, "true" if dropout else "false", (True, True, True), q, k, v, seed)
    if q.dtype != FLOAT:
        return in_float32(cross_attention, (q, k, v), heads, dropout)
    return attend(q, k, v, heads, None, keep_factors((batch, heads, queries, keys), dropout) if dropout else None)


def two_way_attention(first: jt.Var, second: jt.Var, heads: int, dropout: float = 0.0) -> Sequence[jt.Var]:
    """`cross_attention` of either side (B, T, 3 * width) to the other, (B, T, width) each, in one operator on CUDA."""
    depth = first.shape[2] // (3 * heads)
    if not (jt.flags.use_cuda and _has_kernel(first, depth)):
        (q, *own), (other_q, *others) = qkv_of(first), qkv_of(second)
        return cross_attention(q, *others, heads, dropout), cross_attention(other_q, *own, heads, dropout)
    numbers = {"batch": len(first), "heads": heads, "depth": depth, "queries": first.shape[1], "keys": second.shape[1]}
    seeds = [draw_seed() if dropout else jt.zeros((2,)).stop_grad() for _ in range(2)]
    variant = "true" if dropout else "false"
    return _Attention.apply("two_way", numbers | {"dropout": dropout}, variant, (True, True), first, second, *seeds)


def _joint(
    projected: jt.Var, prompts: jt.Var | None, heads: int, mask: str, structure: tuple[int, ...] = (0, 0, 0, 0, 0)
) -> jt.Var:
    """`region_attention` and `self_attention` through jseg/ops/kernels; `structure`: leading, patch and region grid."""
    batch, length, width = projected.shape
    count, prompt_batch = (0, batch) if prompts is None else (prompts.shape[1], prompts.shape[0])
    # in the first layer, where nothing before the prompts trains, only theirs are wanted of all gradients
    frozen = projected.is_stop_grad()
    numbers = {"batch": batch, "heads": heads, "depth": width // (3 * heads), "tokens": length}
    numbers |= {"prompts": count, "causal": mask == "CAUSAL", "shared": prompt_batch < batch, "frozen": frozen}
    numbers |= dict(zip(("leading", "rows", "columns", "region_rows", "region_columns"), structure, strict=True))
    return _Attention.apply("joint", numbers, mask, (not frozen, count > 0), projected, prompts)


class _Attention(Function):
    """Attention by the functions `<name>_forward` and `<name>_backward` that the kernels of both devices have."""

    def execute(
        self, name: str, numbers: dict[str, float], variant: str, wanted: tuple[bool, ...], *inputs: jt.Var | None
    ) -> jt.Var | Sequence[jt.Var]:
        self.name, self.numbers, self.variant, self.wanted = name, numbers, variant, wanted
        inputs = [inputs[0] if x is None else x for x in inputs]  # any place in memory will do: it is not read
        sizes = [x.shape[:2] for x in (inputs[:2] if name == "two_way" else inputs[:1])]  # of what has queries
        shapes = [(batch, length, numbers["heads"] * numbers["depth"]) for batch, length in sizes]
        shapes += [(batch, numbers["heads"], length) for batch, length in sizes]
        found = self._call("forward", inputs, shapes, len(sizes))
        self.saved = *inputs, *found
        return found[: len(sizes)] if name == "two_way" else found[0]

    def grad(self, *grad_out: jt.Var) -> tuple[jt.Var | None, ...]:
        shapes = [x.shape if flag else (1, 1, 1) for x, flag in zip(self.saved, self.wanted, strict=False)]
        row_sums = []
        if jt.flags.use_cuda:  # the kernels also write gradients that nobody wants, and keep sums of rows in memory
            shapes[0], row_sums = self.saved[0].shape, [x.shape for x in self.saved[-len(grad_out) :]]
        gradients = self._call("backward", [*self.saved, *grad_out], shapes + row_sums, len(row_sums))
        found = [x if flag else None for x, flag in zip(gradients, self.wanted, strict=False)]
        return *[None] * 4, *found, *[None] * (len(self.saved) - 2 * len(grad_out) - len(found))

    def _call(self, direction: str, inputs: list[jt.Var], shapes: list[tuple[int, ...]], statistics: int) -> list:
        """The outputs; the last `statistics` of them are float32, the others as the inputs."""
        header = {"forward": "attention.h", "backward": "attention_backward.h"}[direction]
        padded, function = (self.numbers["depth"] + 15) // 16 * 16, f"{self.name}_{direction}"
        dtype = str(inputs[0].dtype)
        number_type = "TensorFloat32" if dtype == FLOAT and jt.flags.use_tensorcore == 1 else compiled.CUDA_TYPES[dtype]
        cuda = "attention_calls.cuh", f"{function}<{number_type}, {padded}, {self.variant}>"
        dtypes = [dtype] * (len(shapes) - statistics) + [FLOAT] * statistics
        return compiled.call(header, function, inputs, shapes, self.numbers, dtypes, cuda)
