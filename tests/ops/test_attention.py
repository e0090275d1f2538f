"""Attention operators against the plain reference, and the reference against PyTorch."""

from __future__ import annotations

import jittor as jt
import numpy as np
import pytest

from jseg.model.region_bridge import attention_allowed
from jseg.ops import attention, attention_reference

CASES = [(5, (4, 4), (2, 2)), (1, (5, 7), (2, 2)), (11, (6, 4), (1, 1)), (3, (4, 4), (4, 4))]


def random_vars(*shapes: tuple[int, ...], seed: int = 0) -> list[jt.Var]:
    generator = np.random.default_rng(seed)
    return [jt.array(generator.standard_normal(shape).astype(np.float32)) for shape in shapes]


def output_and_gradients(output: jt.Var, inputs: list[jt.Var], weight: jt.Var) -> list[np.ndarray]:
    return [output.numpy(), *(gradient.numpy() for gradient in jt.grad((output * weight).sum(), inputs))]


@pytest.mark.parametrize("case", CASES)
def test_region_attention_equals_reference(case: tuple) -> None:
    leading, patch_grid, region_grid = case
    length = leading + int(np.prod(patch_grid)) + int(np.prod(region_grid))
    *qkv, weight = random_vars(*[(2, 3, length, 8)] * 4)
    ours = output_and_gradients(attention.region_attention(*qkv, *case), qkv, weight)
    plain = output_and_gradients(attention_reference.region_attention(*qkv, *case), qkv, weight)
    for computed, expected in zip(ours, plain, strict=True):
        np.testing.assert_allclose(computed, expected, atol=2e-6, rtol=1e-5)


def test_cross_attention_with_dropped_weights_equals_reference() -> None:
    q, k, v, weight = random_vars((2, 3, 7, 8), (2, 3, 10, 8), (2, 3, 10, 8), (2, 3, 7, 8))
    keep = jt.array((np.random.default_rng(1).random((2, 3, 7, 10)) < 0.7).astype(np.float32) / 0.7)
    ours = output_and_gradients(attention.cross_attention(q, k, v, keep), [q, k, v], weight)
    plain = output_and_gradients(attention_reference.masked_attention(q, k, v, keep=keep), [q, k, v], weight)
    without = attention.cross_attention(q, k, v).numpy()
    for computed, expected in zip(ours, plain, strict=True):
        np.testing.assert_allclose(computed, expected, atol=2e-6, rtol=1e-5)
    assert np.abs(without - ours[0]).max() > 0.01  # the mask was used


def test_causal_attention_equals_reference() -> None:
    *qkv, weight = random_vars(*[(2, 3, 9, 8)] * 4)
    ours = output_and_gradients(attention.causal_attention(*qkv), qkv, weight)
    allowed = np.tril(np.ones((9, 9), dtype=bool))
    plain = output_and_gradients(attention_reference.masked_attention(*qkv, allowed), qkv, weight)
    for computed, expected in zip(ours, plain, strict=True):
        np.testing.assert_allclose(computed, expected, atol=2e-6, rtol=1e-5)


def test_products_one_by_one_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    *qkv, weight = random_vars(*[(2, 3, 25, 8)] * 4)
    at_once = output_and_gradients(attention.region_attention(*qkv, *CASES[0]), qkv, weight)
    monkeypatch.setattr(attention, "LARGE_PRODUCT", 0)
    one_by_one = output_and_gradients(attention.region_attention(*qkv, *CASES[0]), qkv, weight)
    for computed, expected in zip(one_by_one, at_once, strict=True):
        np.testing.assert_allclose(computed, expected, atol=2e-6, rtol=1e-5)


def test_large_scores_stay_finite() -> None:
    q, k, v = random_vars(*[(1, 1, 25, 4)] * 3)
    output = attention.region_attention(q * 1000, k * 1000, v, *CASES[0]).numpy()
    assert np.isfinite(output).all()


def test_frozen_inputs_get_no_gradient_and_others_do() -> None:
    q, k, v = random_vars(*[(1, 2, 6, 4)] * 3)
    k.stop_grad()
    gradient = jt.grad(attention.cross_attention(q, k, v).sum(), v).numpy()
    np.testing.assert_allclose(gradient.sum(), 1 * 2 * 6 * 4, rtol=1e-5)  # weights of a query add up to 1


def test_reference_equals_pytorch() -> None:
    torch = pytest.importorskip("torch")
    *qkv, _ = random_vars(*[(2, 3, 25, 8)] * 4)
    tensors = [torch.tensor(x.numpy()) for x in qkv]
    allowed = attention_allowed(*CASES[0])
    expected = torch.nn.functional.scaled_dot_product_attention(*tensors, attn_mask=torch.tensor(allowed))
    computed = attention_reference.region_attention(*qkv, *CASES[0]).numpy()
    np.testing.assert_allclose(computed, expected.numpy(), atol=2e-6)
