"""The base class of operators that bring their own gradient, and the early release of what they save for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps

import jittor as jt

_called: list[Function] | None = None  # inside `releasing`: the functions that were called


class Function(jt.Function):
    """`jt.Function` whose saved tensors `releasing` can free; define `execute` and `grad`, call by `apply`."""

    def __call__(self, *arguments: object) -> jt.Var | tuple[jt.Var, ...]:
        if _called is not None:
            _called.append(self)
        return super().__call__(*arguments)


@contextmanager
def releasing() -> Iterator[Callable[[], None]]:
    """Yields `release`; called after `jt.grad`, activations of the `with` block are freed during the backward pass."""
    global _called
    _called = called = []
    try:
        yield lambda: [function.__dict__.clear() for function in called]
    finally:
        _called = None


def skip_frozen(operator: Callable[..., jt.Var]) -> Callable[..., jt.Var]:
    """Decorator: where none of the Vars given to an operator trains, nothing is saved and the result is frozen too."""

    @wraps(operator)
    def run(*arguments: object, **options: object) -> jt.Var:
        trains = any(not x.is_stop_grad() for x in (*arguments, *options.values()) if isinstance(x, jt.Var))
        with nullcontext() if trains or jt.flags.no_grad else jt.no_grad():
            return operator(*arguments, **options)

    return run
