"""Linear layers with bias, activation and residual in one pass, and gradients only for what trains."""

from __future__ import annotations

import jittor as jt
from jittor import nn

from jseg.ops import compiled
from jseg.ops.frozen import spares_gradients
from jseg.ops.half import cast, is_half, product, rounded, widen

ACTIVATIONS = ("none", "relu", "quick_gelu")


def activate(x: jt.Var, activation: str) -> jt.Var:
    """`none`, `relu` or `quick_gelu` (the approximation of GELU that CLIP was trained with: `x * sigmoid(1.702 x)`)."""
    if activation == "quick_gelu":
        return x * jt.sigmoid(1.702 * x)
    return nn.relu(x) if activation == "relu" else x


@spares_gradients
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


class _Linear(jt.Function):
    """`linear` through jseg/ops/kernels/layers.h.

    There are few variants of the calls, as each is compiled apart: what is absent is left out by a number.
    """

    def execute(
        self, x: jt.Var, weight: jt.Var, bias: jt.Var | None, residual: jt.Var | None, activation: str
    ) -> jt.Var:
        self.wanted = [isinstance(var, jt.Var) and not var.is_stop_grad() for var in (x, weight, bias, residual)]
        self.shape, (columns, depth) = x.shape, weight.shape
        flat = x.reshape(-1, depth)
        self.numbers = {"rows": flat.shape[0], "depth": depth, "columns": columns}
        self.numbers |= {"activation": ACTIVATIONS.index(activation), "bias": bias is not None}
        self.numbers |= {"residual": residual is not None}
        differentiated = any(self.wanted[:3]) and not jt.flags.no_grad
        # the input of an activation is kept for the gradient; for ReLU the output will do, when nothing is added to it
        stored = differentiated and (activation == "quick_gelu" or (activation == "relu" and residual is not None))
        shape = (flat.shape[0], columns)
        body = f"""linear_forward(number("rows"), number("columns"), number("depth"), in0_p, in1_p,
            number("bias") ? in2_p : nullptr, number("residual") ? in3_p : nullptr,
            (Activation)(int)number("activation"), {"out1_p" if stored else "nullptr"}, out0_p);"""
        inputs = [flat, weight, weight[0] if bias is None else bias]
        inputs.append(flat if residual is None else residual.reshape(shape))
        outputs = compiled.call("layers.h", body, inputs, [shape] * (1 + stored), self.numbers)
        if differentiated:
            # the gradient of a frozen weight is not computed, so that its input need not be kept
            self.saved = flat if self.wanted[1] else outputs[-1], weight, outputs[-1]
        return outputs[0].reshape(*x.shape[:-1], columns)

    def grad(self, grad_out: jt.Var) -> tuple[jt.Var | None, ...]:
        if not any(self.wanted[:3]):
            return None, None, None, grad_out, None
        rows, depth, columns = (self.numbers[name] for name in ("rows", "depth", "columns"))
        inputs = [*self.saved, grad_out.reshape(rows, columns)]
        places, shapes = [], []
        for shape, wanted in zip(((rows, depth), (columns, depth), (columns,)), self.wanted[:3], strict=True):
            places.append(f"out{len(shapes)}_p" if wanted else "nullptr")
            shapes += [shape] if wanted else []
        body = f"""linear_backward(number("rows"), number("columns"), number("depth"), in0_p, in1_p, in2_p,
            (Activation)(int)number("activation"), in3_p, {", ".join(places)});"""
        found = iter(compiled.call("layers.h", body, inputs, shapes, self.numbers))
        of_x, of_weight, of_bias = (next(found) if wanted else None for wanted in self.wanted[:3])
        of_x = of_x if of_x is None else of_x.reshape(self.shape)
        return of_x, of_weight, of_bias, grad_out if self.wanted[3] else None, None


def activation_slope(before: jt.Var, activation: str) -> jt.Var:
    """Derivative of the activation at `before`."""
    if activation == "relu":
        return (before > 0).float32()
    gate = jt.sigmoid(1.702 * before)
    return gate * (1 + 1.702 * before * (1 - gate))


class _HalfLinear(jt.Function):
    """`linear` of half x and weight in plain operators: only the products are of 16 bits, what is kept is half too."""

    def execute(self, x: jt.Var, weight: jt.Var, bias: jt.Var | None, activation: str) -> jt.Var:
        self.wanted = [isinstance(var, jt.Var) and not var.is_stop_grad() for var in (x, weight, bias)]
        self.dtype, self.shape, self.activation = str(x.dtype), x.shape, activation
        flat = x.reshape(-1, x.shape[-1])
        y = product(flat, weight, transpose_b=True)
        if bias is not None:
            y = rounded(y.float32() + bias, self.dtype)
        self.saved = flat if self.wanted[1] else None, weight, y if activation != "none" else None
        y = y if activation == "none" else rounded(activate(y.float32(), activation), self.dtype)
        return y.reshape(*self.shape[:-1], -1)

    def grad(self, grad_out: jt.Var) -> tuple[jt.Var | None, ...]:
        x, weight, before = self.saved
        grad = grad_out.reshape(-1, grad_out.shape[-1])
        if before is not None:
            grad = rounded(grad.float32() * activation_slope(before.float32(), self.activation), self.dtype)
        of_x = product(grad, weight).reshape(self.shape) if self.wanted[0] else None
        of_weight = product(grad, x, transpose_a=True) if self.wanted[1] else None
        return of_x, of_weight, grad.float32().sum(0) if self.wanted[2] else None, None
