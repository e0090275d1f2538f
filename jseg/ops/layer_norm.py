"""Layer normalisation in one pass over the data."""

from __future__ import annotations

import jittor as jt

from jseg.ops import compiled
from jseg.ops.function import Function, skip_frozen
from jseg.ops.half import in_float32, is_half


@skip_frozen
def layer_norm(x: jt.Var, weight: jt.Var, bias: jt.Var, eps: float) -> jt.Var:
    """`(x - mean) / sqrt(variance + eps) * weight + bias` over the last axis.

    Jittor's own takes the variance as `E[x^2] - E[x]^2`, which loses the digits of a variance that is small beside the
    mean, and CLIP's hidden states have channels far above the rest; this one centres first.

    Args:
        x: (…, width), float32 or half; statistics are float32 in any case.
        weight, bias: (width,), float32 or the type of x.
        eps: added to the variance.

    Returns:
        The shape and type of x.
    """
    if is_half(x):
        return in_float32(layer_norm, (x, weight, bias), eps)
    if compiled.compiled():
        return _LayerNorm.apply(x, weight, bias, eps)
    return Standardise.apply(x, eps) * weight + bias


class Standardise(Function):
    """`(x - mean) / sqrt(variance + eps)` over the last axis, its gradient by hand, in plain operators."""

    def execute(self, x: jt.Var, eps: float) -> jt.Var:
        """Any shape; returns the same shape."""
        centred = x - x.mean(-1, keepdims=True)
        self.inverse = 1.0 / ((centred * centred).mean(-1, keepdims=True) + eps).sqrt()
        self.output = centred * self.inverse
        return self.output

    def grad(self, grad_output: jt.Var) -> tuple[jt.Var, None]:
        """Gradient of x."""
        along = (grad_output * self.output).mean(-1, keepdims=True)
        return (grad_output - grad_output.mean(-1, keepdims=True) - self.output * along) * self.inverse, None


class _LayerNorm(Function):
    """`layer_norm` through jseg/ops/kernels/layers.h."""

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
