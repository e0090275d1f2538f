"""Tests of jseg/engine/moving_average.py and gradients.py against NumPy."""

from __future__ import annotations

import math

import jittor as jt
import numpy as np
import pytest

from jseg.engine.moving_average import MovingAverage
from jseg.engine.optimizer import clip, gradient_norm, not_finite
from jseg.errors import UserError
from tests.engine.tiny_training import tiny_batch, tiny_config, tiny_trainer, weights


def test_the_average_follows_its_formula_and_leaves_the_weights_alone() -> None:
    weight = jt.array(np.array([1.0, 2.0], np.float32))
    average, expected = MovingAverage([("w", weight)], decay=0.5), np.array([1.0, 2.0])
    for steps in range(1, 9):
        weight.update(weight * 0.5 + steps)
        average.update(steps)
        decay = min(0.5, (1 + steps) / (10 + steps))
        expected = decay * expected + (1 - decay) * weight.numpy()
    np.testing.assert_allclose(average.state()["w"], expected, rtol=1e-6)
    own = weight.numpy()
    with average.in_place():
        np.testing.assert_array_equal(weight.numpy(), average.state()["w"])
    np.testing.assert_array_equal(weight.numpy(), own)
    assert not weight.is_stop_grad()


def test_averages_of_another_model_are_refused() -> None:
    average = MovingAverage([("w", jt.ones(2))], decay=0.5)
    for arrays in ({"v": np.ones(2, np.float32)}, {"w": np.ones(3, np.float32)}):
        with pytest.raises(UserError, match=r"train\.ema.*(v|w)"):
            average.load_state(arrays)


def test_norm_and_clipping() -> None:
    arrays = [np.array([[3.0, 0.0]], np.float32), np.array([4.0], np.float32)]
    gradients = [jt.array(array) for array in arrays]
    assert gradient_norm(gradients) == pytest.approx(5.0)
    assert clip(gradients, 5.0, 0.0) is gradients and clip(gradients, 5.0, 5.0) is gradients
    clipped = clip(gradients, 5.0, 2.0)
    assert gradient_norm(clipped) == pytest.approx(2.0) and clipped[1].numpy() == pytest.approx([1.6])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_a_value_that_is_not_finite_shows_in_the_norm(value: float) -> None:
    gradients = [jt.ones((2, 3)), jt.array(np.array([1.0, value], np.float32))]
    assert not math.isfinite(gradient_norm(gradients))
    assert not_finite(["a", "b"], gradients) == ["b"]


def test_clipping_is_off_unless_asked_for() -> None:
    """The same step with and without a bound: equal where the bound is not reached, shorter where it is."""
    results = []
    for bound in (0.0, 1e9, 1e-3):
        config = tiny_config()
        config.optimizer.clip_norm, config.optimizer.eps = bound, 1.0  # AdamW's step then grows with the gradient
        config.optimizer.warmup_iterations = 0
        trainer = tiny_trainer(config)
        before = weights(trainer)
        report = trainer.step(*tiny_batch(0), iteration=0)
        name = "decode_head.q_proj.weight"
        results.append((report.gradient_norm, np.abs(weights(trainer)[name] - before[name]).sum()))
    assert results[0] == results[1] and results[2][0] == results[0][0] > 1e-3
    assert results[2][1] < 0.9 * results[0][1]
