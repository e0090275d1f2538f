"""Image and label transforms of the published training pipeline of CLIP-RC and ZegCLIP, with OpenCV's rounding.

Images are (H, W, 3) uint8 RGB; label maps are (H, W) uint8 with 255 = ignored.
"""

import cv2
import numpy as np
from numpy.random import Generator

from jseg.data.class_names import IGNORED

CROP_TRIES = 10  # draws that must meet the class-share rule; the next one is taken as it comes
BRIGHTNESS_SHIFT = 32.0
GAIN_RANGE = (0.5, 1.5)  # contrast and saturation
HUE_SHIFT = 18  # of OpenCV's 180 hue steps


def box_size(size: tuple[int, int], long_side: float, short_side: int) -> tuple[int, int]:
    """The largest (height, width) of the proportions of `size` (height, width) that fits the box, rounded half up.

    Where `long_side` is infinite, the short side is exactly `short_side`.
    """
    scale = min(long_side / max(size), short_side / min(size))
    return int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`image` (H, W, 3) uint8 at `size` (height, width), bilinear, not antialiased."""
    return cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


def resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`labels` (H, W) uint8 at `size` (height, width), nearest neighbour."""
    return cv2.resize(labels, (size[1], size[0]), interpolation=cv2.INTER_NEAREST)


def random_resize(
    image: np.ndarray, labels: np.ndarray, rng: Generator, box: tuple[int, int], ratio_range: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Fits image and labels into `box` (long, short) times a ratio drawn uniformly from `ratio_range`."""
    ratio = rng.uniform(*ratio_range)
    height, width = box_size(image.shape[:2], max(1, int(box[0] * ratio)), max(1, int(box[1] * ratio)))
    size = (max(1, height), max(1, width))
    return resize_image(image, size), resize_labels(labels, size)


def is_varied(labels: np.ndarray, max_class_share: float) -> bool:
    """Whether the labelled pixels hold at least two classes and none has a share of `max_class_share` or more."""
    counts = np.bincount(labels.ravel(), minlength=256)[:IGNORED]
    return bool(np.count_nonzero(counts) > 1 and counts.max() / counts.sum() < max_class_share)


def random_crop(
    image: np.ndarray, labels: np.ndarray, rng: Generator, size: tuple[int, int], max_class_share: float = 0.75
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts out at most `size` (height, width), drawn again up to ten times until `is_varied` (a share of 1: any)."""
    spare = [max(have - want, 0) for have, want in zip(labels.shape, size, strict=True)]
    for attempt in range(CROP_TRIES + 1):
        top, left = int(rng.integers(0, spare[0] + 1)), int(rng.integers(0, spare[1] + 1))
        window = np.s_[top : top + size[0], left : left + size[1]]
        if max_class_share >= 1 or attempt == CROP_TRIES or is_varied(labels[window], max_class_share):
            break
    return image[window], labels[window]


def random_flip(
    image: np.ndarray, labels: np.ndarray, rng: Generator, probability: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    """Mirrors left and right with `probability`."""
    if rng.uniform() < probability:
        return np.ascontiguousarray(image[:, ::-1]), np.ascontiguousarray(labels[:, ::-1])
    return image, labels


def scale_values(values: np.ndarray, gain: float = 1.0, shift: float = 0.0) -> np.ndarray:
    """`values * gain + shift` on uint8, clipped to [0, 255] and cut to whole numbers."""
    table = np.clip(np.arange(256, dtype=np.float32) * np.float32(gain) + np.float32(shift), 0, 255).astype(np.uint8)
    return cv2.LUT(np.ascontiguousarray(values), table)  # 256 values are worked out instead of every pixel


def photometric_distortion(image: np.ndarray, rng: Generator) -> np.ndarray:
    """Changes brightness, contrast (here or, by a coin, at the end), saturation and hue, each with probability 0.5."""
    if rng.integers(2):
        image = scale_values(image, shift=rng.uniform(-BRIGHTNESS_SHIFT, BRIGHTNESS_SHIFT))
    contrast_first = rng.integers(2) == 1
    if contrast_first and rng.integers(2):
        image = scale_values(image, gain=rng.uniform(*GAIN_RANGE))
    if rng.integers(2):
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv[:, :, 1] = scale_values(hsv[:, :, 1], gain=rng.uniform(*GAIN_RANGE))
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if rng.integers(2):
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv[:, :, 0] = (hsv[:, :, 0].astype(np.int16) + int(rng.integers(-HUE_SHIFT, HUE_SHIFT))) % 180
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if not contrast_first and rng.integers(2):
        image = scale_values(image, gain=rng.uniform(*GAIN_RANGE))
    return image


def pad(image: np.ndarray, labels: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Fills up to `size` (height, width) at the right and bottom: the image with 0, labels with 255."""
    bottom, right = (max(want - have, 0) for want, have in zip(size, labels.shape, strict=True))
    image = np.pad(image, ((0, bottom), (0, right), (0, 0)))
    return image, np.pad(labels, ((0, bottom), (0, right)), constant_values=IGNORED)
