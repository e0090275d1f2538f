"""Norm of a gradient, and clipping by it (Pascanu et al., "On the difficulty of training recurrent neural networks",
ICML 2013, algorithm 1).
"""

from __future__ import annotations

import math

import jittor as jt
import numpy as np

from jseg.ops import compiled


def gradient_norm(gradients: list[jt.Var]) -> float:
    """Euclidean norm over all tensors together; inf or nan when any value is not finite (or their squares overflow)."""
    total = float(square_sums(gradients).astype(np.float64).sum())
    return math.sqrt(total) if total >= 0 else math.nan  # below 0 only where a device computed nonsense


def square_sums(gradients: list[jt.Var]) -> np.ndarray:
    """Sum of squares of each tensor, float32."""
    if not compiled.compiled():
        return jt.concat([(gradient * gradient).sum() for gradient in gradients]).numpy()
    jt.sync(gradients)
    table = np.stack([compiled.addresses(gradients), np.array([gradient.numel() for gradient in gradients])], axis=1)
    body = 'square_sums((const int64_t*)in0_p, number("count"), out0_p);'
    count = len(gradients)
    (sums,) = compiled.call("optimizer.h", body, [compiled.whole_numbers(table)], [(count,)], {"count": count})
    return sums.numpy()


def not_finite(names: list[str], gradients: list[jt.Var]) -> list[str]:
    """Names of the gradients that hold a value that is not finite, or whose squares overflow."""
    return [name for name, squares in zip(names, square_sums(gradients), strict=True) if not math.isfinite(squares)]


def clip(gradients: list[jt.Var], norm: float, highest: float) -> list[jt.Var]:
    """The gradients, scaled down to norm `highest` when their `norm` is larger; the same objects when it is not."""
    if not highest or norm <= highest:
        return gradients
    return [gradient * (highest / norm) for gradient in gradients]
