"""Building blocks of the transformer."""

import jittor as jt
import numpy as np
import pytest

from jseg.clip.blocks import Dropout, LayerNorm, Transformer
from jseg.errors import UserError


@pytest.mark.parametrize(("eps", "scale", "offset"), [(1e-5, 1.0, 0.0), (1e-6, 1e-3, 0.0), (1e-5, 3.0, 1000.0)])
def test_layer_norm_and_its_gradients_equal_pytorch(eps: float, scale: float, offset: float) -> None:
    """In float64 there; with a large mean, E[x^2] - E[x]^2 would be wrong by 0.03."""
    torch = pytest.importorskip("torch")
    generator = np.random.default_rng(0)
    shapes = ((2, 5, 64), (64,), (64,), (2, 5, 64))
    x, weight, bias, outer = (generator.standard_normal(shape).astype(np.float32) for shape in shapes)
    x = (x * scale + offset).astype(np.float32)
    inputs = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (x, weight, bias)]
    expected = torch.nn.functional.layer_norm(inputs[0], (64,), inputs[1], inputs[2], eps)
    (expected * torch.tensor(outer)).sum().backward()
    norm, var = LayerNorm(64, eps), jt.array(x)
    norm.weight.update(jt.array(weight))
    norm.bias.update(jt.array(bias))
    computed = norm(var)
    gradients = jt.grad((computed * jt.array(outer)).sum(), [var, norm.weight, norm.bias])
    tolerance = 1e-4 if offset else 5e-6
    np.testing.assert_allclose(computed.numpy(), expected.detach().numpy(), atol=tolerance)
    for gradient, reference in zip(gradients, inputs, strict=True):
        largest = float(reference.grad.abs().max())
        np.testing.assert_allclose(gradient.numpy(), reference.grad.numpy(), atol=tolerance * largest, rtol=1e-5)


def test_transformer_refuses_heads_that_do_not_divide_the_width() -> None:
    with pytest.raises(UserError, match="5 attention heads do not divide the width 64"):
        Transformer(64, 1, 5)


def test_dropout_runs_while_active() -> None:
    dropout = Dropout(0.1)
    assert dropout.rate_now() == 0
    dropout.active = True
    assert dropout.rate_now() == 0.1
