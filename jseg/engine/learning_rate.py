"""The learning-rate schedule: polynomial decay with a linear warm-up (method: docs/method.md, optimisation)."""

from __future__ import annotations

from jseg.engine.config import OptimizerConfig


def learning_rate(iteration: int, iterations: int, initial: float, config: OptimizerConfig) -> float:
    """The rate of one step, set before the step.

    Args:
        iteration: 0-based number of the step.
        iterations: length of the whole run in steps.
        initial: the rate that the decay starts from.
        config: power, smallest rate and warm-up.
    """
    decay = (1 - iteration / iterations) ** config.power
    regular = (initial - config.min_lr) * decay + config.min_lr
    if iteration >= config.warmup_iterations:
        return regular
    return regular * (1 - (1 - iteration / config.warmup_iterations) * (1 - config.warmup_ratio))
