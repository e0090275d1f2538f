"""Linear layers with bias, activation and residual in one pass, and gradients only for what trains."""

from __future__ import annotations

import jittor as jt
from jittor import nn

from jseg.ops import compiled

ACTIVATIONS = ("none", "relu", "quick_gelu")


def activate(x: jt.Var, activation: str) -> jt.Var:
    """`none`, `relu` or `quick_gelu` (the approximation of GELU that CLIP was trained with: `x * sigmoid(1.702 x)`)."""
    if activation == "quick_gelu":
        return x * jt.sigmoid(1.702 * x)
    return nn.relu(x) if activation == "relu" else x


def linear(
    x: jt.Var,
    weight: jt.Var,
    bias: jt.Var | None = None,
    activation: str = "none",
    residual: jt.Var | None = None,
) -> jt.Var:
    """`activation(x @ weight^T + bias) + residual`.

    Args:
        x: (…, depth) float32.
        weight: (columns, depth).
        bias: (columns,).
        activation: one of `ACTIVATIONS`.
        residual: (…, columns).

    Returns:
        (…, columns)
    """
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
        rows, depth, columns = (self.numbers[name] for name in ("rows", "depth", "columns"))
        inputs = [*self.saved, grad_out.reshape(rows, columns)]
        places, shapes = [], []
        for shape, wanted in zip(((rows, depth), (columns, depth), (columns,)), self.wanted[:3], strict=True):
            places.append(f"out{len(shapes)}_p" if wanted else "nullptr")
            shapes += [shape] if wanted else []
        body = f"""linear_backward(number("rows"), number("columns"), number("depth"), in0_p, in1_p, in2_p,
            (Activation)(int)number("activation"), in3_p, {", ".join(places)});"""
        found = iter(compiled.call("layers.h", body, inputs, shapes, self.numbers) if shapes else ())
        of_x, of_weight, of_bias = (next(found) if wanted else None for wanted in self.wanted[:3])
        of_x = of_x if of_x is None else of_x.reshape(self.shape)
        return of_x, of_weight, of_bias, grad_out if self.wanted[3] else None, None
