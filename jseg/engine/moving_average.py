"""Exponential moving average of the trained weights (Polyak and Juditsky, "Acceleration of stochastic approximation by
averaging", 1992; with a decay that starts low, so that the first weights are soon forgotten).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import jittor as jt
import numpy as np

from jseg.errors import UserError


class MovingAverage:
    """average <- d * average + (1 - d) * weights after every step, d = min(decay, (1 + steps) / (10 + steps)).

    Args:
        parameters: names and trained Vars; the average starts at their values.
        decay: in (0, 1).
    """

    def __init__(self, parameters: list[tuple[str, jt.Var]], decay: float) -> None:
        self.parameters = dict(parameters)
        self.decay = decay
        self.averages = {name: jt.array(variable.numpy()).stop_grad() for name, variable in parameters}

    def update(self, steps: int) -> None:
        """Takes the weights after `steps` optimiser steps in."""
        decay = min(self.decay, (1 + steps) / (10 + steps))
        for name, variable in self.parameters.items():
            average = self.averages[name]
            average.update((decay * average + (1 - decay) * variable).stop_grad())
        jt.sync(list(self.averages.values()))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model holds the averaged weights inside the `with` block and its own ones again after it."""
        own = {name: variable.numpy() for name, variable in self.parameters.items()}
        self._set({name: average.numpy() for name, average in self.averages.items()})
        try:
            yield
        finally:
            self._set(own)

    def _set(self, arrays: dict[str, np.ndarray]) -> None:
        for name, array in arrays.items():
            self.parameters[name].update(jt.array(array))  # keeps the Var trainable

    def state(self) -> dict[str, np.ndarray]:
        """A copy of the averages."""
        return {name: average.numpy() for name, average in self.averages.items()}

    def load_state(self, arrays: dict[str, np.ndarray]) -> None:
        """Goes on from `arrays`.

        Raises:
            UserError: they belong to other parameters.
        """
        wrong = sorted(arrays.keys() ^ self.averages.keys()) + [
            name for name in arrays.keys() & self.averages.keys() if arrays[name].shape != self.averages[name].shape
        ]
        if wrong:
            raise UserError(f"the averaged weights (train.ema) do not fit this model: {', '.join(wrong[:10])}")
        for name, array in arrays.items():
            self.averages[name].update(jt.array(array).stop_grad())
