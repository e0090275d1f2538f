"""Batches for training, prepared ahead by worker processes, and images for evaluation, decoded ahead by threads.

Training walks an endless shuffled stream; a sample is a pure function of (data set, configuration, stream position).
"""

import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import count, islice
from typing import NamedTuple

import numpy as np

from jseg.config import Config, DataConfig, TestConfig
from jseg.data import transforms
from jseg.data.class_names import training_labels
from jseg.data.dataset import Dataset
from jseg.data.workers import map_in_order
from jseg.errors import UserError

_ORDER, _AUGMENTATION = 0, 1  # keep the two uses of one seed apart
MOST_PIXELS = 2**26  # of one image at all scales together; 0.8 GB as float32


@dataclass(frozen=True)
class Batch:
    """What one optimiser step of one process trains on."""

    images: np.ndarray  # (B, 3, H, W) uint8 RGB
    labels: np.ndarray  # (B, H, W) int16 training targets: see class_names.training_labels
    names: list[str]
    iteration: int
    sizes: np.ndarray | None = None  # (B, 2) int32 rows and columns of each image, the rest is padding; None = no rest


class EvaluationImage(NamedTuple):
    """One image to evaluate."""

    images: tuple[np.ndarray, ...]  # for each of test.scales what `model_image` gives
    labels: np.ndarray | None  # (H, W) uint8 class numbers at the original size, 255 = ignored
    name: str
    size: tuple[int, int]  # original height, width


def augmentation_rng(seed: int, position: int) -> np.random.Generator:
    """The generator for the random transforms of stream position `position`."""
    return np.random.default_rng([_AUGMENTATION, seed, position])


def endless_indices(length: int, seed: int, start: int = 0, rank: int = 0, world: int = 1) -> Iterator[tuple[int, int]]:
    """(position, index) pairs without end: every `world`-th position of the stream from `start + rank` on."""
    epoch, order = -1, np.empty(0, np.int64)
    for position in count(start + rank, world):
        if position // length != epoch:  # each epoch holds every index once
            epoch = position // length
            order = np.random.default_rng([_ORDER, seed, epoch]).permutation(length)
        yield position, int(order[position % length])


def training_sample(
    dataset: Dataset, data: DataConfig, seed: int, position: int, index: int
) -> tuple[np.ndarray, np.ndarray, str, tuple[int, int]]:
    """Image `index` after the random transforms of stream position `position`: a sample of `Batch`."""
    image, labels, name = dataset.read(index)
    rng = augmentation_rng(seed, position)
    image, labels = transforms.random_resize(image, labels, rng, data.resize_box, data.ratio_range)
    image, labels = transforms.random_crop(image, labels, rng, data.crop_size, data.max_class_share)
    image, labels = transforms.random_flip(image, labels, rng, data.flip_probability)
    if data.photometric:
        image = transforms.photometric_distortion(image, rng)
    size, (image, labels) = labels.shape, transforms.pad(image, labels, data.crop_size)
    targets = training_labels(labels, dataset.class_list, data.setting)
    return np.ascontiguousarray(image.transpose(2, 0, 1)), targets, name, size


def training_batches(
    dataset: Dataset, config: Config, start_iteration: int = 0, rank: int = 0, world: int = 1
) -> Iterator[Batch]:
    """Yields batches without end, from `start_iteration` on; close the iterator to end the workers.

    Each of `world` ranks gets `train.batch_size / world` samples; together they are the batch of a single process.
    """
    size, seed, workers = config.train.batch_size, config.train.seed, config.data.workers
    share = size // world
    indices = endless_indices(len(dataset), seed, start_iteration * size, rank, world)
    remedy = "try data.workers=0, which prepares images in the main process"
    shared, ahead = (dataset, config.data, seed), 2 * max(share, workers)
    with closing(map_in_order(training_sample, indices, workers, shared, ahead, remedy=remedy)) as samples:
        for iteration in count(start_iteration):
            images, labels, names, sizes = zip(*islice(samples, share), strict=True)
            yield Batch(np.stack(images), np.stack(labels), list(names), iteration, np.array(sizes, np.int32))


def check_cost(size: tuple[int, int], test: TestConfig, name: str) -> None:
    """Raises UserError for an image of `size` = (height, width) that becomes too many pixels."""
    short_sides = (max(1, round(test.short_side * scale)) for scale in test.scales)
    pixels = sum(math.prod(transforms.box_size(size, math.inf, side)) for side in short_sides)
    if pixels > MOST_PIXELS:
        raise UserError(
            f"{name}: {size[1]}x{size[0]} pixels become {pixels:,}, more than {MOST_PIXELS:,}: cut the image up, or "
            "set a smaller test.short_side or test.scales"
        )


def model_image(image: np.ndarray, test: TestConfig, scale: float = 1.0) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> (3, h, w) uint8 for the model: the short side is test.short_side times `scale`."""
    short_side = max(1, round(test.short_side * scale))
    resized = transforms.resize_image(image, transforms.box_size(image.shape[:2], math.inf, short_side))
    return np.ascontiguousarray(resized.transpose(2, 0, 1))


def evaluation_image(dataset: Dataset, config: Config, index: int) -> EvaluationImage:
    """Image `index`, resized (to each scale) for the model."""
    image, labels, name = dataset.read(index)
    check_cost(image.shape[:2], config.test, name)
    images = tuple(model_image(image, config.test, scale) for scale in config.test.scales)
    return EvaluationImage(images, labels, name, image.shape[:2])


def evaluation_images(dataset: Dataset, config: Config, rank: int = 0, world: int = 1) -> Iterator[EvaluationImage]:
    """Every `world`-th image from `rank` on, in order, a few of them decoded ahead by threads (OpenCV needs no GIL)."""
    threads = max(1, min(config.data.workers, 4))
    items = ((index,) for index in range(rank, len(dataset), world))
    return map_in_order(evaluation_image, items, threads, (dataset, config), ahead=threads + 1, threads=True)


def batch_lines(config: Config, world: int = 1) -> str:
    """How the batch of a run on `world` processes is made up, and a warning when it is not the recipe's (UserError)."""
    train, recipe, share = config.train, config.train.recipe_batch, config.train.batch_size // world
    if train.batch_size % (unit := world * (train.micro_batch or 1)):
        raise UserError(f"train.batch_size={train.batch_size}: must be a multiple of ranks x train.micro_batch, {unit}")
    parts = share // (train.micro_batch or share)
    line = f"batch: {train.batch_size} images in all"
    if world * parts > 1:
        line += f" ({world} processes x {parts} micro-batches x {share // parts}, gradients added up)"
    if recipe and train.batch_size != recipe:
        line += (
            f"\nwarning: the effective batch is {train.batch_size}, the recipe's is {recipe}: results are not "
            f"comparable with the published ones (a smaller train.micro_batch makes train.batch_size={recipe} fit)"
        )
    return line
