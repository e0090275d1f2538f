"""Building blocks of the transformer."""

from __future__ import annotations

import jittor as jt
import numpy as np
import pytest

from jseg.clip.blocks import Dropout, LayerNorm, Transformer
from jseg.errors import UserError


def test_layer_norm_is_accurate_when_the_mean_is_large() -> None:
    x = (1000 + 3 * np.random.default_rng(0).standard_normal((4, 7, 64))).astype(np.float32)
    exact = x.astype(np.float64)
    exact = (exact - exact.mean(-1, keepdims=True)) / np.sqrt(exact.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(LayerNorm(64)(jt.array(x)).numpy(), exact, atol=1e-4)  # E[x^2] - E[x]^2: 0.03


@pytest.mark.parametrize("eps", [1e-5, 1e-6])
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_layer_norm_and_its_gradients_equal_pytorch(eps: float, scale: float) -> None:
    torch = pytest.importorskip("torch")
    generator = np.random.default_rng(0)
    x, weight, bias, outer = (
        generator.standard_normal(shape).astype(np.float32) for shape in ((2, 5, 16), (16,), (16,), (2, 5, 16))
    )
    x *= np.float32(scale)
    inputs = [torch.tensor(value, requires_grad=True) for value in (x, weight, bias)]
    expected = torch.nn.functional.layer_norm(inputs[0], (16,), inputs[1], inputs[2], eps)
    (expected * torch.tensor(outer)).sum().backward()
    norm = LayerNorm(16, eps)
    norm.weight.update(jt.array(weight))
    norm.bias.update(jt.array(bias))
    var = jt.array(x)
    computed = norm(var)
    gradients = jt.grad((computed * jt.array(outer)).sum(), [var, norm.weight, norm.bias])
    np.testing.assert_allclose(computed.numpy(), expected.detach().numpy(), atol=5e-6)
    for gradient, reference in zip(gradients, inputs, strict=True):
        largest = float(reference.grad.abs().max())
        np.testing.assert_allclose(gradient.numpy(), reference.grad.numpy(), atol=5e-6 * largest, rtol=1e-5)


def test_transformer_refuses_heads_that_do_not_divide_the_width() -> None:
    with pytest.raises(UserError, match="5 attention heads do not divide the width 64"):
        Transformer(64, 1, 5)


def test_dropout_is_off_until_it_is_switched_on() -> None:
    x = jt.ones((4, 5))
    dropout = Dropout(0.5)
    assert dropout(x) is x
    dropout.active = True
    x = jt.ones((40, 50))
    output = dropout(x)
    assert set(np.unique(output.numpy())) == {0.0, 2.0}
    np.testing.assert_array_equal(jt.grad(output.sum(), x).numpy(), output.numpy())  # the same mask


def test_dropout_keeps_the_mean_and_the_share() -> None:
    jt.set_global_seed(0)
    dropout = Dropout(0.1)
    dropout.active = True
    kept = dropout(jt.ones((200, 500))).numpy()
    assert abs((kept == 0).mean() - 0.1) < 0.005  # five standard deviations of 100,000 draws
    assert abs(kept.mean() - 1) < 0.006


def test_dropout_of_images_differs_and_follows_the_seed() -> None:
    dropout = Dropout(0.5)
    dropout.active = True
    draws = []
    for seed in (3, 3, 4):
        jt.set_global_seed(seed)
        draws.append(dropout(jt.ones((2, 8, 16))).numpy())
    assert (draws[0][0] != draws[0][1]).any()  # each image has its own mask
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()
