"""Attention operators, compiled and plain, against PyTorch in float64."""

from collections.abc import Callable

import jittor as jt
import numpy as np
import pytest
import torch

from jseg.ops import attention
from jseg.ops.half import cast
from tests.ops import reference
from tests.ops.reference import random_vars

# leading, patch grid, region grid, prompts: odd grids, one region, one patch a region; many keys make several blocks
REGIONS = [(5, (4, 4), (2, 2), 3), (1, (5, 7), (2, 2), 40), (11, (6, 4), (1, 1), 1), (3, (4, 4), (4, 4), 2)]
REGIONS += [(1, (27, 26), (4, 4), 10)]
HEADS = [(3, 8), (2, 64), (4, 32)]  # number, depth: 64 and 32 as in the real model


@pytest.fixture(params=["auto", "plain"], autouse=True)
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs every test with the compiled kernels and with plain operators."""
    monkeypatch.setenv("JSEG_KERNELS", request.param)
    return request.param


def compare(ours: Callable[..., jt.Var], theirs: Callable[..., torch.Tensor], inputs: list[jt.Var]) -> None:
    """Outputs and the gradients of all inputs."""
    output = ours(*inputs)
    (weight,) = random_vars(tuple(output.shape), seed=1)
    gradients = jt.grad((output * weight).sum(), inputs)
    wide = [torch.tensor(x.numpy(), dtype=torch.float64, requires_grad=True) for x in inputs]
    expected = theirs(*wide)
    expected.backward(torch.tensor(weight.numpy(), dtype=torch.float64))
    for computed, exact in zip([output, *gradients], [expected.detach(), *(x.grad for x in wide)], strict=True):
        np.testing.assert_allclose(computed.numpy(), exact.numpy(), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("case", REGIONS)
def test_region_attention(case: tuple, heads: tuple[int, int]) -> None:
    *structure, prompts = case
    length, width = structure[0] + sum(int(np.prod(grid)) for grid in structure[1:]), heads[0] * heads[1]
    inputs = random_vars((2, length, 3 * width), (2, prompts, 3 * width))
    forms = [
        lambda x, y, f=f: f(x, y, heads[0], *structure)
        for f in (attention.region_attention, reference.region_attention)
    ]
    compare(*forms, inputs)


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("length", [9, 700])
@pytest.mark.parametrize("causal", [False, True])
def test_self_attention(length: int, causal: bool, heads: tuple[int, int]) -> None:
    forms = [lambda x, f=f: f(x, heads[0], causal) for f in (attention.self_attention, reference.self_attention)]
    compare(*forms, random_vars((2, length, 3 * heads[0] * heads[1])))


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("lengths", [(1, 1), (7, 10), (50, 333), (300, 65)])
def test_cross_attention(lengths: tuple[int, int], heads: tuple[int, int]) -> None:
    width = heads[0] * heads[1]
    inputs = random_vars((2, lengths[0], width), (2, lengths[1], width), (2, lengths[1], width))
    forms = [lambda *qkv, f=f: f(*qkv, heads[0]) for f in (attention.cross_attention, reference.attention)]
    compare(*forms, inputs)


def test_prompts_may_be_shared_by_the_images() -> None:
    projected, prompts = random_vars((2, 25, 24), (1, 3, 24))
    repeated = jt.concat([prompts, prompts], dim=0)
    (weight,) = random_vars((2, 25, 8), seed=1)
    outputs = [attention.region_attention(projected, form, 2, *REGIONS[0][:3]) for form in (prompts, repeated)]
    np.testing.assert_array_equal(*(output.numpy() for output in outputs))
    np.testing.assert_allclose(*(jt.grad((x * weight).sum(), prompts).numpy() for x in outputs), atol=1e-6)


def test_dropped_weights_are_the_same_in_the_gradient() -> None:
    """Values that are unit vectors show the weights, hence which were dropped; the reference then gets that mask."""
    q, k, weight = random_vars((1, 30, 64), (1, 64, 64), (1, 30, 64))
    v = jt.init.eye(64).unsqueeze(0)
    jt.set_global_seed(5)
    output = attention.cross_attention(q, k, v, 1, 0.3)
    gradients = jt.grad((output * weight).sum(), [q, k, v])
    factors = output.numpy() / attention.cross_attention(q, k, v, 1).numpy()
    dropped = factors < 0.5
    np.testing.assert_allclose(factors[~dropped], 1 / 0.7, rtol=1e-4)
    assert 0.25 < dropped.mean() < 0.35  # five standard deviations of 1920 draws
    keep = torch.from_numpy(~dropped)[None] / 0.7
    wide = [torch.tensor(x.numpy(), requires_grad=True) for x in (q, k, v)]
    expected = reference.attention(*wide, 1, None, keep)
    expected.backward(torch.tensor(weight.numpy()))
    for computed, exact in zip([output, *gradients], [expected.detach(), *(x.grad for x in wide)], strict=True):
        np.testing.assert_allclose(computed.numpy(), exact.numpy(), atol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_region_attention_of_half_inputs_is_float32_inside(dtype: str) -> None:
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


def test_prompts_get_the_same_gradient_beside_frozen_tokens() -> None:
    projected, prompts, weight = random_vars((2, 25, 24), (2, 3, 24), (2, 25, 8))
    gradients = []
    for tokens in (projected, projected.clone().stop_grad()):
        output = attention.region_attention(tokens, prompts, 2, *REGIONS[0][:3])
        gradients.append(jt.grad((output * weight).sum(), prompts).numpy())
    np.testing.assert_allclose(gradients[1], gradients[0], atol=1e-6)
    assert np.abs(gradients[0]).max() > 0.01


def test_left_over_patches_belong_to_no_region() -> None:
    np.testing.assert_array_equal(
        attention.region_of_patch((3, 5), (2, 2)).reshape(3, 5), [[0, 0, 1, 1, -1], [2, 2, 3, 3, -1], [-1] * 5]
    )


@pytest.mark.parametrize(("patch_grid", "side"), [((6, 4), 2), ((4, 6), 1), ((7, 9), 3), ((4, 4), 4), ((5, 8), 4)])
def test_mask_of_any_grid(patch_grid: tuple[int, int], side: int) -> None:
    leading, patches, regions = 4, patch_grid[0] * patch_grid[1], side * side
    allowed = attention.attention_allowed(leading, patch_grid, (side, side))
    first = leading + patches
    np.testing.assert_array_equal(allowed, allowed.T)
    assert allowed[:first, :first].all()
    assert not allowed[first:, :leading].any()
    np.testing.assert_array_equal(allowed[first:, first:], np.eye(regions, dtype=bool))
    block = (patch_grid[0] // side) * (patch_grid[1] // side)
    np.testing.assert_array_equal(allowed[first:, leading:first].sum(axis=1), block)
    assert allowed[leading:first, first:].sum(axis=1).max() == 1
