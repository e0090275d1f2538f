"""Activation checkpointing changes no gradient: jseg/ops/recompute.py in a whole training step, dropout included."""

from __future__ import annotations

import jittor as jt
import numpy as np
import pytest

from jseg.ops.draws import draw_uniform
from jseg.ops.recompute import recomputed, recomputing
from tests.engine.tiny_training import tiny_batch, tiny_config, tiny_trainer


@pytest.mark.parametrize("kernels", ["auto", "plain"])
def test_a_training_step_has_the_same_gradients(kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JSEG_KERNELS", kernels)
    results = []
    for flag in (False, True):
        trainer = tiny_trainer(tiny_config(checkpoint_activations=flag), dropout=True)
        jt.set_global_seed(3)
        gradients, losses, _ = trainer.gradients(*tiny_batch(seed=5))
        results.append(([gradient.numpy() for gradient in gradients], losses))
    (plain, losses), (again, other_losses) = results
    assert other_losses == pytest.approx(losses, rel=1e-6)
    for name, expected, computed in zip(trainer.optimizer.names, plain, again, strict=True):
        allowed = 1e-6 if name.endswith("multihead_attn.k.bias") else 1e-5 * np.abs(expected).max()
        assert np.abs(computed - expected).max() <= allowed, name


def test_layers_run_twice_with_the_same_draws() -> None:
    calls, x, weight = [], jt.ones((3, 4)), jt.ones((4,)) * 2

    def run(x: jt.Var) -> tuple[jt.Var]:
        calls.append(draw_uniform((3, 4)))
        return (x * weight * calls[-1],)

    with recomputing(True):
        (y,) = recomputed(run, [x], [weight])
    of_x, of_weight = jt.grad((y * 3).sum(), [x, weight])
    assert len(calls) == 2
    np.testing.assert_allclose(of_x.numpy(), y.numpy() * 3, rtol=1e-6)
    np.testing.assert_allclose(of_weight.numpy(), y.numpy().sum(0) * 1.5, rtol=1e-6)
    assert len(recomputed(run, [x], [weight])) == 1 and len(calls) == 3
