"""Randomness of the training loop: one seed for every iteration, so that a resumed run draws the same numbers.

Jittor gives no random state to save. So each iteration starts from a seed of its own, made from the run's seed, the
iteration and the rank. Data are seeded apart from this, by stream position (jseg/data/sampling.py, loader.py).
"""

from __future__ import annotations

import numpy as np


def iteration_seed(seed: int, iteration: int, rank: int = 0) -> int:
    """A seed in [0, 2**31) that depends on all three and on nothing else."""
    state = np.random.SeedSequence([abs(seed), int(seed < 0), iteration, rank]).generate_state(1)
    return int(state[0]) & 0x7FFFFFFF


def seed_iteration(seed: int, iteration: int, rank: int = 0) -> None:
    """Seeds Python, NumPy and Jittor for one iteration. Call it when nothing random is still waiting to be computed."""
    import jittor as jt

    jt.set_global_seed(iteration_seed(seed, iteration, rank), different_seed_for_mpi=False)
