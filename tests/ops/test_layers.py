"""Linear layers, layer normalisation and dropout: compiled kernels against plain operators."""

from collections.abc import Callable

import jittor as jt
import numpy as np
import pytest

from jseg.ops.layers import ACTIVATIONS, dropout, layer_norm, linear
from tests.ops.reference import random_vars


def compare(form: Callable[..., jt.Var], inputs: list[jt.Var], monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiled form against the plain one: outputs and all gradients, to 1e-5 of the largest value."""
    results = []
    for choice in ("auto", "plain"):
        monkeypatch.setenv("JSEG_KERNELS", choice)
        output = form(*inputs)
        (weight,) = random_vars(tuple(output.shape), seed=1)
        gradients = jt.grad((output * weight).sum(), inputs)
        results.append([output.numpy(), *(gradient.numpy() for gradient in gradients)])
    for computed, expected in zip(*results, strict=True):
        np.testing.assert_allclose(computed, expected, atol=1e-5 * max(1, np.abs(expected).max()), rtol=0)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_linear_equals_plain(activation: str, added: bool, biased: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias, residual = random_vars((2, 37, 40), (70, 40), (70,), (2, 37, 70))

    def form(x: jt.Var, weight: jt.Var, *rest: jt.Var) -> jt.Var:
        return linear(x, weight, bias if biased else None, activation, residual if added else None)

    compare(form, [x, weight, *([bias] if biased else []), *([residual] if added else [])], monkeypatch)


# more than a block of depth, of rows, of columns; a row stride of 4 KB; less than a register
@pytest.mark.parametrize("sizes", [(1, 3, 2), (101, 1024, 33), (7, 1600, 65), (200, 31, 257)])
def test_linear_of_awkward_sizes(sizes: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    rows, depth, columns = sizes
    compare(linear, random_vars((rows, depth), (columns, depth), (columns,)), monkeypatch)


@pytest.mark.parametrize("width", [5, 64, 770])
def test_layer_norm_equals_plain(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    compare(lambda *inputs: layer_norm(*inputs, 1e-5), random_vars((3, 67, width), (width,), (width,)), monkeypatch)


def test_dropout_is_the_same_in_the_gradient_and_follows_the_seed() -> None:
    draws = []
    for seed in (3, 3, 4):
        jt.set_global_seed(seed)
        x = jt.ones((100, 1001))
        draws.append(dropout(x, 0.1))
        np.testing.assert_array_equal(jt.grad(draws[-1].sum(), x).numpy(), draws[-1].numpy())
    first, again, other = (draw.numpy() for draw in draws)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert abs((first == 0).mean() - 0.1) < 0.005  # five standard deviations of 100,000 draws
    # neighbours and rows are independent
    assert abs(np.corrcoef(first[:, 1:].ravel(), first[:, :-1].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(first[1:].ravel(), first[:-1].ravel())[0, 1]) < 0.02
