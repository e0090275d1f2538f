"""Norm of a gradient, and clipping by it (Pascanu et al., "On the difficulty of training recurrent neural networks",
ICML 2013, algorithm 1).
"""

from __future__ import annotations

import math

import jittor as jt


def gradient_norm(gradients: list[jt.Var]) -> float:
    """Euclidean norm over all tensors together; inf or nan when any value is not finite (or their squares overflow)."""
    squares = jt.concat([(gradient * gradient).sum() for gradient in gradients])
    return math.sqrt(float(squares.numpy().astype("float64").sum()))


def not_finite(names: list[str], gradients: list[jt.Var]) -> list[str]:
    """Names of the gradients that hold a value that is not finite, or whose squares overflow."""
    return [
        name for name, gradient in zip(names, gradients, strict=True) if not math.isfinite(gradient_norm([gradient]))
    ]


def clip(gradients: list[jt.Var], norm: float, highest: float) -> list[jt.Var]:
    """The gradients, scaled down to norm `highest` when their `norm` is larger; the same objects when it is not."""
    if not highest or norm <= highest:
        return gradients
    return [gradient * (highest / norm) for gradient in gradients]
