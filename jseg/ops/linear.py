"""Linear layers with bias, activation and residual in one pass, and gradients only for what trains."""

from __future__ import annotations

import jittor as jt
from jittor import nn

from jseg.ops import compiled
from jseg.ops.function import Function, skip_frozen
from jseg.ops.half import cast, convert, is_half, product, widen

ACTIVATIONS = ("none", "relu", "quick_gelu")


def activate(x: jt.Var, activation: str) -> jt.Var:
    """`none`, `relu` or `quick_gelu` (the approximation of GELU that CLIP was trained with: `x * sigmoid(1.702 x)`)."""
    if activation == "quick_gelu":
        return x * jt.sigmoid(1.702 * x)
    return nn.relu(x) if activation == "relu" else x


@skip_frozen
def linear(
    x: jt.Var,
    weight: jt.Var,
    bias: jt.Var | None = None,
    activation: str = "none",
    residual: jt.Var | None = None,
) -> jt.Var:
    """`activation(x @ weight^T + bias) + residual`.

    Args:
        x: (…, depth), float32 or half (`jseg.ops.half`).
        weight: (columns, depth), rounded to the type of a half x.
        bias: (columns,) float32.
        activation: one of `ACTIVATIONS`.
        residual: (…, columns) float32.

    Returns:
        (…, columns); of the type of x, or with a residual float32.
    """
    if is_half(x):
        weight = cast(weight, str(x.dtype))
        if compiled.compiled():
            y = cast(_Linear.apply(widen(x), widen(weight), bias, None, activation), str(x.dtype))
        else:
            y = _HalfLinear.apply(x, weight, bias, activation)
        return y if residual is None else widen(y) + residual
    weight = widen(weight)
    if compiled.compiled():
        return _Linear.apply(x, weight, bias, residual, activation)
    y = nn.matmul_transpose(x, weight)
    y = activate(y if bias is None else y + bias, activation)
    return y if residual is None else y + residual


def _is_trained(var: jt.Var | None) -> bool:
    return isinstance(var, jt.Var) and not var.is_stop_grad()


class _Linear(Function):
    """`linear` through jseg/ops/kernels/layers.h.

    Every variant of a call is compiled separately, so absent inputs are marked by a number instead.
    """

    def execute(
        self, x: jt.Var, weight: jt.Var, bias: jt.Var | None, residual: jt.Var | None, activation: str
    ) -> jt.Var:
        self.wanted = [_is_trained(var) for var in (x, weight, bias, residual)]
        self.shape, (columns, depth) = x.shape, weight.shape
        flat = x.reshape(-1, depth)
        self.numbers = {"rows": flat.shape[0], "depth": depth, "columns": columns}
        self.numbers |= {"activation": ACTIVATIONS.index(activation), "bias": bias is not None}
        self.numbers |= {"residual": residual is not None}
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
        inputs = [*self.saved, grad_out.reshape(rows, columns)]
        gradients = {"grad_x": (rows, depth), "grad_weight": (columns, depth), "grad_bias": (columns,)}
        wanted = {name: shape for (name, shape), flag in zip(gradients.items(), self.wanted, strict=False) if flag}
        numbers = self.numbers | {name: name in wanted for name in gradients}
        outputs = compiled.call("layers.h", "linear_backward", inputs, list(wanted.values()), numbers)
        found = dict(zip(wanted, outputs, strict=True))
        if "grad_x" in found:
            found["grad_x"] = found["grad_x"].reshape(self.shape)
        return *(found.get(name) for name in gradients), grad_out if self.wanted[3] else None, None


def activation_slope(before: jt.Var, activation: str) -> jt.Var:
    """Derivative of the activation at `before`."""
    if activation == "relu":
        return (before > 0).float32()
    gate = jt.sigmoid(1.702 * before)
    return gate * (1 + 1.702 * before * (1 - gate))


class _HalfLinear(Function):
    """`linear` of half x and weight in plain operators: products and saved tensors have 16 bits."""

    def execute(self, x: jt.Var, weight: jt.Var, bias: jt.Var | None, activation: str) -> jt.Var:
        self.wanted = [_is_trained(var) for var in (x, weight, bias)]
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
            grad = convert(grad.float32() * activation_slope(before.float32(), self.activation), self.dtype)
        grad_x = product(grad, weight).reshape(self.shape) if self.wanted[0] else None
        grad_weight = product(grad, x, transpose_a=True) if self.wanted[1] else None
        return grad_x, grad_weight, grad.float32().sum(0) if self.wanted[2] else None, None
