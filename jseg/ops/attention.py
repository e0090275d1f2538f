"""Attention of the encoder (with region tokens), of the text tower (causal) and of the decoder (queries and pixels).

The formulae are those of `jseg.ops.attention_reference`. The backward pass is written out, because Jittor's automatic
one runs the softmax in many unfused passes; measured at 12 heads x 1051 tokens x 64 on one CPU core, forward and
backward together: 1.8 s with automatic differentiation, 0.26 s like this.
"""

from __future__ import annotations

from functools import lru_cache

import jittor as jt
import numpy as np

from jseg.model.region_bridge import attention_allowed

LARGE_PRODUCT = 2**22  # multiply-adds
MASKED = -1e30  # exp(MASKED - maximum) is 0; finite, so that fast-math kernels need not know infinities


def product(a: jt.Var, b: jt.Var) -> jt.Var:
    """(B, heads, n, m) @ (B, heads, m, k) -> (B, heads, n, k).

    On CPU, Jittor gives only 2-D products to oneDNN and runs batched ones in a plain loop on one core, a third as fast:
    large ones are therefore multiplied one by one.
    """
    batch, heads, rows, inner = a.shape
    if jt.flags.use_cuda or rows * inner * b.shape[-1] < LARGE_PRODUCT:
        return jt.matmul(a, b)
    a, b = a.reshape(batch * heads, rows, inner), b.reshape(batch * heads, inner, -1)
    return jt.stack([jt.matmul(a[i], b[i]) for i in range(batch * heads)]).reshape(batch, heads, rows, -1)


def transposed(x: jt.Var) -> jt.Var:
    """(B, heads, n, m) -> (B, heads, m, n)"""
    return x.transpose(0, 1, 3, 2)


class SoftmaxAttention(jt.Function):
    """`softmax(q k^T / sqrt(d) + mask) * keep @ v` with its gradient by hand; call `SoftmaxAttention.apply(...)`."""

    def execute(self, q: jt.Var, k: jt.Var, v: jt.Var, mask: jt.Var | None, keep: jt.Var | None) -> jt.Var:
        """Shapes as in `masked_attention`; `mask` (Tq, Tk) is added to the scores."""
        self.scale = q.shape[-1] ** -0.5
        scores = product(q * self.scale, transposed(k))
        if mask is not None:
            scores = scores + mask
        weights = (scores - scores.max(-1, keepdims=True)).exp()
        weights = weights / weights.sum(-1, keepdims=True)
        output = product(weights if keep is None else weights * keep, v)
        self.saved = q, k, v, weights, keep, output
        return output

    def grad(self, grad_output: jt.Var) -> tuple[jt.Var | None, ...]:
        """Gradients of q, k and v; Jittor never runs those that nobody asks for."""
        q, k, v, weights, keep, output = self.saved
        kept = weights if keep is None else weights * keep
        grad_weights = product(grad_output, transposed(v))
        if keep is not None:
            grad_weights = grad_weights * keep
        # sum over keys of weight * its gradient, without a pass over the (Tq, Tk) matrices
        row_sums = (grad_output * output).sum(-1, keepdims=True)
        grad_scores = weights * (grad_weights - row_sums) * self.scale
        grad_q = product(grad_scores, k)
        # as (q^T grad)^T, so that only small matrices are transposed
        grad_k = transposed(product(transposed(q), grad_scores))
        grad_v = transposed(product(transposed(grad_output), kept))
        return grad_q, grad_k, grad_v, None, None


def _additive(allowed: np.ndarray) -> jt.Var:
    return jt.array(np.where(allowed, 0.0, MASKED).astype(np.float32)).stop_grad()


@lru_cache(maxsize=8)
def _region_mask(leading: int, patch_grid: tuple[int, int], region_grid: tuple[int, int]) -> jt.Var:
    return _additive(attention_allowed(leading, patch_grid, region_grid))


@lru_cache(maxsize=8)
def _causal_mask(length: int) -> jt.Var:
    return _additive(np.tril(np.ones((length, length), dtype=bool)))


def region_attention(
    q: jt.Var, k: jt.Var, v: jt.Var, leading: int, patch_grid: tuple[int, int], region_grid: tuple[int, int]
) -> jt.Var:
    """Self-attention of the image encoder over tokens in the order `[leading | patches | regions]`.

    A region sees the patches of its own block and itself; a patch sees all leading tokens, all patches and its own
    region; a leading token (class token, prompts) sees leading tokens and patches.

    Args:
        q, k, v: (B, heads, T, d) with T = leading + h * w + rh * rw.
        leading: number of tokens before the patches.
        patch_grid: (h, w), patches in row-major order.
        region_grid: (rh, rw), regions in row-major order.

    Returns:
        (B, heads, T, d)
    """
    return SoftmaxAttention.apply(q, k, v, _region_mask(leading, tuple(patch_grid), tuple(region_grid)), None)


def causal_attention(q: jt.Var, k: jt.Var, v: jt.Var) -> jt.Var:
    """Self-attention over (B, heads, T, d) in which a token sees itself and those before it."""
    return SoftmaxAttention.apply(q, k, v, _causal_mask(q.shape[2]), None)


def cross_attention(q: jt.Var, k: jt.Var, v: jt.Var, keep: jt.Var | None = None) -> jt.Var:
    """Every query (B, heads, Tq, d) attends to every key (B, heads, Tk, d).

    Args:
        keep: (B, heads, Tq, Tk) factors on the attention weights (dropout mask over the share kept); None = no dropout.

    Returns:
        (B, heads, Tq, d)
    """
    return SoftmaxAttention.apply(q, k, v, None, keep)
