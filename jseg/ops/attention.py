"""Attention of the encoder (with region tokens), of the towers and of the decoder (queries and pixels).

All take and return tokens (B, T, width) whose heads are neighbouring channels: nothing is transposed. All inputs are of
one type, float32, bfloat16 or float16, which is that of the output as well. On CPU the kernels of
jseg/ops/kernels/attention.h run, on CUDA those of attention.cuh: scores never reach memory, the region structure is
computed, dropped weights are drawn again for the gradient. Elsewhere (see `jseg.ops.compiled`) it is `SoftmaxAttention`
in plain operators, whose gradient is written out because Jittor's automatic one runs the softmax in many passes.
"""

from __future__ import annotations

from functools import lru_cache

import jittor as jt
import numpy as np

from jseg.ops import compiled
from jseg.ops.dropout import draw_seed, keep_factors
from jseg.ops.function import Function
from jseg.ops.half import in_float32
from jseg.ops.region_structure import attention_allowed

FLOAT = "float32"
MASKED = -1e30  # exp(MASKED - maximum) is 0; finite, so that fast-math kernels need not know infinities


def transpose(x: jt.Var) -> jt.Var:
    """(B, heads, n, m) -> (B, heads, m, n)"""
    return x.transpose(0, 1, 3, 2)


class SoftmaxAttention(Function):
    """`softmax(q k^T / sqrt(d) + mask) * keep @ v` with its gradient by hand; call `SoftmaxAttention.apply(...)`."""

    def execute(self, q: jt.Var, k: jt.Var, v: jt.Var, mask: jt.Var | None, keep: jt.Var | None) -> jt.Var:
        """q (B, heads, Tq, d), k and v (B, heads, Tk, d), all float32 -> (B, heads, Tq, d).

        Args:
            mask: (Tq, Tk), added to the scores; None = nothing is masked.
            keep: (B, heads, Tq, Tk) factors on the attention weights (dropout); None = 1.
        """
        self.scale = q.shape[-1] ** -0.5
        scores = jt.matmul(q * self.scale, transpose(k))
        if mask is not None:
            scores = scores + mask
        weights = (scores - scores.max(-1, keepdims=True)).exp()
        weights = weights / weights.sum(-1, keepdims=True)
        output = jt.matmul(weights if keep is None else weights * keep, v)
        self.saved = q, k, v, weights, keep, output
        return output

    def grad(self, grad_output: jt.Var) -> tuple[jt.Var | None, ...]:
        """Gradients of q, k and v; Jittor never runs those that nobody asks for."""
        q, k, v, weights, keep, output = self.saved
        kept = weights if keep is None else weights * keep
        grad_weights = jt.matmul(grad_output, transpose(v))
        if keep is not None:
            grad_weights = grad_weights * keep
        # sum over keys of weight * its gradient, without a pass over the (Tq, Tk) matrices
        row_sums = (grad_output * output).sum(-1, keepdims=True)
        grad_scores = weights * (grad_weights - row_sums) * self.scale
        grad_q = jt.matmul(grad_scores, k)
        # as (q^T grad)^T, so that only small matrices are transposed
        grad_k = transpose(jt.matmul(transpose(q), grad_scores))
        grad_v = transpose(jt.matmul(transpose(grad_output), kept))
        return grad_q, grad_k, grad_v, None, None


def split_heads(x: jt.Var, heads: int) -> jt.Var:
    """(B, T, W) -> (B, heads, T, W / heads)"""
    batch, length, width = x.shape
    return x.reshape(batch, length, heads, width // heads).transpose(0, 2, 1, 3)


def merge_heads(x: jt.Var) -> jt.Var:
    """(B, heads, T, d) -> (B, T, heads * d)"""
    batch, heads, length, depth = x.shape
    return x.transpose(0, 2, 1, 3).reshape(batch, length, heads * depth)


def split_projected(projected: jt.Var, heads: int) -> tuple[jt.Var, ...]:
    """q, k and v (B, heads, T, d) of a joint projection (B, T, 3 * width)."""
    width = projected.shape[-1] // 3
    return tuple(split_heads(projected[:, :, i * width : (i + 1) * width], heads) for i in range(3))


def allowed_with_prompts(
    leading: int, prompts: int, patch_grid: tuple[int, int], region_grid: tuple[int, int]
) -> np.ndarray:
    """Who may attend to whom, bool (T, T + K): `attention_allowed`, and prompts as keys of all but the regions."""
    allowed = attention_allowed(leading, patch_grid, region_grid)
    prompted = np.zeros((len(allowed), prompts), dtype=bool)
    prompted[: leading + patch_grid[0] * patch_grid[1]] = True
    return np.concatenate([allowed, prompted], axis=1)


def _additive(allowed: np.ndarray) -> jt.Var:
    return jt.array(np.where(allowed, 0.0, MASKED).astype(np.float32)).stop_grad()


@lru_cache(maxsize=8)
def _region_mask(leading: int, prompts: int, patch_grid: tuple[int, int], region_grid: tuple[int, int]) -> jt.Var:
    return _additive(allowed_with_prompts(leading, prompts, patch_grid, region_grid))


@lru_cache(maxsize=8)
def _causal_mask(length: int) -> jt.Var:
    return _additive(np.tril(np.ones((length, length), dtype=bool)))


CUDA_DEPTH = 80  # the deepest heads whose float32 tiles fit into 99 KB of shared memory, as GPUs from 8.0 on have it


def cuda_type(x: jt.Var) -> str:
    """The number type of jseg/ops/kernels/fragments.cuh for tokens x; TF32 where Jittor's products use it too."""
    single = "TensorFloat32" if jt.flags.use_tensorcore == 1 else "Float32"
    return {"float32": single, "bfloat16": "BFloat16", "float16": "Float16"}[str(x.dtype)]


def _compiled(x: jt.Var, depth: int) -> bool:
    """Whether kernels run for tokens x with heads of `depth` channels."""
    return compiled.compiled(depth <= CUDA_DEPTH) and (x.dtype == FLOAT or bool(jt.flags.use_cuda))


def region_attention(
    projected: jt.Var,
    prompts: jt.Var,
    heads: int,
    leading: int,
    patch_grid: tuple[int, int],
    region_grid: tuple[int, int],
) -> jt.Var:
    """Self-attention of the image encoder over tokens in the order `[leading | patches | regions]`, with prompts.

    A region sees the patches of its own block and itself; a patch sees all leading tokens, all patches, all prompts and
    its own region; a leading token sees leading tokens, patches and prompts. Prompts are seen only: they have keys and
    values, and no output.

    Args:
        projected: (B, T, 3 * width), queries, keys and values side by side; T = leading + h * w + rh * rw.
        prompts: (B, K, 3 * width), likewise; or (1, K, 3 * width), the same for all images.
        leading: number of tokens before the patches.
        patch_grid: (h, w), patches in row-major order.
        region_grid: (rh, rw), regions in row-major order.

    Returns:
        (B, T, width)

    Raises:
        ValueError: the sizes do not fit together.
    """
    patch_grid, region_grid = tuple(patch_grid), tuple(region_grid)
    batch, length = projected.shape[:2]
    tokens = leading + patch_grid[0] * patch_grid[1] + region_grid[0] * region_grid[1]
    if tokens != length or prompts.shape[0] not in (1, batch) or projected.shape[-1] % (3 * heads):
        raise ValueError(
            f"tokens {tuple(projected.shape)} and prompts {tuple(prompts.shape)} do not fit {leading} + {patch_grid} + "
            f"{region_grid} tokens in {heads} heads"
        )
    if prompts.shape[0] < batch and not (jt.flags.no_grad or prompts.shape[1] == 0):
        prompts = prompts.broadcast((batch, *prompts.shape[1:]))  # the kernels' gradient is one for each image
    if _compiled(projected, projected.shape[-1] // (3 * heads)):
        return _JointAttention.apply(projected, prompts, heads, (leading, *patch_grid, *region_grid), "REGIONS")
    if projected.dtype != FLOAT:
        return in_float32(region_attention, (projected, prompts), heads, leading, patch_grid, region_grid)
    q, k, v = split_projected(projected, heads)
    prompts = prompts.broadcast((projected.shape[0], *prompts.shape[1:]))
    _, prompt_k, prompt_v = split_projected(prompts, heads)
    k, v = jt.concat([k, prompt_k], dim=2), jt.concat([v, prompt_v], dim=2)
    mask = _region_mask(leading, prompts.shape[1], patch_grid, region_grid)
    return merge_heads(SoftmaxAttention.apply(q, k, v, mask, None))


def self_attention(projected: jt.Var, heads: int, causal: bool = False) -> jt.Var:
    """Every token attends to every token, or, `causal`, to itself and those before it.

    Args:
        projected: (B, T, 3 * width), queries, keys and values side by side.

    Returns:
        (B, T, width)
    """
    if _compiled(projected, projected.shape[-1] // (3 * heads)):
        return _JointAttention.apply(projected, None, heads, (0, 0, 0, 0, 0), "CAUSAL" if causal else "FULL")
    if projected.dtype != FLOAT:
        return in_float32(self_attention, (projected,), heads, causal)
    mask = _causal_mask(projected.shape[1]) if causal else None
    return merge_heads(SoftmaxAttention.apply(*split_projected(projected, heads), mask, None))


def cross_attention(q: jt.Var, k: jt.Var, v: jt.Var, heads: int, dropout: float = 0.0) -> jt.Var:
    """Every query (B, Tq, width) attends to every key (B, Tk, width).

    Args:
        dropout: share of the attention weights that is dropped, in [0, 1); drawn from Jittor's generator.

    Returns:
        (B, Tq, width)
    """
    if _compiled(q, q.shape[-1] // heads):
        seed = draw_seed() if dropout else jt.zeros((2,)).stop_grad()
        return _CrossAttention.apply(q, k, v, seed, heads, dropout)
    if q.dtype != FLOAT:
        return in_float32(cross_attention, (q, k, v), heads, dropout)
    keep = keep_factors((q.shape[0], heads, q.shape[1], k.shape[1]), dropout) if dropout else None
    return merge_heads(SoftmaxAttention.apply(*(split_heads(x, heads) for x in (q, k, v)), None, keep))


def _call(
    function: str,
    inputs: list[jt.Var],
    shapes: list[tuple[int, ...]],
    numbers: dict[str, float],
    variant: str,
    statistics: int = 0,
) -> list[jt.Var]:
    """Runs a function that both devices have; its last `statistics` outputs are float32, the others as the inputs."""
    header = "attention.h" if function.endswith("forward") else "attention_backward.h"
    padded, dtype = (numbers["depth"] + 15) // 16 * 16, str(inputs[0].dtype)
    cuda = "attention_calls.cuh", f"{function}<{cuda_type(inputs[0])}, {padded}, {variant}>"
    dtypes = [dtype] * (len(shapes) - statistics) + [FLOAT] * statistics
    return compiled.call(header, function, inputs, shapes, numbers, dtypes, cuda)


def _row_sums(log_sums: jt.Var) -> list[tuple[int, ...]]:
    """Shapes of the statistics that a gradient has besides: the CUDA kernels keep sums of rows in memory."""
    return [log_sums.shape] if jt.flags.use_cuda else []


class _JointAttention(Function):
    """`region_attention` and `self_attention` through jseg/ops/kernels."""

    def execute(
        self, projected: jt.Var, prompts: jt.Var | None, heads: int, structure: tuple[int, ...], mask: str
    ) -> jt.Var:
        batch, length, width = projected.shape[0], projected.shape[1], projected.shape[2] // 3
        names = ("leading", "rows", "columns", "region_rows", "region_columns")
        self.mask, self.prompts = mask, projected if prompts is None else prompts
        self.numbers = {"batch": batch, "heads": heads, "depth": width // heads, "tokens": length}
        count, prompt_batch = (0, batch) if prompts is None else (prompts.shape[1], prompts.shape[0])
        self.numbers |= {"prompts": count, "causal": mask == "CAUSAL", "shared": prompt_batch < batch}
        # in the first layer, where nothing before the prompts trains, only theirs are wanted of all gradients
        self.numbers["frozen"] = projected.is_stop_grad() and not jt.flags.use_cuda
        self.numbers |= dict(zip(names, structure, strict=True))
        shapes = [(batch, length, width), (batch, heads, length)]
        output, log_sums = _call("joint_forward", [projected, self.prompts], shapes, self.numbers, mask, 1)
        self.saved = projected, output, log_sums
        return output

    def grad(self, grad_out: jt.Var) -> tuple[jt.Var | None, ...]:
        projected, output, log_sums = self.saved
        inputs = [projected, self.prompts, output, log_sums, grad_out]
        wanted = not self.numbers["frozen"], self.numbers["prompts"] > 0
        shapes = [x.shape if flag else (1, 1, 1) for x, flag in zip(inputs[:2], wanted, strict=True)]
        row_sums = _row_sums(log_sums)
        gradients = _call("joint_backward", inputs, shapes + row_sums, self.numbers, self.mask, len(row_sums))
        return *(x if flag else None for x, flag in zip(gradients[:2], wanted, strict=True)), None, None, None


class _CrossAttention(Function):
    """`cross_attention` through jseg/ops/kernels."""

    def execute(self, q: jt.Var, k: jt.Var, v: jt.Var, seed: jt.Var, heads: int, dropout: float) -> jt.Var:
        batch, queries, width = q.shape
        self.numbers = {"batch": batch, "heads": heads, "depth": width // heads, "queries": queries}
        self.numbers |= {"keys": k.shape[1], "dropout": dropout}
        self.drops = "true" if dropout else "false"
        inputs, shapes = [q, k, v, seed], [q.shape, (batch, heads, queries)]
        output, log_sums = _call("cross_forward", inputs, shapes, self.numbers, self.drops, 1)
        self.saved = *inputs, output, log_sums
        return output

    def grad(self, grad_out: jt.Var) -> tuple[jt.Var | None, ...]:
        row_sums = _row_sums(self.saved[-1])
        inputs, shapes = [*self.saved, grad_out], [*(x.shape for x in self.saved[:3]), *row_sums]
        gradients = _call("cross_backward", inputs, shapes, self.numbers, self.drops, len(row_sums))
        return *gradients[:3], None, None, None
