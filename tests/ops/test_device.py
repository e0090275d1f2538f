"""Tests of jseg/ops/device.py: NumPy's numbers bit for bit, and transposition with its gradient."""

import jittor as jt
import numpy as np
import pytest

from jseg.config import DataConfig
from jseg.ops.bilinear import interpolation_matrix
from jseg.ops.device import constant, join, normalise, split, transpose


def test_normalised_images_have_the_bits_of_numpys_formula() -> None:
    data, images = DataConfig(), np.arange(256, dtype=np.uint8).repeat(3).reshape(2, 3, 8, 16)
    mean, factor = np.float32(data.mean), (1 / np.array(data.std)).astype(np.float32)
    expected = (images.astype(np.float32) - mean[:, None, None]) * factor[:, None, None]
    np.testing.assert_array_equal(normalise(images, data).numpy(), expected)
    np.testing.assert_array_equal(normalise(images[1], data).numpy(), expected[1])
    np.testing.assert_array_equal(normalise(expected, data).numpy(), expected)
    expected[0, :, 5:], expected[0, :, :, 9:] = 0, 0
    np.testing.assert_array_equal(normalise(images, data, np.int32([[5, 9], [8, 16]])).numpy(), expected)


@pytest.mark.parametrize("axes", [(1, 0), (0, 2, 1), (0, 1, 3, 2), (0, 3, 1, 2)])
def test_transposition_and_its_gradient(axes: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).standard_normal((2, 3, 4, 5)[: len(axes)]).astype(np.float32)
    x, outer = jt.array(array), np.random.default_rng(1).standard_normal(array.transpose(axes).shape).astype(np.float32)
    y = transpose(x, *axes)
    np.testing.assert_array_equal(y.numpy(), array.transpose(axes))
    grad = jt.grad((y * jt.array(outer)).sum(), x)
    np.testing.assert_array_equal(grad.numpy(), outer.transpose(np.argsort(axes)))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_joined_and_split_with_gradients(axis: int) -> None:
    shapes, generator = [[size if i == axis else 4 for i in range(3)] for size in (2, 1, 3)], np.random.default_rng(0)
    parts = [jt.array(generator.standard_normal(shape).astype(np.float32)) for shape in shapes]
    whole = join(parts, axis)
    np.testing.assert_array_equal(whole.numpy(), np.concatenate(parts, axis))
    gradients = [x.numpy() for x in jt.grad((whole * whole).sum(), parts)]
    np.testing.assert_array_equal(np.concatenate(gradients, axis), 2 * whole.numpy())
    first, _, last = split(whole, (2, 1, 3), axis)  # the second one is not used: its gradient is 0
    np.testing.assert_array_equal(last.numpy(), parts[2].numpy())
    gradient = jt.grad((first * 2).sum() + last.sum(), whole).numpy()
    np.testing.assert_array_equal(gradient, np.concatenate([parts[0] * 0 + 2, parts[1] * 0, parts[2] * 0 + 1], axis))


def test_a_constant_is_made_once() -> None:
    first = constant(interpolation_matrix, 3, 7)
    assert constant(interpolation_matrix, 3, 7) is first and first.is_stop_grad()
    np.testing.assert_array_equal(first.numpy(), interpolation_matrix(3, 7))
