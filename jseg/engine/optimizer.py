"""AdamW (Loshchilov and Hutter, ICLR 2019) over named parameters, its learning rates, and float16's loss scale.

Jittor's own optimiser counts every backward pass as a step: wrong bias correction when gradients are accumulated.
"""

from __future__ import annotations

from dataclasses import dataclass

import jittor as jt
import numpy as np

from jseg.config import OptimizerConfig
from jseg.errors import UserError
from jseg.ops import compiled
from jseg.ops.half import convert, widen
from jseg.weights.record import MOMENT_PREFIXES

NORM_KEYS = ("norm", "ln")
FIRST, LOWEST, HIGHEST = 2.0**16, 1.0, 2.0**24  # loss scales; powers of two, so that scaling changes no digits
DOUBLED_AFTER = 2000  # good steps in a row
BLOCKS = 64  # that share a tensor, on CUDA


class AdamW:
    """Updates `parameters` (names and float32 Vars) in place, and copies of some in 16 bits, `rounded` by name.

    Gradients, float32 or of 16 bits, are those of `leaves`: the copies, or parameters that have none, as in `names`.
    """

    def __init__(
        self, parameters: list[tuple[str, jt.Var]], config: OptimizerConfig, rounded: dict[str, jt.Var] | None = None
    ) -> None:
        self.names, self.parameters = map(list, zip(*parameters, strict=True))
        self.leaves = [(rounded or {}).get(name, variable) for name, variable in parameters]
        self._steps = jt.zeros((1,), "int32")  # on the device, like everything that a step reads
        self.betas, self.eps, self.lr = config.betas, config.eps, config.lr * config.lr_factor
        decays = np.array([group_settings(name, config)[1] for name in self.names], np.float32)
        self._decays, self._one = jt.array(decays).stop_grad(), jt.ones((1,)).stop_grad()
        self._m, self._v = (  # running means of gradients and of their squares, by their names in a checkpoint
            {prefix + name: jt.zeros(x.shape, x.dtype).stop_grad() for name, x in parameters}
            for prefix in MOMENT_PREFIXES.values()
        )

    @property
    def steps(self) -> int:
        """Number of steps that have changed the parameters."""
        return int(self._steps.item())

    def step(self, gradients: list[jt.Var], factor: jt.Var | None = None) -> None:
        """Updates the parameters with the gradients times `factor` (1,) float32, or, if that is 0, changes nothing.

        Where kernels run, CUDA works on while this returns.
        """
        factor = self._one if factor is None else factor
        if not compiled.compiled(cuda=True):
            return self._plain_step(gradients, factor)
        beta_m, beta_v = self.betas
        numbers = {"beta_m": beta_m, "beta_v": beta_v, "eps": self.eps, "lr": self.lr, "blocks": BLOCKS}
        inputs, cuda = [self._steps, factor, self._decays], ("optimizer.cuh", "adamw")
        tensors = [*self.parameters, *gradients, *self._m.values(), *self._v.values(), *self.leaves]
        (self._steps,) = compiled.call("optimizer.h", "adamw", inputs, [(1,)], numbers, ["int32"], cuda, tensors)
        self._steps.sync()

    def _plain_step(self, gradients: list[jt.Var], factor: jt.Var) -> None:
        jt.sync(gradients)
        jt.sync_all()  # what still waits to be computed from the old weights: they are overwritten
        if not factor.item() > 0:
            return
        self._steps = self._steps + 1
        first, second = (1 - beta**self.steps for beta in self.betas)  # bias corrections
        (beta_m, beta_v), moments = self.betas, (self._m.values(), self._v.values())
        each = zip(self.parameters, self.leaves, gradients, *moments, self._decays.numpy(), strict=True)
        for weights, leaf, gradient, m, v, decay in each:
            gradient = widen(gradient) * factor
            m.update((beta_m * m + (1 - beta_m) * gradient).stop_grad())
            v.update((beta_v * v + (1 - beta_v) * gradient * gradient).stop_grad())
            root = v.sqrt() * second**-0.5 + self.eps
            weights.update(weights * (1 - self.lr * float(decay)) - self.lr / first * m / root)
            if leaf is not weights:
                leaf.update(convert(weights, str(leaf.dtype)))
        jt.sync_all()

    def state(self) -> dict[str, np.ndarray]:
        """A copy of the running means, by their names in a checkpoint."""
        return {name: variable.numpy() for name, variable in (self._m | self._v).items()}

    def load_state(self, tensors: dict[str, np.ndarray], steps: int) -> None:
        """Goes on from a checkpoint's tensors after `steps` steps; UserError when they belong to other parameters."""
        own, prefixes = self._m | self._v, tuple(MOMENT_PREFIXES.values())
        stored = {name: array for name, array in tensors.items() if name.startswith(prefixes)}
        shapes = {name: tuple(variable.shape) for name, variable in own.items()}
        differing = shapes.items() ^ {name: array.shape for name, array in stored.items()}.items()
        if wrong := sorted({name for name, _ in differing}):
            raise UserError(f"the optimiser state does not fit this model: {', '.join(wrong[:10])}")
        for name, variable in own.items():
            variable.update(jt.array(stored[name]).stop_grad())
        self._steps = jt.array(np.array([steps], np.int32))


def group_settings(name: str, config: OptimizerConfig) -> tuple[float, float]:
    """Initial learning rate and decoupled weight decay of a trainable parameter, by its state name.

    The released config text frees norm layers from weight decay (`groups="stated"`); what runs (`released`) does not:
    of the keys in a name only one is applied, and every trainable name holds `backbone` or `head`, which come first.
    """
    frees = config.groups == "stated" and any(key in name for key in NORM_KEYS)
    return config.lr * config.lr_factor, 0.0 if frees else config.weight_decay


def learning_rate(iteration: int, iterations: int, config: OptimizerConfig) -> float:
    """The rate of step `iteration` (0-based) of `iterations`: polynomial decay, linear warm-up."""
    decay = (1 - iteration / iterations) ** config.power
    regular = (config.lr * config.lr_factor - config.min_lr) * decay + config.min_lr
    if iteration >= config.warmup_iterations:
        return regular
    return regular * (1 - (1 - iteration / config.warmup_iterations) * (1 - config.warmup_ratio))


def square_sums(gradients: list[jt.Var]) -> jt.Var:
    """Sum of squares of each of n tensors (n,) float32."""
    if not compiled.compiled(cuda=True):  # in two steps, which keeps more digits
        return jt.concat([(x * x).sum(-1).sum() for x in map(widen, gradients)])
    count, numbers = len(gradients), {"blocks": BLOCKS}
    shapes = [(count,)] + [(count, BLOCKS)] * bool(jt.flags.use_cuda)  # there with memory for sums of blocks
    cuda = "optimizer.cuh", "square_sums"
    return compiled.call("optimizer.h", "square_sums", [], shapes, numbers, None, cuda, gradients)[0].stop_grad()


def step_factor(squares: jt.Var, sums: jt.Var, highest: float) -> jt.Var:
    """Factor (1,) float32 that scales a larger norm of gradients down to `highest` (0 = never; Pascanu et al. 2013).

    `squares` (n,) as of `square_sums`. 0 unless the norm and all `sums` (any number, float64) are finite.
    """
    if compiled.compiled(cuda=True):
        numbers = {"highest": highest, "tensors": len(squares), "sums": len(sums)}
        cuda = "optimizer.cuh", "step_factor"
        return compiled.call("optimizer.h", "step_factor", [squares, sums], [(1,)], numbers, None, cuda)[0].stop_grad()
    norm = squares.float64().sum().sqrt()
    factor = jt.array64(np.float64([highest])) / norm if highest else jt.ones_like(norm)
    return jt.ternary(jt.isfinite(norm + sums.sum()), factor.minimum(1.0), jt.zeros_like(norm)).float32()


@dataclass
class LossScale:
    """Factor on float16's loss, in checkpoints (Micikevicius et al., "Mixed Precision Training", ICLR 2018, 3.2)."""

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
