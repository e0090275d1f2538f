"""Batches for training, prepared ahead by worker processes, and images for evaluation, decoded ahead by threads.

Each sample is a pure function of (data set, configuration, stream position), so batches are the same for any number of
workers and ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np

from jseg.config import Config, DataConfig, TestConfig
from jseg.data import transforms
from jseg.data.dataset import Dataset
from jseg.data.label_maps import training_labels
from jseg.data.sampling import augmentation_rng, endless_indices
from jseg.data.workers import map_in_order
from jseg.errors import UserError

_BATCHES_AHEAD = 2
_EVALUATION_THREADS = 4
MOST_WINDOWS = 4000  # of one image; logits of 171 classes take 0.7 MB per window
MOST_PIXELS = 2**28  # of one image at all scales together; 3 GiB as float32


@dataclass(frozen=True)
class Batch:
    """What one optimiser step of one process trains on."""

    images: np.ndarray  # (B, 3, H, W) float32, normalised RGB
    labels: np.ndarray  # (B, H, W) int32 training targets: see label_maps.training_labels
    names: list[str]
    iteration: int


class Sample(NamedTuple):
    """One image of a batch."""

    image: np.ndarray  # (3, H, W) float32
    labels: np.ndarray  # (H, W) int32
    name: str


class EvaluationImage(NamedTuple):
    """One image to evaluate."""

    images: tuple[np.ndarray, ...]  # one for each of test.scales: (3, h, w) float32, normalised RGB, resized so that
    # the short side is test.short_side times the scale
    labels: np.ndarray | None  # (H, W) uint8 class numbers at the original size, 255 = ignored
    name: str
    size: tuple[int, int]  # original height, width


def training_sample(dataset: Dataset, data: DataConfig, seed: int, position: int, index: int) -> Sample:
    """Image `index` after the random transforms of stream position `position`."""
    image, labels, name = dataset.read(index)
    rng = augmentation_rng(seed, position)
    image, labels = transforms.random_resize(image, labels, rng, data.resize_box, data.ratio_range)
    image, labels = transforms.random_crop(image, labels, rng, data.crop_size, data.max_class_share)
    image, labels = transforms.random_flip(image, labels, rng, data.flip_probability)
    if data.photometric:
        image = transforms.photometric_distortion(image, rng)
    image = transforms.normalise(image, data.mean, data.std)
    image, labels = transforms.pad(image, labels, data.crop_size)
    targets = training_labels(labels, dataset.class_list, data.setting)
    return Sample(np.ascontiguousarray(image.transpose(2, 0, 1)), targets, name)


def training_batches(
    dataset: Dataset, config: Config, start_iteration: int = 0, rank: int = 0, world: int = 1
) -> Iterator[Batch]:
    """Batches without end, the first one being that of `start_iteration`.

    Close the iterator (or leave it to be collected) to end the workers. With `world` processes each gets
    `train.batch_size / world` samples; together they are the batch of a single process.

    Raises:
        UserError: while iterating, what `dataset.read` raises.
    """
    share = config.train.batch_size // world
    samples = map_in_order(
        training_sample,
        endless_indices(len(dataset), config.train.seed, start_iteration * config.train.batch_size, rank, world),
        config.data.workers,
        shared=(dataset, config.data, config.train.seed),
        ahead=max(_BATCHES_AHEAD * share, 2 * config.data.workers),
        name=lambda item: dataset.name(item[1]),
        remedy="try data.workers=0, which prepares images in the main process",
    )
    return _batches(samples, share, start_iteration)


def _batches(samples: Iterator[Sample], size: int, iteration: int) -> Iterator[Batch]:
    try:
        while True:
            images, labels, names = zip(*islice(samples, size), strict=True)
            yield Batch(np.stack(images), np.stack(labels), list(names), iteration)
            iteration += 1
    finally:
        samples.close()


def check_cost(size: tuple[int, int], test: TestConfig, name: str) -> None:
    """Refuses an image of `size` = (height, width) that takes too many pixels or windows at these settings.

    Raises:
        UserError: with the image's name and the keys.
    """
    pixels = windows = 0
    for scale in test.scales:
        sides = transforms.short_side_size(size, max(1, round(test.short_side * scale)))
        pixels += sides[0] * sides[1]
        if test.mode == "slide":
            rows, columns = (
                -(-max(side - crop, 0) // stride) + 1
                for side, crop, stride in zip(sides, test.crop_size, test.stride, strict=True)
            )
            windows += rows * columns
    if pixels > MOST_PIXELS or windows > MOST_WINDOWS:
        raise UserError(
            f"{name}: {size[1]}x{size[0]} pixels become {pixels:,} pixels in {windows:,} windows, more than "
            f"{MOST_PIXELS:,} or {MOST_WINDOWS:,}: cut the image up, or set a smaller test.short_side or test.scales, "
            "or a larger test.stride"
        )


def model_image(image: np.ndarray, config: Config, scale: float = 1.0) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> (3, h, w) float32 for the model: the short side is test.short_side times `scale`."""
    short_side = max(1, round(config.test.short_side * scale))
    resized = transforms.resize_image(image, transforms.short_side_size(image.shape[:2], short_side))
    normalised = transforms.normalise(resized, config.data.mean, config.data.std)
    return np.ascontiguousarray(normalised.transpose(2, 0, 1))


def evaluation_image(dataset: Dataset, config: Config, index: int) -> EvaluationImage:
    """Image `index`, resized (to each scale) and normalised for the model."""
    image, labels, name = dataset.read(index)
    check_cost(image.shape[:2], config.test, name)
    images = tuple(model_image(image, config, scale) for scale in config.test.scales)
    return EvaluationImage(images, labels, name, image.shape[:2])


def evaluation_images(dataset: Dataset, config: Config, rank: int = 0, world: int = 1) -> Iterator[EvaluationImage]:
    """Every `world`-th image from `rank` on, in order, a few of them decoded ahead by threads (OpenCV needs no GIL).

    Raises:
        UserError: while iterating, what `dataset.read` raises.
    """
    return map_in_order(
        evaluation_image,
        ((index,) for index in range(rank, len(dataset), world)),
        max(1, min(config.data.workers, _EVALUATION_THREADS)),
        shared=(dataset, config),
        ahead=1 + max(1, min(config.data.workers, _EVALUATION_THREADS)),
        threads=True,
    )
