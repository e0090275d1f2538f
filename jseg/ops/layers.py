"""Linear layers, layer normalisation and dropout, each in one pass over the data.

On CPU by jseg/ops/kernels/layers.h; on CUDA by cuBLAS, and layers.cuh for what comes after its products.
"""

from collections.abc import Sequence

import jittor as jt
import numpy as np
from jittor import nn

from jseg.ops import compiled
from jseg.ops.device import constant, join, split
from jseg.ops.function import Function, skip_frozen
from jseg.ops.half import cast, is_half, product, widen

ACTIVATIONS = ("none", "relu", "quick_gelu")  # the last one is CLIP's approximation of GELU: x * sigmoid(1.702 x)
SLICES = 128  # of the rows, on CUDA: sums over rows are sums over slices, added up
_rounded: dict[int, jt.Var] = {}  # the last gradient of layer normalisation in 16 bits, by its id in float32


@skip_frozen
def linear(
    x: jt.Var, weight: jt.Var, bias: jt.Var | None = None, activation: str = "none", residual: jt.Var | None = None,
    rate: float = 0.0, wide: bool = False, twice: bool = False,
) -> jt.Var | Sequence[jt.Var]:  # fmt: skip
    """`dropout(activation(x @ weight^T + bias), rate) + residual`, float32 if `wide` or with a residual, else as x.

    x is (…, depth), float32 or half; weight (columns, depth) is rounded to its type; bias (columns,) and residual
    (…, columns) are float32; `activation` is one of `ACTIVATIONS`.
    `twice`: a pair of the result, as x, on CPU as float32, to go into a product and to be the residual after it: on
    CUDA one pass adds up the gradients of both.
    """
    dtype = str(x.dtype)
    weight = cast(weight, dtype)
    if not compiled.compiled(cuda=True):
        y = nn.matmul_transpose(widen(x), widen(weight))
        y = y if bias is None else y + bias
        y = y * jt.sigmoid(1.702 * y) if activation == "quick_gelu" else nn.relu(y) if activation == "relu" else y
        y = cast(y, "float32" if wide else dtype)
    elif jt.flags.use_cuda:
        seed = draw_seed() if rate else None
        return _CublasLinear.apply(x, weight, bias, residual, seed, activation, rate, wide, twice)
    else:
        added = None if rate or is_half(x) else residual
        y = cast(_Linear.apply(widen(x), widen(weight), bias, added, activation), "float32" if wide else dtype)
        if added is not None:
            return y
    y = dropout(y, rate) if rate else y
    return (widen(y),) * 2 if twice else y if residual is None else widen(y) + residual


def _trained(*variables: jt.Var | None) -> list[bool]:
    return [var is not None and not var.is_stop_grad() for var in variables]


class _Linear(Function):
    """`linear` by its kernel; numbers mark absent inputs, as each variant is compiled apart."""

    def execute(self, x: jt.Var, weight: jt.Var, bias: jt.Var, residual: jt.Var, activation: str) -> jt.Var:
        self.wanted = _trained(x, weight, bias, residual)
        self.shape, (columns, depth) = x.shape, weight.shape
        flat = x.reshape(-1, depth)
        self.numbers = {"rows": flat.shape[0], "depth": depth, "columns": columns, "bias": bias is not None}
        self.numbers |= {"activation": ACTIVATIONS.index(activation), "residual": residual is not None}
        differentiated = any(self.wanted[:3]) and not jt.flags.no_grad
        # the input of an activation is kept for the gradient; for ReLU the output will do, when nothing is added to it
        stored = differentiated and (activation == "quick_gelu" or (activation == "relu" and residual is not None))
        shape = (flat.shape[0], columns)
        inputs = [flat, weight, weight[0] if bias is None else bias]
        inputs.append(flat if residual is None else residual.reshape(shape))
        outputs = compiled.call("layers.h", "linear_forward", inputs, [shape] * (1 + stored), self.numbers)
        if differentiated:
            # the gradient of a frozen weight is not computed, so that its input need not be kept
            self.saved = flat if self.wanted[1] else outputs[-1], weight, outputs[-1]
        return outputs[0].reshape(*x.shape[:-1], columns)

    def grad(self, grad_out: jt.Var) -> tuple[jt.Var | None, ...]:
        if not any(self.wanted[:3]):
            return None, None, None, grad_out, None
        rows, depth, columns = (self.numbers[name] for name in ("rows", "depth", "columns"))
        shapes = {"grad_x": (rows, depth), "grad_weight": (columns, depth), "grad_bias": (columns,)}
        wanted = [name for name, flag in zip(shapes, self.wanted, strict=False) if flag]
        numbers = self.numbers | {name: name in wanted for name in shapes}
        inputs, shapes = [*self.saved, grad_out.reshape(rows, columns)], [shapes[name] for name in wanted]
        found = dict(zip(wanted, compiled.call("layers.h", "linear_backward", inputs, shapes, numbers), strict=True))
        grad_x = found["grad_x"].reshape(self.shape) if "grad_x" in found else None
        return grad_x, found.get("grad_weight"), found.get("grad_bias"), grad_out if self.wanted[3] else None, None


class _CublasLinear(Function):
    """`linear` by a product of cuBLAS and one kernel for the rest; the product is kept for an activation's gradient."""

    def execute(
        self, x: jt.Var, weight: jt.Var, bias: jt.Var | None, residual: jt.Var | None, seed: jt.Var | None,
        activation: str, rate: float, wide: bool, twice: bool,
    ) -> jt.Var | list[jt.Var]:  # fmt: skip
        self.wanted, self.shape = _trained(x, weight, bias, residual), x.shape
        flat, dtype = x.reshape(-1, x.shape[-1]), str(x.dtype)
        y = product(flat, weight, transpose_b=True)
        self.numbers = {"rows": y.shape[0], "columns": y.shape[1], "slices": SLICES, "rate": rate}
        kind = 0 if residual is None else 1 + is_half(residual)
        self.numbers |= {"bias": bias is not None, "residual": kind, "activation": ACTIVATIONS.index(activation)}
        absent = constant(np.float32, (0.0,))
        bias, seed, added = (absent if var is None else var for var in (bias, seed, residual))
        self.saved = flat if self.wanted[1] else None, weight, weight if activation == "none" else y, bias, seed
        self.multiplied = activation != "none" or rate > 0  # what a gradient goes through before products
        written = "float32" if wide or residual is not None else dtype
        if self.multiplied or self.numbers["bias"] or written != dtype or residual is not None:
            inputs = [y, bias, added, seed]
            shape = (*x.shape[:-1], y.shape[1])
            (y,) = _call("linear_epilogue", (dtype, written), inputs, [shape], self.numbers, [written])
        y = y.reshape(*x.shape[:-1], y.shape[-1])
        return [y, y] if twice else y

    def grad(self, grad_out: jt.Var | None, other: jt.Var | None = None) -> tuple[jt.Var | None, ...]:
        """`other`: float32, the gradient of the residual, even where that is half."""
        x, weight, before, bias, seed = self.saved
        grad_out, other = (other, None) if grad_out is None else (grad_out, other)
        multiplied = self.multiplied or other is not None
        grad = grad_out if multiplied or self.wanted[2] else _rounded.pop(grad_out.id, grad_out)
        flat, types = (self.numbers["rows"], self.numbers["columns"]), (str(weight.dtype), str(grad.dtype))
        own, grad_bias = any(self.wanted[:2]) and (multiplied or types[0] != types[1]), None
        if own or self.wanted[2]:
            numbers = self.numbers | {"grad": own, "grad_bias": self.wanted[2], "other": other is not None}
            other = constant(np.float32, (0.0,)) if other is None else other
            shapes = [flat] * own + [flat[1:], (SLICES, flat[1])] * self.wanted[2]
            dtypes = types[:1] * own + ("float32", "float32") * self.wanted[2]
            found = _call("linear_slopes", types, [before, bias, seed, grad, other], shapes, numbers, dtypes)
            grad_bias = found[own] if self.wanted[2] else None
        grad = found[0] if own else grad.reshape(flat)
        grad_x = product(grad, weight).reshape(self.shape) if self.wanted[0] else None
        grad_weight = product(grad, x, transpose_a=True) if self.wanted[1] else None
        return grad_x, grad_weight, grad_bias, grad_out if self.wanted[3] else None, *[None] * 5


def _call(
    function: str, types: tuple[str, str], inputs: list[jt.Var], shapes: list, numbers: dict, dtypes: Sequence[str]
) -> list[jt.Var]:
    """Runs a function of layers.h, or on CUDA its twin for two number types in layers.cuh."""
    cuda = "layers.cuh", f"{function}<{', '.join(compiled.CUDA_TYPES[name] for name in types)}>"
    return compiled.call("layers.h", function, inputs, shapes, numbers, dtypes, cuda)


@skip_frozen
def layer_norm(
    x: jt.Var, weight: jt.Var, bias: jt.Var, eps: float, dtype: str | None = None, second: str = "", first: int = 0
) -> jt.Var | tuple[jt.Var, jt.Var]:
    """`(x - mean) / sqrt(variance + eps) * weight + bias` over the last axis, as `dtype`, by default that of x.

    With `second` a pair: that and, for "input", x itself, to be used further on in its place (on CUDA both gradients
    of x then add up in one pass); for "wide", the same as float32 (from one pass on CUDA, elsewhere twice float32).
    `first`: only so many rows of each x[i] are normalised, the others stay as they are; 0 = all.
    Jittor's own, with `E[x^2] - E[x]^2`, loses its digits where CLIP's hidden states have channels far above the rest.
    """
    kernel, dtype, weight, bias = compiled.compiled(cuda=True), dtype or str(x.dtype), widen(weight), widen(bias)
    if kernel and jt.flags.use_cuda:
        return _LayerNorm.apply(x, weight, bias, eps, dtype, second, first, True)
    if first:
        normed, others = split(x, [first, x.shape[1] - first], 1)
        return join([layer_norm(normed, weight, bias, eps, dtype), cast(others, dtype)], 1)
    if kernel:
        y = _LayerNorm.apply(widen(x), weight, bias, eps, "float32", "", 0, True)
    else:
        centred = widen(x) - widen(x).mean(-1, keepdims=True)
        y = centred / ((centred * centred).mean(-1, keepdims=True) + eps).sqrt() * weight + bias
    return (y, y) if second == "wide" else (cast(y, dtype), x) if second else cast(y, dtype)


@skip_frozen
def unit_length(x: jt.Var) -> jt.Var:
    """Vectors along the last axis (float32 or half) divided by their length, float32."""
    if jt.flags.use_cuda and compiled.compiled(cuda=True):  # a layer normalisation that leaves the mean in
        factor, shift = (constant(np.full, x.shape[-1], np.float32(value)) for value in (x.shape[-1] ** -0.5, 0))
        return _LayerNorm.apply(x, factor, shift, 0.0, "float32", "", 0, False)
    x = widen(x)
    return x / (x * x).sum(-1, keepdims=True).sqrt()


class _LayerNorm(Function):
    """`layer_norm` by its kernel; on CUDA, also with its second output."""

    def execute(
        self, x: jt.Var, weight: jt.Var, bias: jt.Var, eps: float, dtype: str, second: str, first: int, centred: bool
    ) -> jt.Var | tuple[jt.Var, jt.Var]:
        width = x.shape[-1]
        rows = x.numel() // width
        self.numbers, self.types = {"rows": rows, "width": width, "eps": eps, "slices": SLICES}, (str(x.dtype), dtype)
        self.numbers |= {"group": x.shape[-2] if first else 1, "first": first or 1, "centred": centred}
        shapes = [x.shape, (rows, 2)] + [x.shape] * (second == "wide")
        dtypes = [dtype] + ["float32"] * (len(shapes) - 1)
        output, statistics, *wide = _call("norm_forward", self.types, [x, weight, bias], shapes, self.numbers, dtypes)
        self.second = second
        self.saved = x, weight, statistics
        self.trained = not (weight.is_stop_grad() and bias.is_stop_grad())
        return (output, wide[0] if wide else x) if second else output

    def grad(self, grad_out: jt.Var | None, other: jt.Var | None = None) -> tuple[jt.Var | None, ...]:
        x, weight, statistics = self.saved
        if grad_out is None:  # only the second output is used
            grad_out = jt.zeros(x.shape, self.types[1])
        inputs, shapes = [x, weight, statistics, grad_out], [x.shape] + [weight.shape] * 2 * self.trained
        if jt.flags.use_cuda:
            inputs.append(constant(np.float32, (0.0,)) if other is None else other)
            shapes += [(SLICES, 2, self.numbers["width"])] * self.trained  # memory for sums of slices
        numbers = self.numbers | {key: self.second == key and other is not None for key in ("input", "wide")}
        rounds = numbers["rounded"] = numbers["input"] and not self.trained and self.types[0] != self.types[1]
        shapes, dtypes = shapes + [x.shape] * rounds, self.types[: 1 + rounds] + ("float32",) * (len(shapes) - 1)
        grad_x, *others = _call("norm_backward", self.types, inputs, shapes, numbers, dtypes)
        _rounded.clear()
        if rounds:
            _rounded[grad_x.id] = others.pop()
        return grad_x, *(others[:2] or (None, None)), *[None] * 5


def draw_seed() -> jt.Var:
    """(1,) int64 of NumPy's generator: Jittor's draws in any order. A launch sends one number; more would be copied."""
    return jt.array(np.frombuffer(np.random.bytes(8), np.int64), "int64").stop_grad()


def keep_factors(shape: tuple[int, ...], rate: float) -> jt.Var:
    """float32 factors of that shape: 0 with probability `rate`, else 1 / (1 - rate); drawn from seeded generators."""
    jt.set_seed(int.from_bytes(np.random.bytes(4), "little") & 0x7FFFFFFF)  # cuRAND is seeded only where it is used
    return (jt.random(tuple(shape)).stop_grad() >= rate).float32() / (1 - rate)


def dropout(x: jt.Var, rate: float) -> jt.Var:
    """x (any shape, float32 or half) with a share `rate` of its elements 0 and the others divided by `1 - rate`."""
    kernel, wide = compiled.compiled(), widen(x)  # where `linear` has a CUDA kernel, that drops out
    return cast(_Dropout.apply(wide, draw_seed(), rate) if kernel else wide * keep_factors(x.shape, rate), str(x.dtype))


class _Dropout(Function):
    """`dropout` by its kernel."""

    def execute(self, x: jt.Var, seed: jt.Var, rate: float) -> jt.Var:
        self.seed, self.rate = seed, rate
        return compiled.call("layers.h", "dropout", [x, seed], [x.shape], {"size": x.numel(), "rate": rate})[0]

    def grad(self, grad_out: jt.Var) -> tuple[jt.Var, None, None]:
        return self.execute(grad_out, self.seed, self.rate), None, None
