"""Keeps a GPU from waiting for the CPU: constants sent once, images as bytes, transposes there, few launches."""

import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise

import jittor as jt
import numpy as np

from jseg.config import DataConfig
from jseg.ops.function import Function, skip_frozen


@lru_cache(maxsize=512)
def constant(of: Callable[..., np.ndarray], *arguments: object) -> jt.Var:
    """`of(*arguments)` on the device, made and sent once."""
    return jt.array(np.ascontiguousarray(of(*arguments))).stop_grad()


def transpose(x: jt.Var, *axes: int) -> jt.Var:
    """x with its axes in that order; Jittor's own moves the last axis on one CPU core even if x is on a GPU."""
    return jt.fuse_transpose(x, axes).stop_fuse()  # fused with a product, it would hide it from Jittor's tuner


def join(parts: Sequence[jt.Var], axis: int) -> jt.Var:
    """`jt.concat(parts, axis)` in one launch, not one for each part; likewise its gradient."""
    return skip_frozen(_Parts.apply)([part.shape[axis] for part in parts], axis, *parts)


def split(x: jt.Var, sizes: Sequence[int], axis: int) -> Sequence[jt.Var]:
    """The parts of x that have these sizes along `axis`, together all of it."""
    return _Parts.apply(sizes, axis, x) if len(sizes) > 1 else [x]


class _Parts(Function):
    """`split` of one Var, `join` of several: each is the gradient of the other."""

    def execute(self, sizes: Sequence[int], axis: int, *parts: jt.Var | None) -> jt.Var | list[jt.Var]:
        self.where, starts = (sizes, axis), np.cumsum([0, *sizes]).tolist()
        if len(parts) < len(sizes):
            return [parts[0][(slice(None),) * axis + (slice(*ends),)] for ends in pairwise(starts)]
        shape, padded = next(list(part.shape) for part in parts if part is not None), []
        shape[axis] = starts[-1]
        for part, start in zip(parts, starts, strict=False):  # with zeros around it; None = zeros
            index = [f"i{i}-@e0(0)" if i == axis else f"i{i}" for i in range(len(shape))]  # a number: a kernel for each
            padded += [] if part is None else [part.reindex(shape, index, 0, [], [constant(np.int32, (start,))])]
        return sum(padded[1:], padded[0])  # fused

    def grad(self, *gradients: jt.Var | None) -> tuple[jt.Var | None, ...]:
        found = _Parts().execute(*self.where, *gradients)
        return None, None, *(found if isinstance(found, list) else [found])


def normalise(images: np.ndarray, data: DataConfig, sizes: np.ndarray | None = None) -> jt.Var:
    """Images (B, 3, H, W) or (3, H, W) uint8 -> float32 `(value - mean) / std`, worked out on the device.

    `sizes` (B, 2) int32 are rows and columns of each image, and all beyond becomes 0; None = nothing is beyond.
    Images that are float32 are taken as normalised already.
    """
    values = jt.array(images)
    if images.dtype == np.uint8:
        numbers = tuple(data.mean), tuple(1 / value for value in data.std)
        mean, factor = (constant(np.float32, values).reshape(-1, 1, 1) for values in numbers)
        values = (values.float32() - mean) * factor
        if sizes is not None:
            sizes, shape = jt.array(sizes), values.shape
            inside = [jt.index(shape, 2 + axis) < sizes.reindex(shape, ["i0", f"{axis}"]) for axis in (0, 1)]
            values = values * inside[0].logical_and(inside[1]).float32()
    return values


def wait_for(arrived: list[np.ndarray]) -> None:
    """Waits until a callback of `jt.fetch` has filled a list; raises if the device fails meanwhile."""
    polls = 0
    while not arrived:
        time.sleep(1e-4)
        jt.fetch(lambda: None)  # lets Jittor hand over what has come from the device
        polls += 1
        if polls % 50_000 == 0:
            jt.sync_all(True)  # a device that has failed sends nothing, but raises here
