"""Attention operators against the plain reference, and the reference against PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import jittor as jt
import numpy as np
import pytest
from jittor import nn

from jseg.ops import attention
from jseg.ops.attention import allowed_with_prompts, merge_heads, split_heads, split_projected
from jseg.ops.half import cast
from jseg.ops.region_structure import attention_allowed

# leading, patch grid, region grid, prompts: odd grids, one region, one patch a region; many keys make several blocks
REGIONS = [
    (5, (4, 4), (2, 2), 3),
    (1, (5, 7), (2, 2), 40),
    (11, (6, 4), (1, 1), 1),
    (3, (4, 4), (4, 4), 2),
    (1, (27, 26), (4, 4), 10),
]
HEADS = [(3, 8), (2, 64), (4, 32)]  # number, depth: 64 and 32 as in the real model


def masked_attention(
    q: jt.Var, k: jt.Var, v: jt.Var, allowed: np.ndarray | None = None, keep: jt.Var | None = None
) -> jt.Var:
    """Softmax attention over q (B, heads, Tq, d), k and v (B, heads, Tk, d); returns (B, heads, Tq, d).

    Args:
        allowed: bool (Tq, Tk), True where a query may see a key; None = everywhere.
        keep: (B, heads, Tq, Tk) factors on the attention weights (dropout); None = 1.
    """
    scores = jt.matmul(q, k.transpose(0, 1, 3, 2)) * q.shape[-1] ** -0.5
    if allowed is not None:
        scores = scores + jt.array(np.where(allowed, 0.0, -1e30).astype(np.float32))
    weights = nn.softmax(scores, dim=-1)
    return jt.matmul(weights if keep is None else weights * keep, v)


@pytest.fixture(params=["auto", "plain"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test with the compiled kernels and with plain operators."""
    monkeypatch.setenv("JSEG_KERNELS", request.param)
    return request.param


def random_vars(*shapes: tuple[int, ...], seed: int = 0) -> list[jt.Var]:
    generator = np.random.default_rng(seed)
    return [jt.array(generator.standard_normal(shape).astype(np.float32)) for shape in shapes]


def compare(ours: Callable[..., jt.Var], plain: Callable[..., jt.Var], inputs: list[jt.Var], atol: float) -> None:
    """Outputs and the gradients of all inputs."""
    results = []
    for form in (ours, plain):
        output = form(*inputs)
        (weight,) = random_vars(tuple(output.shape), seed=1)
        gradients = jt.grad((output * weight).sum(), inputs)
        results.append([output.numpy(), *(gradient.numpy() for gradient in gradients)])
    for computed, expected in zip(*results, strict=True):
        np.testing.assert_allclose(computed, expected, atol=atol, rtol=1e-5)


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("case", REGIONS)
def test_region_attention_equals_reference(kernels: str, case: tuple, heads: tuple[int, int]) -> None:
    leading, patch_grid, region_grid, prompts = case
    count, width = heads[0], heads[0] * heads[1]
    length = leading + int(np.prod(patch_grid)) + int(np.prod(region_grid))

    def plain(projected: jt.Var, prompted: jt.Var) -> jt.Var:
        q, k, v = split_projected(projected, count)
        _, prompt_k, prompt_v = split_projected(prompted, count)
        allowed = allowed_with_prompts(leading, prompts, patch_grid, region_grid)
        k, v = jt.concat([k, prompt_k], dim=2), jt.concat([v, prompt_v], dim=2)
        return merge_heads(masked_attention(q, k, v, allowed))

    inputs = random_vars((2, length, 3 * width), (2, prompts, 3 * width))
    compare(lambda x, y: attention.region_attention(x, y, count, *case[:3]), plain, inputs, 5e-6)


def test_prompts_may_be_shared_by_the_images(kernels: str) -> None:
    projected, prompts = random_vars((2, 25, 24), (1, 3, 24))
    repeated = jt.concat([prompts, prompts], dim=0)
    arguments = (2, *REGIONS[0][:3])
    shared = attention.region_attention(projected, prompts, *arguments).numpy()
    np.testing.assert_array_equal(shared, attention.region_attention(projected, repeated, *arguments).numpy())
    (weight,) = random_vars((2, 25, 8), seed=1)
    gradients = [
        jt.grad((attention.region_attention(projected, form, *arguments) * weight).sum(), prompts).numpy()
        for form in (prompts, jt.concat([prompts, prompts], dim=0))
    ]
    np.testing.assert_allclose(*gradients, atol=1e-6)


@pytest.mark.parametrize("tokens,prompts,heads", [((2, 24, 24), (1, 3, 24), 2), ((4, 25, 24), (2, 3, 24), 2),
                                                  ((2, 25, 24), (1, 3, 24), 3)])  # fmt: skip
def test_sizes_that_do_not_fit_are_refused(kernels: str, tokens: tuple, prompts: tuple, heads: int) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        attention.region_attention(*random_vars(tokens, prompts), heads, *REGIONS[0][:3])


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("length", [9, 700])
@pytest.mark.parametrize("causal", [False, True])
def test_self_attention_equals_reference(kernels: str, length: int, causal: bool, heads: tuple[int, int]) -> None:
    allowed = np.tril(np.ones((length, length), dtype=bool)) if causal else None

    def plain(projected: jt.Var) -> jt.Var:
        return merge_heads(masked_attention(*split_projected(projected, heads[0]), allowed))

    inputs = random_vars((2, length, 3 * heads[0] * heads[1]))
    compare(lambda x: attention.self_attention(x, heads[0], causal), plain, inputs, 2e-5)


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("lengths", [(1, 1), (7, 10), (50, 333), (300, 65)])
def test_cross_attention_equals_reference(kernels: str, lengths: tuple[int, int], heads: tuple[int, int]) -> None:
    def plain(*inputs: jt.Var) -> jt.Var:
        return merge_heads(masked_attention(*(split_heads(x, heads[0]) for x in inputs)))

    width = heads[0] * heads[1]
    inputs = random_vars((2, lengths[0], width), (2, lengths[1], width), (2, lengths[1], width))
    compare(lambda q, k, v: attention.cross_attention(q, k, v, heads[0]), plain, inputs, 5e-6)


def test_dropped_weights_are_the_same_in_the_gradient() -> None:
    """Values that are unit vectors show the weights, hence which were dropped; the plain form then gets that mask."""
    q, k, weight = random_vars((1, 30, 64), (1, 64, 64), (1, 30, 64))
    v = jt.init.eye(64).unsqueeze(0)
    jt.set_global_seed(5)
    output = attention.cross_attention(q, k, v, 1, 0.3)
    gradients = jt.grad((output * weight).sum(), [q, k, v])
    factors = output.numpy() / attention.cross_attention(q, k, v, 1).numpy()
    dropped = factors < 0.5
    np.testing.assert_allclose(factors[~dropped], 1 / 0.7, rtol=1e-4)
    assert 0.25 < dropped.mean() < 0.35  # five standard deviations of 1920 draws
    keep = jt.array((~dropped).astype(np.float32)[None] / np.float32(0.7))
    q4, k4, v4 = (x.unsqueeze(0) for x in (q, k, v))
    plain = masked_attention(q4, k4, v4, keep=keep)[0]
    np.testing.assert_allclose(output.numpy(), plain.numpy(), atol=1e-6)
    for computed, expected in zip(gradients, jt.grad((plain * weight).sum(), [q, k, v]), strict=True):
        np.testing.assert_allclose(computed.numpy(), expected.numpy(), atol=1e-6)


def test_dropped_weights_follow_the_seed(kernels: str) -> None:
    inputs = random_vars((2, 20, 16), (2, 40, 16), (2, 40, 16))
    draws = []
    for seed in (3, 3, 4):
        jt.set_global_seed(seed)
        draws.append(attention.cross_attention(*inputs, 2, 0.5).numpy())
    np.testing.assert_array_equal(draws[0], draws[1])
    assert np.abs(draws[0] - draws[2]).max() > 0.01


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_region_attention_of_half_inputs_is_float32_inside(kernels: str, dtype: str) -> None:
    projected, prompts, weight = (cast(x, dtype) for x in random_vars((2, 25, 24), (2, 3, 24), (2, 25, 8)))
    arguments = (2, *REGIONS[0][:3])
    half = attention.region_attention(projected, prompts, *arguments)
    full = attention.region_attention(projected.float32(), prompts.float32(), *arguments)
    assert str(half.dtype) == dtype
    np.testing.assert_array_equal(half.float32().numpy(), cast(full, dtype).float32().numpy())
    gradients = jt.grad((half * weight).sum(), [projected, prompts])
    expected = jt.grad((full * weight.float32()).sum(), [projected, prompts])
    for computed, wanted in zip(gradients, expected, strict=True):
        assert str(computed.dtype) == dtype
        np.testing.assert_allclose(computed.float32().numpy(), wanted.float32().numpy(), atol=1e-2)


def test_large_scores_stay_finite(kernels: str) -> None:
    projected, prompts = random_vars((1, 25, 24), (1, 3, 24))
    output = attention.region_attention(projected * 1000, prompts * 1000, 2, *REGIONS[0][:3]).numpy()
    assert np.isfinite(output).all()
    assert np.abs(output).max() < 1e4  # weights add up to 1


def test_frozen_inputs_get_no_gradient_and_others_do(kernels: str) -> None:
    q, k, v = random_vars(*[(1, 6, 8)] * 3)
    k.stop_grad()
    gradient = jt.grad(attention.cross_attention(q, k, v, 2).sum(), v).numpy()
    np.testing.assert_allclose(gradient.sum(), 6 * 8, rtol=1e-5)  # weights of a query add up to 1


def test_prompts_get_the_same_gradient_beside_frozen_tokens(kernels: str) -> None:
    projected, prompts, weight = random_vars((2, 25, 24), (2, 3, 24), (2, 25, 8))
    gradients = []
    for tokens in (projected, projected.clone().stop_grad()):
        output = attention.region_attention(tokens, prompts, 2, *REGIONS[0][:3])
        gradients.append(jt.grad((output * weight).sum(), prompts).numpy())
    np.testing.assert_allclose(gradients[1], gradients[0], atol=1e-6)
    assert np.abs(gradients[0]).max() > 0.01


def test_reference_equals_pytorch() -> None:
    torch = pytest.importorskip("torch")
    qkv = random_vars(*[(2, 3, 25, 8)] * 3)
    tensors = [torch.tensor(x.numpy()) for x in qkv]
    allowed = attention_allowed(*REGIONS[0][:3])
    expected = torch.nn.functional.scaled_dot_product_attention(*tensors, attn_mask=torch.tensor(allowed))
    computed = masked_attention(*qkv, allowed).numpy()
    np.testing.assert_allclose(computed, expected.numpy(), atol=2e-6)
