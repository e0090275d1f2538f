"""Types of 16 bits, bfloat16 and float16: rounding to them, and products of them.

On CUDA, Jittor rounds to nearest and cuBLAS adds products of halves up in float32, perhaps in parts which it rounds. On
CPU, Jittor cuts bfloat16 off and adds up in 16 bits; so there everything is computed in float32 and then rounded.
"""

from collections.abc import Callable
from typing import Any

import jittor as jt

from jseg.ops import compiled
from jseg.ops.function import Function

HALVES = ("bfloat16", "float16")


def is_half(x: jt.Var) -> bool:
    """Whether x is bfloat16 or float16."""
    return str(x.dtype) in HALVES


def convert(x: jt.Var, dtype: str) -> jt.Var:
    """x (any shape) as `dtype`, rounded to nearest; for use inside of a `Function`: on CPU it has no gradient."""
    own = str(x.dtype)
    if own == dtype or jt.flags.use_cuda:
        return x if own == dtype else x.cast(dtype)
    function = f"to_float<{own.capitalize()}>" if dtype == "float32" else f"to_half<{dtype.capitalize()}>"
    (converted,) = compiled.call("half.h", function, [x.reshape(-1)], [(x.numel(),)], {"size": x.numel()}, [dtype])
    return converted.reshape(x.shape)


class _Cast(Function):
    """Conversion whose gradient is the conversion back, rounded to nearest too."""

    def execute(self, x: jt.Var, dtype: str) -> jt.Var:
        self.dtype = str(x.dtype)
        return convert(x, dtype)

    def grad(self, grad_out: jt.Var) -> tuple[jt.Var, None]:
        return convert(grad_out, self.dtype), None


def cast(x: jt.Var, dtype: str) -> jt.Var:
    """x (any shape) as `dtype` (float32, bfloat16 or float16), to nearest; x itself when it is that already."""
    if str(x.dtype) == dtype:
        return x
    if x.is_stop_grad() or jt.flags.no_grad:
        return convert(x, dtype).stop_grad()
    return x.cast(dtype) if jt.flags.use_cuda else _Cast.apply(x, dtype)  # Jittor's own is fused with its neighbours


def widen(x: jt.Var) -> jt.Var:
    """x as float32."""
    return cast(x, "float32")


def in_float32(operator: Callable[..., jt.Var], inputs: tuple[jt.Var, ...], *arguments: Any) -> jt.Var:
    """`operator` of half inputs computed in float32, its result rounded to the type of the first one."""
    return cast(operator(*map(widen, inputs), *arguments), str(inputs[0].dtype))


def product(a: jt.Var, b: jt.Var, transpose_a: bool = False, transpose_b: bool = False) -> jt.Var:
    """Product of two matrices of the same type, added up in float32, rounded to that type; without gradient."""
    if jt.flags.use_cuda:
        return jt.compile_extern.cublas_ops.cublas_matmul(a, b, transpose_a, transpose_b)
    wide = (x.float32().transpose(1, 0) if flag else x.float32() for x, flag in ((a, transpose_a), (b, transpose_b)))
    return convert(jt.matmul(*wide), str(a.dtype))
