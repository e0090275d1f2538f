"""Random numbers of the operators, which can be drawn once and used twice (see jseg/ops/recompute.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jittor as jt
import numpy as np

_recording: list | None = None
_replaying: Iterator | None = None


def _drawn(draw: Callable[[], jt.Var]) -> jt.Var:
    if _replaying is not None:
        return next(_replaying)
    value = draw()
    if _recording is not None:
        _recording.append(value)
    return value


def draw_seed() -> jt.Var:
    """(2,) float32 whose bits seed a kernel's random numbers (`seed_of` in C++).

    It comes from NumPy's generator, which Jittor seeds with its own, because Jittor's draws when it computes: in
    whichever order that happens.
    """
    return _drawn(lambda: jt.array(np.frombuffer(np.random.bytes(8), np.float32).copy()).stop_grad())


def draw_uniform(shape: tuple[int, ...]) -> jt.Var:
    """float32 in [0, 1) from Jittor's generator."""
    return _drawn(lambda: jt.random(tuple(shape)).stop_grad())


@contextmanager
def recorded() -> Iterator[list]:
    """A list of all that is drawn inside the `with` block."""
    global _recording
    outer, _recording = _recording, []
    try:
        yield _recording
    finally:
        _recording = outer


@contextmanager
def replayed(draws: list) -> Iterator[None]:
    """The same draws once more."""
    global _replaying
    outer, _replaying = _replaying, iter(draws)
    try:
        yield
    finally:
        _replaying = outer
