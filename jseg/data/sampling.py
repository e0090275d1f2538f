"""Which image comes when: an endless shuffled stream that can start anywhere and be split over processes.

The index at stream position k is a pure function of (seed, k), so a run that goes on at iteration k sees what it would
have seen without the break, whatever the number of workers or ranks.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_ORDER, _AUGMENTATION = 0, 1  # keep the two uses of one seed apart


def augmentation_rng(seed: int, position: int) -> np.random.Generator:
    """The generator for the random transforms of stream position `position`."""
    return np.random.default_rng([_AUGMENTATION, seed, position])


def endless_indices(length: int, seed: int, start: int = 0, rank: int = 0, world: int = 1) -> Iterator[tuple[int, int]]:
    """(position, index) pairs without end: every `world`-th position from `start + rank` on.

    All ranks together walk the stream of a single process; each epoch holds every index once.
    """
    position, epoch, order = start + rank, -1, np.empty(0, np.int64)
    while True:
        if position // length != epoch:
            epoch = position // length
            order = np.random.default_rng([_ORDER, seed, epoch]).permutation(length)
        yield position, int(order[position % length])
        position += world
