"""Transforms against plain NumPy arithmetic; tests/parity compares them with recordings of the released pipeline."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jseg.data import transforms


class Script:
    """Returns the given draws one after the other."""

    def __init__(self, *draws: float) -> None:
        self.draws = list(draws)

    def uniform(self, *_: float) -> float:
        return self.draws.pop(0)

    integers = uniform


def random_image(height: int = 37, width: int = 53, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def bilinear(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Half-pixel-centred bilinear resize in double precision."""
    planes = image.astype(np.float64)
    for axis, want in enumerate(size):
        have = image.shape[axis]
        place = np.clip((np.arange(want) + 0.5) * have / want - 0.5, 0, have - 1)
        low = np.floor(place).astype(int)
        weight = (place - low).reshape([-1 if i == axis else 1 for i in range(3)])
        high = np.minimum(low + 1, have - 1)
        planes = planes.take(low, axis) * (1 - weight) + planes.take(high, axis) * weight
    return planes


@given(st.integers(1, 3000), st.integers(1, 3000), st.floats(0.5, 2))
def test_box_size_is_the_largest_that_fits(height: int, width: int, ratio: float) -> None:
    long_side, short_side = int(2048 * ratio), int(512 * ratio)
    found = transforms.box_size((height, width), long_side, short_side)
    assert max(found) <= long_side and min(found) <= max(1, short_side)
    assert max(found) == long_side or min(found) == short_side


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 40), st.integers(2, 40), st.integers(2, 60), st.integers(2, 60))
def test_resize_is_bilinear_without_antialiasing(height: int, width: int, new_height: int, new_width: int) -> None:
    image = random_image(height, width)
    found = transforms.resize_image(image, (new_height, new_width)).astype(float)
    # OpenCV works with 11-bit weights: one grey level
    np.testing.assert_allclose(found, bilinear(image, (new_height, new_width)), atol=1.01)


def test_labels_are_resized_to_existing_values_at_the_nearest_place() -> None:
    labels = np.random.default_rng(1).integers(0, 256, (23, 31), dtype=np.uint8)
    found = transforms.resize_labels(labels, (50, 17))
    rows, columns = np.arange(50) * 23 // 50, np.arange(17) * 31 // 17  # OpenCV takes the pixel at floor(i * scale)
    np.testing.assert_array_equal(found, labels[rows][:, columns])


def test_random_resize_draws_one_ratio_for_both_sides_of_the_box() -> None:
    image, labels = random_image(333, 500), np.zeros((333, 500), np.uint8)
    image, labels = transforms.random_resize(image, labels, Script(0.7531), (2048, 512), (0.5, 2.0))
    assert image.shape[:2] == labels.shape == transforms.box_size((333, 500), 1542, 385)


def test_crop_is_redrawn_while_one_class_fills_it_and_the_eleventh_is_taken() -> None:
    labels = np.zeros((8, 40), np.uint8)
    labels[:, 36:] = 1
    image = np.repeat(labels[..., None], 3, 2)
    uniform = [0, 0] * 10
    _, cut = transforms.random_crop(image, labels, Script(*uniform, 0, 5), (8, 8), 0.75)
    np.testing.assert_array_equal(cut, labels[:, 5:13])
    _, cut = transforms.random_crop(image, labels, Script(0, 0, 0, 32, 0, 1), (8, 8), 0.75)
    np.testing.assert_array_equal(cut, labels[:, 32:])


@pytest.mark.parametrize(("labels", "varied"), [
    ([0, 0, 0, 1], False),  # a share of exactly 0.75
    ([0, 0, 1, 1], True), ([0, 0, 0, 0], False),
    ([0, 255, 255, 255], False),  # ignored pixels do not count as a class
    ([0, 1, 255, 255], True),
    ([0, 0, 0, 1, 255, 255], False),  # nor in the share
    ([255, 255], False),
])  # fmt: skip
def test_share_rule_looks_at_labelled_pixels_only(labels: list[int], varied: bool) -> None:
    assert transforms.is_varied(np.array([labels], np.uint8), 0.75) is varied


@given(st.floats(0.5, 1.5), st.floats(-32, 32, allow_subnormal=False))  # Jittor flushes subnormals
def test_values_are_clipped_and_cut_to_whole_numbers(gain: float, shift: float) -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    expected = np.clip(values.astype(np.float32) * np.float32(gain) + np.float32(shift), 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(transforms.scale_values(values, gain, shift), expected)
