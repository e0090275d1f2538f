"""The whole model: recorded logits, training outputs and gradients; names; what trains; modes."""

import jittor as jt
import numpy as np

from jseg.model.clip_rc import ClipRC, set_training, trainable
from jseg.weights.state import set_value


def random_images(*shape: int) -> jt.Var:
    return jt.array(np.random.default_rng(0).standard_normal(shape).astype(np.float32))


def random_text(classes: int, depth: int = 16) -> jt.Var:
    text = np.random.default_rng(1).standard_normal((classes, depth)).astype(np.float32)
    return jt.array(text / np.linalg.norm(text, axis=1, keepdims=True))


def test_frozen_weights_stay_frozen(small_model: ClipRC) -> None:
    set_training(small_model, True)
    set_training(small_model, False)
    names = {name for name, _ in trainable(small_model)}
    for name, var in small_model.state_dict().items():
        assert var.is_stop_grad() == (name not in names), name
    assert "backbone.prompt_norm.weight" in names and "backbone.proj" not in names


def test_training_mode_switches_dropout_and_nothing_else(small_model: ClipRC) -> None:
    images, text = random_images(1, 3, 64, 64), random_text(3)
    still = small_model(images, text).numpy()
    set_training(small_model, True)
    draws = []
    for seed in (1, 1, 2):
        jt.set_global_seed(seed)
        draws.append(small_model(images, text).numpy())
    np.testing.assert_array_equal(draws[0], draws[1])
    assert np.abs(draws[0] - draws[2]).max() > 1e-3
    set_training(small_model, False)
    np.testing.assert_array_equal(small_model(images, text).numpy(), still)


def test_gradients_equal_finite_differences(small_model: ClipRC) -> None:
    """Along a random direction in all trained weights: an oracle that knows neither the release nor our formulae."""
    images, text = random_images(1, 3, 64, 64), random_text(3)
    weights = [var for _, var in trainable(small_model)]
    generator = np.random.default_rng(2)
    directions = [generator.standard_normal(tuple(var.shape)).astype(np.float32) for var in weights]
    start = [var.numpy() for var in weights]

    def loss() -> jt.Var:
        return jt.sigmoid(small_model(images, text)).mean()

    gradients = jt.grad(loss(), weights)
    slope = sum(float((g.numpy() * d).sum()) for g, d in zip(gradients, directions, strict=True))
    values, step = [], 1e-3
    for sign in (1, -1):
        for var, value, direction in zip(weights, start, directions, strict=True):
            set_value(var, value + sign * step * direction)
        values.append(loss().item())
    np.testing.assert_allclose((values[0] - values[1]) / (2 * step), slope, rtol=0.05, atol=1e-3)
    assert abs(slope) > 1e-2
