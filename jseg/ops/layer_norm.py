"""Layer normalisation and dropout, each one pass over the data."""

from __future__ import annotations

import jittor as jt

from jseg.ops import compiled
from jseg.ops.draws import draw_seed, draw_uniform
from jseg.ops.frozen import spares_gradients
from jseg.ops.half import in_float32, is_half


@spares_gradients
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


class Standardise(jt.Function):
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


class _LayerNorm(jt.Function):
    """`layer_norm` through jseg/ops/kernels/layers.h."""

    def execute(self, x: jt.Var, weight: jt.Var, bias: jt.Var, eps: float) -> jt.Var:
        width = x.shape[-1]
        rows = x.numel() // width
        self.numbers = {"rows": rows, "width": width, "eps": eps}
        body = 'norm_forward(number("rows"), number("width"), in0_p, in1_p, in2_p, number("eps"), out0_p, out1_p);'
        output, statistics = compiled.call(
            "layers.h", body, [x.reshape(rows, width), weight, bias], [(rows, width), (rows, 2)], self.numbers
        )
        self.saved = x, weight, statistics
        self.trained = not (weight.is_stop_grad() and bias.is_stop_grad())
        return output.reshape(x.shape)

    def grad(self, grad_out: jt.Var) -> tuple[jt.Var | None, ...]:
        x, weight, statistics = self.saved
        of_weight = "out1_p, out2_p" if self.trained else "nullptr, nullptr"
        flat = (self.numbers["rows"], self.numbers["width"])
        shapes = [flat] + [weight.shape] * 2 * self.trained
        body = f'norm_backward(number("rows"), number("width"), in0_p, in1_p, in2_p, in3_p, out0_p, {of_weight});'
        inputs = [x.reshape(flat), weight, statistics, grad_out.reshape(flat)]
        of_x, *others = compiled.call("layers.h", body, inputs, shapes, self.numbers)
        return of_x.reshape(x.shape), *(others or (None, None)), None


def dropout(x: jt.Var, rate: float) -> jt.Var:
    """x (any shape, float32 or half) with a share `rate` of its elements 0 and the others divided by `1 - rate`.

    The draws come from Jittor's generator; the compiled form stores only a seed and makes them again for the gradient.
    """
    if is_half(x):
        return in_float32(dropout, (x,), rate)
    if compiled.compiled():
        return _Dropout.apply(x, draw_seed(), rate)
    return x * ((draw_uniform(x.shape) >= rate).float32() / (1 - rate))


class _Dropout(jt.Function):
    """`dropout` through jseg/ops/kernels/layers.h."""

    def execute(self, x: jt.Var, seed: jt.Var, rate: float) -> jt.Var:
        self.seed, self.rate = seed, rate
        return self._drop(x)

    def grad(self, grad_out: jt.Var) -> tuple[jt.Var, None, None]:
        return self._drop(grad_out), None, None

    def _drop(self, x: jt.Var) -> jt.Var:
        body = 'dropout(number("size"), in0_p, number("rate"), seed_of(in1_p), out0_p);'
        (dropped,) = compiled.call(
            "layers.h", body, [x.reshape(-1), self.seed], [(x.numel(),)], {"size": x.numel(), "rate": self.rate}
        )
        return dropped.reshape(x.shape)
