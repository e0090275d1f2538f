"""Layers that keep only their inputs and compute everything else again for the gradient (activation checkpointing).

Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016. Exact: the second pass has the same draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import jittor as jt

from jseg.ops.draws import recorded, replayed

Run = Callable[..., tuple[jt.Var, ...]]
_enabled = False


@contextmanager
def recomputing(flag: bool) -> Iterator[None]:
    """Whether `recomputed` has an effect inside the `with` block."""
    global _enabled
    outer, _enabled = _enabled, flag
    try:
        yield
    finally:
        _enabled = outer


@contextmanager
def releasing() -> Iterator[Callable[[], None]]:
    """Call what it gives once the gradient of all that is computed inside the `with` block was asked for.

    What functions have put by for their gradient is then given up, so that Jittor frees it as the backward pass goes on
    instead of at its end.
    """
    made: list[jt.Function] = []
    original = jt.Function.__call__

    def call(function: jt.Function, *arguments: object) -> object:
        made.append(function)
        return original(function, *arguments)

    def release() -> None:
        for function in made:
            function.__dict__.clear()

    jt.Function.__call__ = call
    try:
        yield release
    finally:
        jt.Function.__call__ = original


def recomputation() -> bool:
    """Whether `recomputed` has an effect as things stand."""
    return _enabled and not jt.flags.no_grad


def recomputed(run: Run, inputs: Sequence[jt.Var], parameters: Sequence[jt.Var]) -> tuple[jt.Var, ...]:
    """`run(*inputs)`; inside `recomputing(True)` its intermediate results are dropped and made again for the gradient.

    Args:
        run: a pure function of `inputs`, `parameters`, frozen Vars and random numbers; it holds nothing made from
            its results.
        parameters: all trained Vars that it uses.
    """
    if not recomputation():
        return run(*inputs)
    return tuple(_Recomputed()(run, len(inputs), *inputs, *parameters))


class _Recomputed(jt.Function):
    def execute(self, run: Run, count: int, *variables: jt.Var) -> tuple[jt.Var, ...]:
        with jt.no_grad(), recorded() as self.draws:
            outputs = run(*variables[:count])
        return tuple(output.detach() for output in outputs)

    def __call__(self, run: Run, count: int, *variables: jt.Var) -> tuple[jt.Var, ...]:
        # as they are: `execute` gets other Vars, which `run` does not use, and which then count as frozen
        self.run, self.inputs, self.parameters = run, variables[:count], variables[count:]
        return super().__call__(run, count, *variables)

    def grad(self, *gradients: jt.Var | None) -> tuple[jt.Var | None, ...]:
        first = next(gradient for gradient in gradients if gradient is not None)
        inputs = [_after(x, first) for x in self.inputs]
        with replayed(self.draws), releasing() as release:
            outputs = self.run(*inputs)
        pairs = [(x, gradient.detach()) for x, gradient in zip(outputs, gradients, strict=True) if gradient is not None]
        total = sum((_Dot.apply(*pair) for pair in pairs[1:]), start=_Dot.apply(*pairs[0]))
        wanted = [x for x in (*inputs, *self.parameters) if not x.is_stop_grad()]
        found = iter(jt.grad(total, wanted, retain_graph=False))
        release()
        return None, None, *(None if x.is_stop_grad() else next(found) for x in (*inputs, *self.parameters))


class _Dot(jt.Function):
    """A scalar whose gradient with regard to `x` is `gradient`; its own value is never computed."""

    def execute(self, x: jt.Var, gradient: jt.Var) -> jt.Var:
        self.gradient = gradient
        return (x * gradient).sum()

    def grad(self, _: jt.Var) -> tuple[jt.Var, None]:
        return self.gradient, None


def _after(x: jt.Var, other: jt.Var) -> jt.Var:
    """A copy of `x` that is made when `other` is there: else Jittor might make all layers again at the beginning."""
    with jt.no_grad():
        copy = jt.code(
            x.shape, x.dtype, [x, other],
            cpu_src="std::memcpy(out0_p, in0_p, out0->size);", cpu_header="#include <cstring>\n",
            cuda_src="cudaMemcpyAsync(out0_p, in0_p, out0->size, cudaMemcpyDeviceToDevice, 0);", cuda_header=" ",
        )  # fmt: skip
    return copy if x.is_stop_grad() else copy.detach()
