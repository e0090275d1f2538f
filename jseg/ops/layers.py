"""Linear layers, layer normalisation and dropout, each in one pass over the data (jseg/ops/kernels/layers.h)."""

from __future__ import annotations

import jittor as jt
import numpy as np
from jittor import nn

from jseg.ops import compiled
from jseg.ops.function import Function, skip_frozen
from jseg.ops.half import cast, convert, in_float32, is_half, product, widen

ACTIVATIONS = ("none", "relu", "quick_gelu")


def activate(x: jt.Var, activation: str) -> jt.Var:
    """`none`, `relu` or `quick_gelu` (the approximation of GELU that CLIP was trained with: `x * sigmoid(1.702 x)`)."""
    if activation == "quick_gelu":
        return x * jt.sigmoid(1.702 * x)
    return nn.relu(x) if activation == "relu" else x


@skip_frozen
def linear(
    x: jt.Var, weight: jt.Var, bias: jt.Var | None = None, activation: str = "none", residual: jt.Var | None = None
) -> jt.Var:
    """`activation(x @ weight^T + bias) + residual`, in the type of x, or with a residual in float32.

    x is (…, depth), float32 or half; weight (columns, depth) is rounded to its type; bias (columns,) and residual
    (…, columns) are float32; `activation` is one of `ACTIVATIONS`.
    """
    kernel, weight = compiled.compiled(), cast(weight, str(x.dtype))
    if kernel and not is_half(x):
        return _Linear.apply(x, weight, bias, residual, activation)
    if kernel:
        y = cast(_Linear.apply(widen(x), widen(weight), bias, None, activation), str(x.dtype))
    elif is_half(x):
        y = _HalfLinear.apply(x, weight, bias, activation)
    else:
        y = nn.matmul_transpose(x, weight)
        y = activate(y if bias is None else y + bias, activation)
    return y if residual is None else widen(y) + residual


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


class _HalfLinear(Function):
    """`linear` of half x and weight in plain operators: products and saved tensors have 16 bits."""

    def execute(self, x: jt.Var, weight: jt.Var, bias: jt.Var | None, activation: str) -> jt.Var:
        self.wanted = _trained(x, weight, bias)
        self.dtype, self.shape, self.activation = str(x.dtype), x.shape, activation
        flat = x.reshape(-1, x.shape[-1])
        y = product(flat, weight, transpose_b=True)
        if bias is not None:
            y = convert(y.float32() + bias, self.dtype)
        self.saved = flat if self.wanted[1] else None, weight, y if activation != "none" else None
        y = y if activation == "none" else convert(activate(y.float32(), activation), self.dtype)
        return y.reshape(*self.shape[:-1], -1)

    def grad(self, grad_out: jt.Var) -> tuple[jt.Var | None, ...]:
        x, weight, before = self.saved
        grad = grad_out.reshape(-1, grad_out.shape[-1])
        if before is not None:
            before = before.float32()
            gate = jt.sigmoid(1.702 * before)
            relu = self.activation == "relu"
            slope = (before > 0).float32() if relu else gate * (1 + 1.702 * before * (1 - gate))
            grad = convert(grad.float32() * slope, self.dtype)
        grad_x = product(grad, weight).reshape(self.shape) if self.wanted[0] else None
        grad_weight = product(grad, x, transpose_a=True) if self.wanted[1] else None
        return grad_x, grad_weight, grad.float32().sum(0) if self.wanted[2] else None, None


@skip_frozen
def layer_norm(x: jt.Var, weight: jt.Var, bias: jt.Var, eps: float) -> jt.Var:
    """`(x - mean) / sqrt(variance + eps) * weight + bias` over the last axis, in the shape and type of x.

    Jittor's own, with `E[x^2] - E[x]^2`, loses its digits where CLIP's hidden states have channels far above the rest.
    """
    if is_half(x):
        return in_float32(layer_norm, (x, weight, bias), eps)
    if compiled.compiled():
        return _LayerNorm.apply(x, weight, bias, eps)
    return _Standardise.apply(x, eps) * weight + bias


class _Standardise(Function):
    """`(x - mean) / sqrt(variance + eps)` over the last axis, its gradient by hand, in plain operators."""

    def execute(self, x: jt.Var, eps: float) -> jt.Var:
        centred = x - x.mean(-1, keepdims=True)
        self.inverse = 1.0 / ((centred * centred).mean(-1, keepdims=True) + eps).sqrt()
        self.output = centred * self.inverse
        return self.output

    def grad(self, grad_output: jt.Var) -> tuple[jt.Var, None]:
        along = (grad_output * self.output).mean(-1, keepdims=True)
        return (grad_output - grad_output.mean(-1, keepdims=True) - self.output * along) * self.inverse, None


class _LayerNorm(Function):
    """`layer_norm` by its kernel."""

    def execute(self, x: jt.Var, weight: jt.Var, bias: jt.Var, eps: float) -> jt.Var:
        width = x.shape[-1]
        rows = x.numel() // width
        self.numbers = {"rows": rows, "width": width, "eps": eps}
        inputs, shapes = [x.reshape(rows, width), weight, bias], [(rows, width), (rows, 2)]
        output, statistics = compiled.call("layers.h", "norm_forward", inputs, shapes, self.numbers)
        self.saved = x, weight, statistics
        self.trained = not (weight.is_stop_grad() and bias.is_stop_grad())
        return output.reshape(x.shape)

    def grad(self, grad_out: jt.Var) -> tuple[jt.Var | None, ...]:
        x, weight, statistics = self.saved
        flat = (self.numbers["rows"], self.numbers["width"])
        shapes = [flat] + [weight.shape] * 2 * self.trained
        inputs = [x.reshape(flat), weight, statistics, grad_out.reshape(flat)]
        grad_x, *others = compiled.call("layers.h", "norm_backward", inputs, shapes, self.numbers)
        return grad_x.reshape(x.shape), *(others or (None, None)), None


def draw_seed() -> jt.Var:
    """(2,) float32 whose bits seed a kernel's random numbers; of NumPy's generator: Jittor's draws in any order."""
    return jt.array(np.frombuffer(np.random.bytes(8), np.float32).copy()).stop_grad()


def keep_factors(shape: tuple[int, ...], rate: float) -> jt.Var:
    """float32 factors of that shape: 0 with probability `rate`, else 1 / (1 - rate); drawn from seeded generators."""
    return (jt.random(tuple(shape)).stop_grad() >= rate).float32() / (1 - rate)


def dropout(x: jt.Var, rate: float) -> jt.Var:
    """x (any shape, float32 or half) with a share `rate` of its elements 0 and the others divided by `1 - rate`."""
    if is_half(x):
        return in_float32(dropout, (x,), rate)
    if compiled.compiled():
        return _Dropout.apply(x, draw_seed(), rate)
    return x * keep_factors(x.shape, rate)


class _Dropout(Function):
    """`dropout` by its kernel."""

    def execute(self, x: jt.Var, seed: jt.Var, rate: float) -> jt.Var:
        self.seed, self.rate = seed, rate
        numbers = {"size": x.numel(), "rate": rate}
        (dropped,) = compiled.call("layers.h", "dropout", [x.reshape(-1), seed], [(x.numel(),)], numbers)
        return dropped.reshape(x.shape)

    def grad(self, grad_out: jt.Var) -> tuple[jt.Var, None, None]:
        return self.execute(grad_out, self.seed, self.rate), None, None
