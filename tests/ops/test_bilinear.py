"""Bilinear resizing against PyTorch's."""

import jittor as jt
import numpy as np
import pytest

from jseg.ops.bilinear import grid_interpolation_matrix, resize_bilinear

SIZES = [((4, 4), (64, 64)), ((14, 14), (20, 33)), ((5, 7), (3, 4)), ((1, 2), (6, 1)), ((8, 3), (8, 3))]


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_resizing_and_its_gradient_equal_pytorch(source: tuple[int, int], target: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    generator = np.random.default_rng(0)
    maps = generator.standard_normal((2, 3, *source)).astype(np.float32)
    weight = generator.standard_normal((2, 3, *target)).astype(np.float32)
    x = torch.tensor(maps, requires_grad=True)
    expected = torch.nn.functional.interpolate(x, size=target, mode="bilinear", align_corners=False)
    (expected * torch.tensor(weight)).sum().backward()
    var = jt.array(maps)
    resized = resize_bilinear(var, target)
    gradient = jt.grad((resized * jt.array(weight)).sum(), var)
    np.testing.assert_allclose(resized.numpy(), expected.detach().numpy(), atol=1e-6)
    np.testing.assert_allclose(gradient.numpy(), x.grad.numpy(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_matrix_of_tokens_does_the_same(source: tuple[int, int], target: tuple[int, int]) -> None:
    tokens = np.random.default_rng(0).standard_normal((source[0] * source[1], 5)).astype(np.float32)
    maps = jt.array(np.ascontiguousarray(tokens.T).reshape(1, 5, *source))
    expected = resize_bilinear(maps, target).numpy().reshape(5, -1).T
    np.testing.assert_allclose(grid_interpolation_matrix(source, target) @ tokens, expected, atol=1e-6)
