"""AdamW over named parameters, fed with gradients that were accumulated elsewhere.

Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019. Jittor's own optimiser counts every backward
pass as a step, which breaks the bias correction when gradients are accumulated, and runs dozens of small operators.
"""

from __future__ import annotations

import jittor as jt
import numpy as np

from jseg.engine.checkpoint import Moments
from jseg.engine.config import OptimizerConfig
from jseg.engine.learning_rate import learning_rate
from jseg.engine.parameter_groups import parameter_groups
from jseg.errors import UserError
from jseg.ops import compiled


class AdamW:
    """Updates `parameters` in place; every method that takes gradients wants them in the order of `names`.

    Args:
        parameters: names and trained float32 Vars.
        config: rates, decay and groups.
    """

    def __init__(self, parameters: list[tuple[str, jt.Var]], config: OptimizerConfig) -> None:
        by_name = dict(parameters)
        groups = parameter_groups(by_name, config)
        self.names = [name for names in groups.values() for name in names]
        self.parameters = [by_name[name] for name in self.names]
        self.steps = 0
        self.betas, self.eps = config.betas, config.eps
        settings = [settings for settings, names in groups.items() for _ in names]
        self._initial_rates = [setting.lr for setting in settings]
        self._rates = list(self._initial_rates)
        self._decays = [setting.weight_decay for setting in settings]
        self._m, self._v = ([jt.zeros(x.shape, x.dtype).stop_grad() for x in self.parameters] for _ in range(2))

    def set_learning_rate(self, iteration: int, iterations: int, config: OptimizerConfig) -> float:
        """Sets the rates of step `iteration` (0-based) and returns that of the first group."""
        rates = {initial: learning_rate(iteration, iterations, initial, config) for initial in set(self._initial_rates)}
        self._rates = [rates[initial] for initial in self._initial_rates]
        return self._rates[0]

    def step(self, gradients: list[jt.Var]) -> None:
        """Updates the parameters."""
        jt.sync(gradients)
        jt.sync_all()  # what still waits to be computed from the old weights: they are overwritten
        self.steps += 1
        first, second = (1 - beta**self.steps for beta in self.betas)  # bias corrections
        if compiled.compiled():
            self._compiled_step(gradients, first, second)
        else:
            self._plain_step(gradients, first, second)
        jt.sync_all(True)

    def _compiled_step(self, gradients: list[jt.Var], first: float, second: float) -> None:
        table = np.stack(
            [
                *(compiled.addresses(x) for x in (self.parameters, gradients, self._m, self._v)),
                np.array([x.numel() for x in gradients]),
            ],
            axis=1,
        )
        written = table[:, [0, 2, 3]].ravel()
        assert len(set(written.tolist())) == len(written), "Vars that share memory cannot be updated in place"
        pairs = zip(self._rates, self._decays, strict=True)
        settings = np.array([(rate / first, 1 - rate * decay) for rate, decay in pairs], np.float32)
        numbers = {"count": len(table), "root": second**-0.5, "eps": self.eps}
        for name, beta in zip("mv", self.betas, strict=True):
            numbers |= {f"beta_{name}": beta, f"rest_{name}": 1 - beta}
        body = """adamw((const int64_t*)in0_p, in1_p, number("count"), number("beta_m"), number("rest_m"),
            number("beta_v"), number("rest_v"), number("root"), number("eps")); out0_p[0] = 0;"""
        inputs = [compiled.whole_numbers(table), jt.array(settings)]
        compiled.call("optimizer.h", body, inputs, [(1,)], numbers)[0].sync()

    def _plain_step(self, gradients: list[jt.Var], first: float, second: float) -> None:
        beta_m, beta_v = self.betas
        each = zip(self.parameters, gradients, self._m, self._v, self._rates, self._decays, strict=True)
        for weights, gradient, m, v, rate, decay in each:
            m.update((beta_m * m + (1 - beta_m) * gradient).stop_grad())
            v.update((beta_v * v + (1 - beta_v) * gradient * gradient).stop_grad())
            root = v.sqrt() * second**-0.5 + self.eps
            weights.update(weights * (1 - rate * decay) - rate / first * m / root)

    def state(self) -> Moments:
        """A copy of the state."""
        m, v = (
            {name: x.numpy() for name, x in zip(self.names, moments, strict=True)} for moments in (self._m, self._v)
        )
        return Moments(self.steps, m, v)

    def load_state(self, moments: Moments) -> None:
        """Goes on from `moments`.

        Raises:
            UserError: they belong to other parameters.
        """
        for variables, stored in ((self._m, moments.m), (self._v, moments.v)):
            own = dict(zip(self.names, variables, strict=True))
            wrong = sorted(own.keys() ^ stored.keys()) + [
                name for name in own.keys() & stored.keys() if tuple(own[name].shape) != stored[name].shape
            ]
            if wrong:
                raise UserError(f"the optimiser state does not fit this model: {', '.join(wrong[:10])}")
            for name, variable in own.items():
                variable.update(jt.array(stored[name]).stop_grad())
        self.steps = moments.steps
