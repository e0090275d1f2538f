"""Half-precision operators against float64 and PyTorch: inputs and results rounded to nearest, the rest exact."""

from collections.abc import Callable

import jittor as jt
import numpy as np
import pytest
import torch

from jseg.ops.attention import cross_attention, self_attention
from jseg.ops.half import HALVES, cast, widen
from jseg.ops.layers import ACTIVATIONS, dropout, layer_norm, linear
from tests.ops import reference

STEP = {"bfloat16": 2.0**-8, "float16": 2.0**-11}  # largest relative error of rounding to nearest


def half_grid(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray:
    """float32 values that `dtype` has, normally distributed."""
    values = torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))
    return values.to(getattr(torch, dtype)).float().numpy()


def close(computed: jt.Var, expected: np.ndarray, dtype: str, steps: float = 1.01) -> None:
    """Within `steps` roundings of `dtype`, and 1e-5 of the largest value for the float32 sums inside."""
    assert str(computed.dtype) == dtype
    allowed = steps * STEP.get(dtype, 0) * np.abs(expected) + 1e-5 * np.abs(expected).max()
    excess = np.abs(widen(computed).numpy() - expected) - allowed
    assert excess.max() <= 0, excess.max()


@pytest.mark.parametrize("dtype", HALVES)
def test_rounding_is_that_of_pytorch(dtype: str) -> None:
    """Jittor's own cuts bfloat16 off on CPU: half of the values would differ."""
    special = [0.0, 1.0, 1 + 2**-8, 1 + 3 * 2**-8, 65504.0, 65519.0, 65520.0, 3.3e38, 3.4e38, 7e-8, np.inf, np.nan]
    values = np.concatenate([np.random.default_rng(0).standard_normal(10001) * 100, special])
    values = np.concatenate([values, -values]).astype(np.float32)
    expected = torch.from_numpy(values).to(getattr(torch, dtype)).float().numpy()
    np.testing.assert_array_equal(widen(cast(jt.array(values), dtype)).numpy(), expected)
    assert (widen(cast(jt.array(values), dtype)).numpy()[:10001] != values[:10001]).mean() > 0.9


def run(
    ours: Callable[..., jt.Var], theirs: Callable[..., torch.Tensor], arrays: list[np.ndarray], types: list[str]
) -> list[tuple[jt.Var, np.ndarray]]:
    """Output and gradients of `ours` on inputs of these types, each with the numbers of `theirs` in float64."""
    inputs = [cast(jt.array(x), dtype) for x, dtype in zip(arrays, types, strict=True)]
    output = ours(*inputs)
    grad = half_grid(tuple(output.shape), types[0], 9)
    gradients = jt.grad((widen(output) * jt.array(grad)).sum(), inputs)
    wide = [torch.from_numpy(x.astype(np.float64)).requires_grad_() for x in arrays]
    expected = theirs(*wide)
    expected.backward(torch.from_numpy(grad.astype(np.float64)))
    assert [str(x.dtype) for x in (output, *gradients)] == [types[0], *types]
    return list(zip([output, *gradients], [expected.detach().numpy(), *(x.grad.numpy() for x in wide)], strict=True))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("choice", ["auto", "plain"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_linear(dtype: str, choice: str, activation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and gradients against float64; the plain form, and CUDA, round the product before what follows it."""
    monkeypatch.setenv("JSEG_KERNELS", choice)
    once = choice == "auto" and not jt.flags.use_cuda
    act = {"none": lambda y: y, "relu": torch.relu, "quick_gelu": lambda y: y * torch.sigmoid(1.702 * y)}[activation]
    x, weight = half_grid((2, 37, 40), dtype), half_grid((70, 40), dtype, 1)
    bias = np.random.default_rng(3).standard_normal(70).astype(np.float32)
    (output, expected), *gradients = run(
        lambda *inputs: linear(*inputs, activation), lambda x, weight, bias: act(x @ weight.T + bias),
        [x, weight, bias], [dtype, "float32", "float32"],
    )  # fmt: skip
    if once:
        close(output, expected, dtype)
    else:  # roundings of the product and of its sum with the bias show where these cancel
        assert np.abs(widen(output).numpy() - expected).max() <= 3 * STEP[dtype] * np.abs(x @ weight.T + bias).max()
    for computed, exact in gradients:
        allowed = (1 if once else 3) * STEP[dtype] * np.abs(exact).max()
        assert np.abs(widen(computed).numpy() - exact).max() <= allowed


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("choice", ["auto", "plain"])
def test_attention(dtype: str, choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs to one rounding (on CUDA, which rounds weights, to two of the largest value), gradients to two of it."""
    monkeypatch.setenv("JSEG_KERNELS", choice)
    q, k, v = (half_grid((2, length, 16), dtype, seed) for seed, length in enumerate((9, 7, 7)))
    for arrays, ours, theirs in (
        ([half_grid((2, 9, 48), dtype)], self_attention, reference.self_attention),
        ([q, k, v], cross_attention, reference.attention),
    ):
        forms = [lambda *inputs, f=f: f(*inputs, 2) for f in (ours, theirs)]
        found = run(*forms, arrays, [dtype] * len(arrays))
        if not jt.flags.use_cuda:
            close(*found[0], dtype)
        for computed, exact in found:
            assert np.abs(widen(computed).numpy() - exact).max() <= 2 * STEP[dtype] * np.abs(exact).max()


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("parameters", ["float32", "half"])
def test_layer_norm(dtype: str, parameters: str) -> None:
    """Statistics keep float32: channels far above the rest, as in CLIP's hidden states, would drown the others."""
    x, weight, bias = half_grid((3, 11, 64), dtype), half_grid((64,), dtype, 1), half_grid((64,), dtype, 2)
    x[..., 5] = 64.0
    kind = dtype if parameters == "half" else "float32"
    normalise = torch.nn.functional.layer_norm
    forms = [lambda *inputs: layer_norm(*inputs, 1e-5), lambda x, w, b: normalise(x, (64,), w, b, 1e-5)]
    for computed, exact in run(*forms, [x, weight, bias], [dtype, kind, kind]):
        close(computed, exact, str(computed.dtype))


@pytest.mark.parametrize("dtype", HALVES)
def test_dropout(dtype: str) -> None:
    x, results = half_grid((2, 3, 4, 5), dtype), []
    for kind in ("float32", dtype):
        jt.set_global_seed(3)
        variable = cast(jt.array(x), kind)
        output = dropout(variable, 0.25)
        (gradient,) = jt.grad(widen(output).sum(), [variable])
        jt.sync([output, gradient])  # draws before the seed is set again
        results.append((output, gradient))
    for wide, half in zip(*results, strict=True):
        close(half, wide.numpy(), dtype)
