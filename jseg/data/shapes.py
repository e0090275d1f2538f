"""The built-in data set `shapes`: scenes with exact masks and captions, drawn on the fly from a seed; no download.

20 classes named by colour, surface pattern and shape ("red striped circle"); 15 are seen in training. No single word
names a class and any two do, so an unseen class can be understood from words that seen classes share with it, while a
rule that looks only at colours fails. A scene holds one to four objects on a textured background with things of no
class, which is stored as 255. It is a pure function of (seed, split, index).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator

from jseg.config import DataConfig
from jseg.data import shapes_drawing as drawing
from jseg.data.class_names import IGNORED, SHAPES_NAMES, classes_of
from jseg.data.label_maps import class_labels
from jseg.errors import UserError

_STREAMS = {"train": 101, "val": 102, "test": 102}  # first word of the random seed; test shows the scenes of val
_DIAMETERS = (0.2, 0.8)  # of the short side of the scene
_LEAST_VISIBLE = 0.45  # share of an object that must stay in sight
_WIRES = 0.3  # probability of thin lines in front of everything
_ONE = ("a photo of {}.", "{}.", "there is {} in the picture.", "this is {}.", "a picture of {}.", "{} in the scene.")
_SEVERAL = ("a photo of {}.", "{}.", "there are {} in the picture.", "a picture with {}.", "{} in the scene.")


@dataclass(frozen=True)
class SceneObject:
    """One object of a scene."""

    class_index: int
    diameter: float  # before it is cut off or covered, as a share of the short side of the scene
    visible: float  # share of its area in sight


@dataclass(frozen=True)
class Scene:
    """A drawn image and what is in it."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    labels: np.ndarray  # (H, W) uint8 class numbers, 255 = background
    objects: tuple[SceneObject, ...]  # from back to front


class ShapesDataset:
    """Scenes of one split; see the module docstring."""

    def __init__(self, data: DataConfig, split: str) -> None:
        """Prepares `split` (train, val, test) of the data set that `data.shapes` describes; nothing is drawn yet."""
        self.class_list = classes_of(data)
        self.config, self.split = data.shapes, split
        self._length = data.shapes.train_scenes if split == "train" else data.shapes.val_scenes
        least, most = data.shapes.objects
        if self._length < 1 or min(data.shapes.size) < 32 or not 1 <= least <= most <= len(SHAPES_NAMES):
            raise UserError(
                f"data.shapes: needs one scene or more in each split, 32 pixels a side, objects=(least, most) from "
                f"1 to {len(SHAPES_NAMES)}, got {data.shapes}"
            )

    def __len__(self) -> int:
        return self._length

    def scene(self, index: int) -> Scene:
        """Draws scene `index`."""
        rng = np.random.default_rng([_STREAMS[self.split], self.config.seed, index])
        return draw_scene(self.config.size, self.config.objects, rng)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, str]:
        """(H, W, 3) uint8 RGB image, (H, W) uint8 class numbers (255 = background), and the scene's name."""
        scene, name = self.scene(index), f"{self.split}_{index:06d}"
        return scene.image, class_labels(scene.labels, self.class_list, name), name


def draw_scene(size: tuple[int, int], objects: tuple[int, int], rng: Generator) -> Scene:
    """Draws a scene of `size` (height, width) with `objects` (least, most) objects of different classes."""
    unit = min(size) / 96
    image = np.ascontiguousarray(drawing.background(size, unit, rng))
    for _ in range(rng.integers(2, 7)):
        drawing.scribble(image, unit, rng)
    owners = np.full(size, -1, np.int8)  # which object each pixel shows
    count = int(rng.integers(objects[0], objects[1] + 1))
    low, high = np.log(_DIAMETERS)
    diameters = np.exp(rng.uniform(low, high, count))
    diameters[0] = max(diameters)
    placed: list[tuple[int, float, int]] = []  # class, diameter, area
    for class_index, diameter in zip(rng.permutation(len(SHAPES_NAMES))[:count].tolist(), diameters, strict=True):
        area = _place(image, owners, class_index, diameter * min(size), placed, rng)
        if area:
            placed.append((class_index, float(diameter), area))
    if rng.random() < _WIRES:  # their pixels belong to no object
        for _ in range(rng.integers(1, 3)):
            ends = rng.uniform(0, 1, (2, 2)) * size[::-1]
            direction = ends[1] - ends[0]
            across = np.array([-direction[1], direction[0]]) / (np.hypot(*direction) + 1e-6) * unit * 0.5
            wire = drawing.fill(np.concatenate([ends + across, ends[::-1] - across]), size)
            image[wire] = rng.uniform(0, 255, 3)
            owners[wire] = -1
    visible = np.bincount(owners[owners >= 0], minlength=len(placed))
    labels = np.append(np.array([item[0] for item in placed], np.uint8), np.uint8(IGNORED))[owners]
    found = tuple(
        SceneObject(class_index, diameter, int(seen) / area)
        for (class_index, diameter, area), seen in zip(placed, visible, strict=True)
    )
    return Scene(drawing.light(image, rng), labels, found)


def _place(
    image: np.ndarray, owners: np.ndarray, class_index: int, diameter: float, placed: list[tuple], rng: Generator
) -> int:
    """Paints an object where it leaves enough of the others in sight; its area in pixels, 0 = no place was found."""
    size, radius = owners.shape, diameter / 2
    shape = SHAPES_NAMES[class_index].split()[-1]
    stretch, angle = np.exp(rng.uniform(-0.18, 0.18)), rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    points = drawing.outline(shape) * radius * (stretch, 1 / stretch) @ turn
    areas = np.array([item[2] for item in placed])
    for _ in range(8):
        centre = np.array([rng.uniform(0.6 * radius, side - 0.6 * radius) for side in size[::-1]])
        mask = drawing.fill(points + centre, size)
        left = np.bincount(owners[(owners >= 0) & ~mask], minlength=len(placed)) if placed else areas
        if (left >= _LEAST_VISIBLE * areas).all():
            owners[mask] = len(placed)
            paint_object(image, mask, class_index, centre, diameter, rng)
            return int(np.count_nonzero(mask))
    return 0


def paint_object(
    image: np.ndarray, mask: np.ndarray, class_index: int, centre: np.ndarray, diameter: float, rng: Generator
) -> None:
    """Paints the surface of an object into the pixels of `mask`."""
    colour, pattern, _ = SHAPES_NAMES[class_index].split()
    unit = min(mask.shape) / 96
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    middle = centre.astype(np.float32)
    x, y = (part[window] - start for part, start in zip(drawing.coordinates(*mask.shape), middle, strict=True))
    angle = rng.uniform(0, 2 * np.pi)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    period = (4 * unit + 0.11 * diameter) * rng.uniform(0.85, 1.15)
    cover = drawing.pattern_cover(pattern, cos * x + sin * y, cos * y - sin * x, period, rng.uniform(0.36, 0.5))
    first = drawing.family_colour(colour, rng)
    surface = first + (drawing.second_colour(first, rng) - first) * cover[..., None]
    shade = 1 + np.float32(rng.uniform(0, 0.5) / diameter) * (cos * y - sin * x)  # light from one side
    cv2.copyTo(surface * shade[..., None], mask[window].view(np.uint8), image[window])


def describe(objects: tuple[SceneObject, ...], rng: Generator) -> str:
    """A sentence that names the objects in any order, some of them or of their attributes left out now and then."""
    kept = [i for i in rng.permutation(len(objects)) if rng.random() < 0.9] or [0]
    phrases = []
    for item in (objects[i] for i in kept):  # `a red striped circle`, or with a word less, or with a word on its size
        words = SHAPES_NAMES[item.class_index].split()
        draw = rng.random()
        if draw < 0.3:
            left_out = int(draw * 10)
            words = words[:2] + ["shape"] if left_out == 2 else words[:left_out] + words[left_out + 1 :]
        if rng.random() < 0.25:
            words.insert(0, "small" if item.diameter < 0.3 else "large" if item.diameter > 0.55 else "medium")
        phrases.append(" ".join(["a", *words]))
    listed = " and ".join([", ".join(phrases[:-1]), phrases[-1]] if len(phrases) > 1 else phrases)
    templates = _ONE if len(phrases) == 1 else _SEVERAL
    return templates[rng.integers(len(templates))].format(listed)
