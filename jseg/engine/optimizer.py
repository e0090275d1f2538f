"""AdamW over named parameters, its learning rates, the norm of a gradient, and the loss scale of float16.

Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019. Jittor's own optimiser counts every backward
pass as a step, which breaks the bias correction when gradients are accumulated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import jittor as jt
import numpy as np

from jseg.config import OptimizerConfig
from jseg.engine.checkpoint import Moments
from jseg.errors import UserError

NORM_KEYS = ("norm", "ln")
FIRST, LOWEST, HIGHEST = 2.0**16, 1.0, 2.0**24  # loss scales; powers of two, so that scaling changes no digits
DOUBLED_AFTER = 2000  # good steps in a row


class AdamW:
    """Updates `parameters` (names and float32 Vars) in place; gradients must come in the order of `names`."""

    def __init__(self, parameters: list[tuple[str, jt.Var]], config: OptimizerConfig) -> None:
        self.names = [name for name, _ in parameters]
        self.parameters = [variable for _, variable in parameters]
        self.steps = 0
        self.betas, self.eps = config.betas, config.eps
        self.lr = config.lr * config.lr_factor
        self._decays = [group_settings(name, config).weight_decay for name in self.names]
        self._m, self._v = ([jt.zeros(x.shape, x.dtype).stop_grad() for x in self.parameters] for _ in range(2))

    def set_learning_rate(self, iteration: int, iterations: int, config: OptimizerConfig) -> float:
        """Sets the rate of step `iteration` (0-based) and returns it."""
        self.lr = learning_rate(iteration, iterations, config.lr * config.lr_factor, config)
        return self.lr

    def step(self, gradients: list[jt.Var]) -> None:
        """Updates the parameters."""
        jt.sync(gradients)
        jt.sync_all()  # what still waits to be computed from the old weights: they are overwritten
        self.steps += 1
        first, second = (1 - beta**self.steps for beta in self.betas)  # bias corrections
        beta_m, beta_v = self.betas
        each = zip(self.parameters, gradients, self._m, self._v, self._decays, strict=True)
        for weights, gradient, m, v, decay in each:
            m.update((beta_m * m + (1 - beta_m) * gradient).stop_grad())
            v.update((beta_v * v + (1 - beta_v) * gradient * gradient).stop_grad())
            root = v.sqrt() * second**-0.5 + self.eps
            weights.update(weights * (1 - self.lr * decay) - self.lr / first * m / root)
        jt.sync_all(True)

    def state(self) -> Moments:
        """A copy of the state."""
        m, v = ([variable.numpy() for variable in variables] for variables in (self._m, self._v))
        return Moments(self.steps, dict(zip(self.names, m, strict=True)), dict(zip(self.names, v, strict=True)))

    def load_state(self, moments: Moments) -> None:
        """Goes on from `moments`; UserError when they belong to other parameters."""
        for variables, stored in ((self._m, moments.m), (self._v, moments.v)):
            own = dict(zip(self.names, variables, strict=True))
            shapes = {name: tuple(variable.shape) for name, variable in own.items()}
            differing = shapes.items() ^ {name: array.shape for name, array in stored.items()}.items()
            if wrong := sorted({name for name, _ in differing}):
                raise UserError(f"the optimiser state does not fit this model: {', '.join(wrong[:10])}")
            for name, variable in own.items():
                variable.update(jt.array(stored[name]).stop_grad())
        self.steps = moments.steps


class GroupSettings(NamedTuple):
    """Of a group of parameters."""

    lr: float  # initial learning rate
    weight_decay: float  # decoupled


def group_settings(name: str, config: OptimizerConfig) -> GroupSettings:
    """The settings of one trainable parameter, by its state name (golden/torch_release: param_groups_full*.json).

    The released config text gives backbone and head ten times the base rate and frees norm layers from weight decay
    (`groups="stated"`). What runs is different (`released`): of the keys that occur in a parameter's name only one is
    applied, and every trainable name holds `backbone` or `head`, which come before `norm` and `ln`.
    """
    is_norm = any(key in name for key in NORM_KEYS)
    decay = 0.0 if config.groups == "stated" and is_norm else config.weight_decay
    return GroupSettings(lr=config.lr * config.lr_factor, weight_decay=decay)


def learning_rate(iteration: int, iterations: int, initial: float, config: OptimizerConfig) -> float:
    """The rate of step `iteration` (0-based) of `iterations`: polynomial decay from `initial`, linear warm-up."""
    decay = (1 - iteration / iterations) ** config.power
    regular = (initial - config.min_lr) * decay + config.min_lr
    if iteration >= config.warmup_iterations:
        return regular
    return regular * (1 - (1 - iteration / config.warmup_iterations) * (1 - config.warmup_ratio))


def gradient_norm(gradients: list[jt.Var]) -> float:
    """Euclidean norm over all tensors together; inf or nan when any value is not finite (or their squares overflow)."""
    return math.sqrt(float(square_sums(gradients).astype(np.float64).sum()))


def square_sums(gradients: list[jt.Var]) -> np.ndarray:
    """Sum of squares of each tensor, float32; added up in two steps, which keeps more digits."""
    return jt.concat([(gradient * gradient).sum(-1).sum() for gradient in gradients]).numpy()


def not_finite(names: list[str], gradients: list[jt.Var]) -> list[str]:
    """Names of the gradients that hold a value that is not finite, or whose squares overflow."""
    return [name for name, squares in zip(names, square_sums(gradients), strict=True) if not math.isfinite(squares)]


def clip(gradients: list[jt.Var], norm: float, highest: float) -> list[jt.Var]:
    """The gradients, scaled down to norm `highest` (0 = never) when their `norm` is larger.

    Pascanu et al., "On the difficulty of training recurrent neural networks", ICML 2013, algorithm 1.
    """
    if not highest or norm <= highest:
        return gradients
    return [gradient * (highest / norm) for gradient in gradients]


@dataclass
class LossScale:
    """Factor on the loss of float16 training, so that small gradients are not rounded to 0; checkpoints hold it.

    Micikevicius et al., "Mixed Precision Training", ICLR 2018, section 3.2.
    """

    scale: float = FIRST
    good_steps: int = 0  # in a row, since the scale last changed
    overflows: int = 0  # steps that were left out because of it

    def lower(self) -> bool:
        """Halves the scale after a gradient that was not finite; False when it is the lowest already."""
        if self.scale <= LOWEST:
            return False
        self.scale, self.good_steps, self.overflows = self.scale / 2, 0, self.overflows + 1
        return True

    def step(self) -> None:
        """Counts a good step."""
        self.good_steps += 1
        if self.good_steps >= DOUBLED_AFTER:
            self.scale, self.good_steps = min(2 * self.scale, HIGHEST), 0
