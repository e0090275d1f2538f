"""Dropout in one pass: the compiled form stores a seed and draws again for the gradient."""

from __future__ import annotations

import jittor as jt
import numpy as np

from jseg.ops import compiled
from jseg.ops.function import Function
from jseg.ops.half import in_float32, is_half


def draw_seed() -> jt.Var:
    """(2,) float32 whose bits seed a kernel's random numbers (`seed_of` in C++).

    It comes from NumPy's generator, which Jittor seeds with its own: Jittor's own draws happen when it computes, in an
    order that may change.
    """
    return jt.array(np.frombuffer(np.random.bytes(8), np.float32).copy()).stop_grad()


def keep_factors(shape: tuple[int, ...], rate: float) -> jt.Var:
    """float32 factors of that shape: 0 with probability `rate`, else 1 / (1 - rate); drawn from Jittor's generator."""
    return (jt.random(tuple(shape)).stop_grad() >= rate).float32() / (1 - rate)


def dropout(x: jt.Var, rate: float) -> jt.Var:
    """x (any shape, float32 or half) with a share `rate` of its elements 0 and the others divided by `1 - rate`."""
    if is_half(x):
        return in_float32(dropout, (x,), rate)
    if compiled.compiled():
        return _Dropout.apply(x, draw_seed(), rate)
    return x * keep_factors(x.shape, rate)


class _Dropout(Function):
    """`dropout` through jseg/ops/kernels/layers.h."""

    def execute(self, x: jt.Var, seed: jt.Var, rate: float) -> jt.Var:
        self.seed, self.rate = seed, rate
        return self._drop(x)

    def grad(self, grad_out: jt.Var) -> tuple[jt.Var, None, None]:
        return self._drop(grad_out), None, None

    def _drop(self, x: jt.Var) -> jt.Var:
        size = x.numel()
        numbers = {"size": size, "rate": self.rate}
        (dropped,) = compiled.call("layers.h", "dropout", [x.reshape(-1), self.seed], [(size,)], numbers)
        return dropped.reshape(x.shape)
