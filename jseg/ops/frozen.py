"""Operators on frozen tensors: nothing is kept for a gradient, and the result counts as frozen too."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import jittor as jt


def spares_gradients(operator: Callable[..., jt.Var]) -> Callable[..., jt.Var]:
    """Makes an operator run without recording when none of the Vars that it is given trains.

    Jittor alone takes every result for one that a gradient may pass through.
    """

    @wraps(operator)
    def run(*args: object, **options: object) -> jt.Var:
        variables = [x for x in (*args, *options.values()) if isinstance(x, jt.Var)]
        if jt.flags.no_grad or not all(x.is_stop_grad() for x in variables):
            return operator(*args, **options)
        with jt.no_grad():
            return operator(*args, **options)

    return run
