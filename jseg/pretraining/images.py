"""Settings of a pre-training run and its captioned images: pure functions of (settings, iteration). No Jittor."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from jseg.clip.tokenizer import Tokenizer, generate_vocabulary
from jseg.config import OptimizerConfig
from jseg.data import shapes
from jseg.data.class_names import SHAPES_NAMES
from jseg.data.shapes import Scene, SceneObject
from jseg.data.workers import map_in_order

ATTRIBUTES = frozenset(" ".join(SHAPES_NAMES).split())
TRAINING_STREAM, HELD_OUT_STREAM, VOCABULARY_STREAM = 201, 202, 203  # first word of the random seed
SCENE_SIZE = (96, 96)  # height, width of the scenes that images are cut from


@dataclass(frozen=True)
class Stage:
    """A stretch of the run; its images are square windows of scenes, `pixels / zoom` wide, around an object."""

    iterations: int
    batch_size: int
    pixels: int  # side of the images
    objects: tuple[int, int]  # least, most per scene
    zoom: tuple[float, float] | None  # lowest, highest; None = whole scenes


@dataclass(frozen=True)
class Round:
    """Stages under one arc of the learning rate: warm-up to `lr`, linear decay to nearly 0, fresh moments of AdamW."""

    lr: float
    warmup: int  # steps
    arc: int  # steps of the whole decay; more than those of the stages = the round ends before the decay does
    stages: tuple[Stage, ...]


# Patches with a colour and a pattern first, then whole objects, then several of them. Small images have few patches,
# so the early stages see many of them in the same time. The last round is for scenes as segmentation meets them.
ROUNDS = (
    Round(1e-3, 150, 3750, (Stage(1200, 128, 32, (1, 1), (0.8, 2.0)), Stage(550, 96, 48, (1, 1), (0.7, 1.8)))),
    Round(7e-4, 50, 800, (Stage(250, 72, 64, (1, 2), (0.75, 1.4)), Stage(550, 72, 64, (1, 4), (0.75, 1.4)))),
    Round(3e-4, 30, 250, (Stage(250, 40, 96, (1, 4), None),)),
)


# Rate and warm-up are those of the round.
OPTIMIZER = OptimizerConfig(
    lr_factor=1.0, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.05, groups="stated", power=1.0, min_lr=1e-5,
    warmup_ratio=1e-2,
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """Everything that shapes a run but the seed of its data. The defaults make the shipped file."""

    rounds: tuple[Round, ...] = ROUNDS
    image_size: int = 96  # the positional grid is stored for images of this side
    patch_size: int = 8
    image_width: int = 160
    image_layers: int = 4
    image_heads: int = 5
    text_width: int = 96
    text_layers: int = 3
    text_heads: int = 4
    context_length: int = 48
    output_dim: int = 128
    merges: int = 300  # of the byte-pair vocabulary, at most
    vocabulary_captions: int = 5000  # that it is learned from
    seed: int = 0
    workers: int = 1  # processes that draw ahead; the images are the same for any number
    log_every: int = 50

    @property
    def iterations(self) -> int:
        """Length of the run in steps."""
        return sum(stage.iterations for item in self.rounds for stage in item.stages)

    def at(self, iteration: int) -> tuple[Round, int, Stage]:
        """The round of a step (0-based), the first step of that round, and the stage of the step."""
        end = 0
        for item in self.rounds:
            start = end
            for stage in item.stages:
                end += stage.iterations
                if iteration < end:
                    return item, start, stage
        raise IndexError(iteration)


@dataclass(frozen=True)
class CaptionedImage:
    """An image with its caption."""

    image: np.ndarray  # (S, S, 3) uint8 RGB
    caption: str
    present: int  # bit i: an object of class i is in sight
    class_index: int  # of the object around which the window was placed


# images (B, S, S, 3) uint8 RGB, token ids (B, L) int32, and whether caption [column] is true of image [row] (B, B)
ImageBatch = tuple[np.ndarray, np.ndarray, np.ndarray]


def _counts(labels: np.ndarray) -> np.ndarray:
    """(classes,) pixels of each class."""
    return np.bincount(labels.ravel(), minlength=256)[: len(SHAPES_NAMES)]


def cut(scene: Scene, stage: Stage, rng: np.random.Generator) -> CaptionedImage:
    """Cuts an image out of a scene, scales it, and describes the objects that can be recognised in it."""
    whole = _counts(scene.labels)
    class_index, window = int(rng.choice(np.flatnonzero(whole))), (slice(None), slice(None))
    if stage.zoom is not None:  # a square with a random pixel of the object in its middle half
        side = round(stage.pixels / np.exp(rng.uniform(*np.log(stage.zoom))))
        places = np.argwhere(scene.labels == class_index)
        starts = [
            int(np.clip(place - side * rng.uniform(0.25, 0.75), 0, max(length - side, 0)))
            for place, length in zip(places[rng.integers(len(places))], scene.labels.shape, strict=True)
        ]
        window = tuple(slice(start, start + side) for start in starts)
    image, counts = scene.image[window], _counts(scene.labels[window])
    share = counts / scene.labels[window].size
    # an object may be named when it fills 12 % of the window, or 2 % and 40 % of it are in sight
    telling = (share >= 0.12) | ((counts >= 0.4 * whole) & (share >= 0.02))
    telling[class_index] = True
    named = tuple(item for item in scene.objects if telling[item.class_index])
    if image.shape[0] != stage.pixels:
        method = cv2.INTER_AREA if image.shape[0] > stage.pixels else cv2.INTER_LINEAR
        image = cv2.resize(image, (stage.pixels, stage.pixels), interpolation=method)
    present = sum(1 << int(index) for index in np.flatnonzero(counts >= 4))  # pixels
    return CaptionedImage(image, shapes.describe(named, rng), present | 1 << class_index, class_index)


def draw(objects: tuple[int, int], *seed: int) -> tuple[Scene, np.random.Generator]:
    """A scene in which something can be seen, and the generator that it was drawn with."""
    rng = np.random.default_rng(seed)
    while True:
        scene = shapes.draw_scene(SCENE_SIZE, objects, rng)
        if _counts(scene.labels).any():
            return scene, rng


def phrase_classes(phrase: str) -> int:
    """Classes that a phrase such as `a small dotted circle` may mean, a bit for each; 0 when it names no attribute."""
    words = ATTRIBUTES.intersection(phrase.strip(" .").split())
    return sum(1 << index for index, name in enumerate(SHAPES_NAMES) if words and words <= set(name.split()))


def true_captions(captions: list[str], present: list[int]) -> np.ndarray:
    """(M, N) bool, which of N captions are true of which of M images: each phrase may mean something that is there.

    `present` has a bit for each class that is in an image.
    """
    phrases = np.full((len(captions), 8), -1, np.int64)  # no caption has more; -1 is true of every image
    for row, caption in zip(phrases, captions, strict=True):
        found = [classes for phrase in re.split(",| and ", caption) if (classes := phrase_classes(phrase))]
        row[: len(found)] = found
    return (np.array(present, np.int64)[:, None, None] & phrases != 0).all(-1)


def image_batch(settings: Settings, tokenizer: Tokenizer, iteration: int) -> ImageBatch:
    """The batch of a step."""
    stage = settings.at(iteration)[2]
    seeds = [(TRAINING_STREAM, settings.seed, iteration, place) for place in range(stage.batch_size)]
    items = [cut(scene, stage, rng) for scene, rng in (draw(stage.objects, *seed) for seed in seeds)]
    captions = [item.caption for item in items]
    tokens = tokenizer(captions, settings.context_length)
    longest = int((tokens.argmax(axis=1) + 1).max())
    tokens = np.ascontiguousarray(tokens[:, : -(-longest // 8) * 8])  # few different widths to compile for
    true = true_captions(captions, [item.present for item in items])
    return np.stack([item.image for item in items]), tokens, true


def image_batches(settings: Settings, tokenizer: Tokenizer, stop: int) -> Iterator[ImageBatch]:
    """The batches of the first `stop` steps, drawn ahead by worker processes. Close the iterator to end the workers."""
    items = ((iteration,) for iteration in range(stop))
    return map_in_order(image_batch, items, settings.workers, (settings, tokenizer), remedy="try --workers 0")


def make_tokenizer(settings: Settings) -> Tokenizer:
    """The byte-pair vocabulary of captions of imagined scenes: nothing is drawn."""
    captions = []
    for index in range(settings.vocabulary_captions):
        rng = np.random.default_rng([VOCABULARY_STREAM, settings.seed, index])
        classes = rng.permutation(len(SHAPES_NAMES))[: rng.integers(1, 5)]
        captions.append(shapes.describe(tuple(SceneObject(int(item), rng.uniform(0.2, 0.8)) for item in classes), rng))
    return Tokenizer(generate_vocabulary(captions, settings.merges))
