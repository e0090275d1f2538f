"""Types of 16 bits, bfloat16 and float16: rounding to them, and products of them.

On CUDA, Jittor's conversions round to nearest and cuBLAS adds products of halves up in float32. On CPU, Jittor cuts
bfloat16 off instead of rounding it, and adds 16-bit products up in 16 bits; so there everything is computed in float32
from rounded inputs, and the result is rounded: the numbers of half precision, without its speed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jittor as jt

from jseg.ops import compiled

HALVES = ("bfloat16", "float16")


def is_half(x: jt.Var) -> bool:
    """Whether x is bfloat16 or float16."""
    return str(x.dtype) in HALVES


def rounded(x: jt.Var, dtype: str) -> jt.Var:
    """x (any shape) as `dtype`, to nearest; meant for inside of a `jt.Function`: its own gradient is not right."""
    own = str(x.dtype)
    if own == dtype:
        return x
    if jt.flags.use_cuda:
        return x.cast(dtype)
    to, half = ("to_float", own) if dtype == "float32" else ("to_half", dtype)
    pointers = "(const uint16_t*)in0_p, out0_p" if dtype == "float32" else "in0_p, (uint16_t*)out0_p"
    body = f'{to}<{half.capitalize()}>(number("size"), {pointers});'
    flat = x.reshape(-1)
    (converted,) = compiled.call("half.h", body, [flat], [flat.shape], {"size": flat.shape[0]}, [dtype])
    return converted.reshape(x.shape)


class _Cast(jt.Function):
    """Conversion whose gradient is the conversion back, rounded to nearest too."""

    def execute(self, x: jt.Var, dtype: str) -> jt.Var:
        self.dtype = str(x.dtype)
        return rounded(x, dtype)

    def grad(self, grad_out: jt.Var) -> tuple[jt.Var, None]:
        return rounded(grad_out, self.dtype), None


def cast(x: jt.Var, dtype: str) -> jt.Var:
    """x (any shape) as `dtype` (float32, bfloat16 or float16), to nearest; x itself when it is that already."""
    if str(x.dtype) == dtype:
        return x
    if x.is_stop_grad() or jt.flags.no_grad:
        return rounded(x, dtype).stop_grad()
    return _Cast.apply(x, dtype)


def widen(x: jt.Var) -> jt.Var:
    """x as float32."""
    return cast(x, "float32")


def in_float32(operator: Callable[..., jt.Var], inputs: tuple[jt.Var, ...], *arguments: Any) -> jt.Var:
    """`operator` of half inputs computed in float32, its result rounded to the type of the first one."""
    return cast(operator(*map(widen, inputs), *arguments), str(inputs[0].dtype))


def product(a: jt.Var, b: jt.Var, transpose_a: bool = False, transpose_b: bool = False) -> jt.Var:
    """Product of two matrices of the same 16-bit type, added up in float32, rounded to that type; without gradient."""
    if jt.flags.use_cuda:
        return jt.compile_extern.cublas_ops.cublas_matmul(a, b, transpose_a, transpose_b)
    wide_a, wide_b = (
        x.float32().transpose(1, 0) if flag else x.float32() for x, flag in ((a, transpose_a), (b, transpose_b))
    )
    return rounded(jt.matmul(wide_a, wide_b), str(a.dtype))
