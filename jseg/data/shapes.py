"""The built-in data set `shapes`: scenes with exact masks and captions, drawn on the fly from a seed; no download.

20 classes named by colour, pattern and shape ("red striped circle"), 15 of them seen in training: an unseen class can
be understood from words that seen ones share with it. `shapes_open` has 20 other classes of the same words; no image
of `shapes` shows one, neither to the model nor to the small CLIP that it starts from. A scene, a pure function of
(seed, split, index), is painted as (H, W, 3) float32 RGB in [0, 255]; one unit is a pixel of a scene of short side 96.
"""

import colorsys
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.random import Generator

from jseg.config import DataConfig
from jseg.data.class_names import IGNORED, SHAPES_NAMES, SHAPES_OPEN_NAMES, class_labels, classes_of

# centre and half width of the hue, in degrees, and the least brightness that still deserves the name
COLOURS = {"red": (0, 13, 0.45), "yellow": (54, 10, 0.6), "green": (122, 30, 0.35), "blue": (220, 22, 0.4),
           "purple": (282, 20, 0.4)}  # fmt: skip
_STREAMS = {"train": 101, "val": 102, "test": 102}  # first word of the random seed; test shows the scenes of val
_DIAMETERS = (0.2, 0.8)  # of the short side of the scene
_LEAST_VISIBLE = 0.45  # share of an object that must stay in sight
_ONE = ("a photo of {}.", "{}.", "there is {} in the picture.", "this is {}.", "a picture of {}.", "{} in the scene.")
_SEVERAL = ("a photo of {}.", "{}.", "there are {} in the picture.", "a picture with {}.", "{} in the scene.")


@dataclass(frozen=True)
class SceneObject:
    """One object of a scene."""

    class_index: int
    diameter: float  # before it is cut off or covered, as a share of the short side of the scene


@dataclass(frozen=True)
class Scene:
    """A drawn image and what is in it."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    labels: np.ndarray  # (H, W) uint8 class numbers, 255 = background
    objects: tuple[SceneObject, ...]  # from back to front


class ShapesDataset:
    """The scenes of `split` (train, val, test); each is drawn when it is read."""

    def __init__(self, data: DataConfig, split: str) -> None:
        self.class_list = classes_of(data)
        self.config, self.split = data.shapes, split
        self.names = SHAPES_OPEN_NAMES if data.dataset == "shapes_open" else SHAPES_NAMES

    def __len__(self) -> int:
        return self.config.train_scenes if self.split == "train" else self.config.val_scenes

    def scene(self, index: int) -> Scene:
        """Draws scene `index`."""
        rng = np.random.default_rng([_STREAMS[self.split], self.config.seed, index])
        return draw_scene(self.config.size, self.config.objects, rng, self.names)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, str]:
        """(H, W, 3) uint8 RGB image, (H, W) uint8 class numbers (255 = background), and the scene's name."""
        scene, name = self.scene(index), f"{self.split}_{index:06d}"
        return scene.image, class_labels(scene.labels, self.class_list, name), name


def draw_scene(
    size: tuple[int, int], objects: tuple[int, int], rng: Generator, names: tuple[str, ...] = SHAPES_NAMES
) -> Scene:
    """Draws a scene of `size` (height, width) with `objects` (least, most) objects of different classes, by `names`."""
    unit = min(size) / 96
    image = np.ascontiguousarray(background(size, unit, rng))
    for _ in range(rng.integers(2, 7)):
        scribble(image, unit, rng)
    owners = np.full(size, -1, np.int8)  # which object each pixel shows
    count = int(rng.integers(objects[0], objects[1] + 1))
    diameters = np.exp(rng.uniform(*np.log(_DIAMETERS), count))
    diameters[0] = max(diameters)
    placed: list[tuple[int, float, int]] = []  # class, diameter, area
    for class_index, diameter in zip(rng.permutation(len(names))[:count].tolist(), diameters, strict=True):
        if area := _place(image, owners, names[class_index], diameter * min(size), placed, rng):
            placed.append((class_index, float(diameter), area))
    if rng.random() < 0.3:  # thin lines in front of everything; their pixels belong to no object
        for _ in range(rng.integers(1, 3)):
            ends = rng.uniform(0, 1, (2, 2)) * size[::-1]
            direction = ends[1] - ends[0]
            across = np.array([-direction[1], direction[0]]) / (np.hypot(*direction) + 1e-6) * unit * 0.5
            wire = fill(np.concatenate([ends + across, ends[::-1] - across]), size)
            image[wire] = rng.uniform(0, 255, 3)
            owners[wire] = -1
    labels = np.append(np.array([item[0] for item in placed], np.uint8), np.uint8(IGNORED))[owners]
    # uneven light, brightness, colour cast, now and then blur, grain
    columns, rows = coordinates(*image.shape[:2])
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.4)
    slope = np.cos(angle) * (columns / columns[0, -1] - 0.5) + np.sin(angle) * (rows / rows[-1, 0] - 0.5)
    image = image * (1 + strength * slope.astype(np.float32))[..., None]
    image *= np.float32(rng.uniform(0.7, 1.15) * rng.uniform(0.92, 1.08, 3))
    if rng.random() < 0.25:
        image = cv2.GaussianBlur(image, (3, 3), 0)
    image += rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(1, 8))
    image = np.clip(image, 0, 255, out=image).astype(np.uint8)
    return Scene(image, labels, tuple(SceneObject(*item[:2]) for item in placed))


def _place(
    image: np.ndarray, owners: np.ndarray, name: str, diameter: float, placed: list[tuple], rng: Generator
) -> int:
    """Paints an object where it leaves enough of the others in sight; its area in pixels, 0 = no place was found."""
    size, radius = owners.shape, diameter / 2
    colour, pattern, shape = name.split()
    stretch, angle = np.exp(rng.uniform(-0.18, 0.18)), rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    points = outline(shape) * radius * (stretch, 1 / stretch) @ turn
    areas = np.array([item[2] for item in placed])
    for _ in range(8):
        centre = np.array([rng.uniform(0.6 * radius, side - 0.6 * radius) for side in size[::-1]])
        mask = fill(points + centre, size)
        left = np.bincount(owners[(owners >= 0) & ~mask], minlength=len(placed)) if placed else areas
        if (left >= _LEAST_VISIBLE * areas).all():
            owners[mask] = len(placed)
            break
    else:
        return 0
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    window = np.s_[top : top + height, left : left + width]
    x, y = (part[window] - start for part, start in zip(coordinates(*size), centre.astype(np.float32), strict=True))
    angle = rng.uniform(0, 2 * np.pi)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    period = (4 * (min(size) / 96) + 0.11 * diameter) * rng.uniform(0.85, 1.15)
    cover = pattern_cover(pattern, cos * x + sin * y, cos * y - sin * x, period, rng.uniform(0.36, 0.5))
    hue, spread, darkest = COLOURS[colour]
    hue = (hue + rng.uniform(-spread, spread)) / 360 % 1
    first = 255 * np.float32(colorsys.hsv_to_rgb(hue, rng.uniform(0.5, 1), rng.uniform(darkest, 1)))
    grey = first.mean()  # the second colour is much lighter or much darker, tinted by the first, never of another hue
    is_light = grey < 90 or (grey < 150 and rng.integers(2))
    target = np.float32(rng.uniform(225, 255) if is_light else rng.uniform(0, 40))
    second = target + (first - target) * np.float32(rng.uniform(0, 0.35))
    surface = first + (second - first) * cover[..., None]
    shade = 1 + np.float32(rng.uniform(0, 0.5) / diameter) * (cos * y - sin * x)  # light from one side
    cv2.copyTo(surface * shade[..., None], mask[window].view(np.uint8), image[window])
    return int(np.count_nonzero(mask))


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


@lru_cache(maxsize=8)
def coordinates(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) float32 column and row of every pixel; shared, not to be written to."""
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    return columns, rows


def rays(angles: np.ndarray, radii: np.ndarray | float) -> np.ndarray:
    """(points, 2) x, y of the points at these angles and distances from 0."""
    return np.stack([np.cos(angles) * radii, np.sin(angles) * radii], axis=1)


def outline(shape: str) -> np.ndarray:
    """(points, 2) vertices of a shape that fits the circle of radius 1 around 0, y pointing down."""
    turn = 2 * np.pi
    if shape == "cross":
        arm, quarter_turn = 0.36, np.array([(0, 1), (-1, 0)])  # arm: half the width of the bars
        quarter = np.array([(1, -arm), (1, arm), (arm, arm)])
        return np.concatenate([quarter @ np.linalg.matrix_power(quarter_turn, times) for times in range(4)])
    if shape == "circle":
        return rays(np.linspace(0, turn, 48, endpoint=False), 0.92)
    if shape == "square":
        return rays(np.arange(4) * turn / 4 + turn / 8, 1.1)
    if shape == "triangle":
        return rays(np.arange(3) * turn / 3 - turn / 4, 1.15)
    return rays(np.arange(10) * turn / 10 - turn / 4, np.tile([1.15, 0.48], 5))


def fill(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: the pixels of a polygon with (points, 2) vertices x, y in pixels. No antialiasing."""
    mask = np.zeros(size, np.uint8)
    cv2.fillPoly(mask, [np.round(points * 16).astype(np.int32)], 1, shift=4)  # in 1/16 of a pixel
    return mask.view(bool)


def _wave(values: np.ndarray, period: float, share: float) -> np.ndarray:
    """Signed distance into bands that fill `share` of each period, in the unit of `values`."""
    phase = values / period
    return (share / 2 - np.abs(phase - np.floor(phase) - 0.5)) * period


def pattern_cover(pattern: str, x: np.ndarray, y: np.ndarray, period: float, share: float) -> np.ndarray:
    """(H, W) in [0, 1]: how much of each pixel shows the second colour; x, y: (H, W) pixels from the centre."""
    if pattern == "striped":
        inside = _wave(x, period, share)
    elif pattern == "ringed":
        inside = _wave(np.hypot(x, y), period, share)
    elif pattern == "checked":
        across, along = _wave(x, 1.4 * period, 0.5), _wave(y, 1.4 * period, 0.5)
        inside = np.sign(across * along) * np.minimum(np.abs(across), np.abs(along))
    else:
        row = np.floor(y / period)
        column = x / period + 0.5 * (row % 2)
        inside = (np.sqrt(share / np.pi) - np.hypot(column - np.floor(column) - 0.5, y / period - row - 0.5)) * period
    return np.clip(inside + 0.5, 0, 1)


def smooth_noise(size: tuple[int, int], cells: int, rng: Generator) -> np.ndarray:
    """(H, W) float32 in about [0, 1]: random values at `cells` places a side, interpolated."""
    return cv2.resize(rng.random((cells, cells), np.float32), size[::-1], interpolation=cv2.INTER_CUBIC)


def _any_colour(rng: Generator, saturation: float) -> np.ndarray:
    return 255 * np.float32(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0, saturation), rng.uniform(0.2, 0.95)))


def background(size: tuple[int, int], unit: float, rng: Generator) -> np.ndarray:
    """A textured image without objects, (H, W, 3) float32."""
    columns, rows = coordinates(*size)
    angle = rng.uniform(0, 2 * np.pi)
    across = np.cos(angle).astype(np.float32) * columns + np.sin(angle).astype(np.float32) * rows
    first, second = _any_colour(rng, 0.8), _any_colour(rng, 0.8)
    kind = rng.integers(8)
    if kind == 0:  # a plain run from one colour to the other
        mix = (across - across.min()) / np.ptp(across)
    elif kind == 1:  # clouds
        mix = sum(smooth_noise(size, cells, rng) * weight for cells, weight in ((3, 0.5), (6, 0.3), (14, 0.2)))
    elif kind == 2:  # wood
        waves = across / (unit * rng.uniform(6, 14)) + 3 * smooth_noise(size, 4, rng)
        mix = 0.5 + 0.35 * np.sin(2 * np.pi * waves) + 0.2 * (smooth_noise(size, 24, rng) - 0.5)
    elif kind == 3:  # bricks
        height = unit * rng.uniform(8, 16)
        row = np.floor(rows / height)
        column = columns / (2 * height) + 0.5 * (row % 2)
        joint = np.minimum(rows / height - row, 2 * (column - np.floor(column))) * height < 1.5 * unit
        mix = np.where(joint, 1, 0.35 * smooth_noise(size, 12, rng))
    elif kind == 4:  # patchwork
        cells = int(rng.integers(3, 8))
        mix = cv2.resize(rng.random((cells, cells), np.float32), size[::-1], interpolation=cv2.INTER_NEAREST)
    elif kind == 5:  # sand
        mix = cv2.resize(rng.random((size[0] // 2 + 1, size[1] // 2 + 1), np.float32), size[::-1]) * 0.8
    elif kind == 6:  # horizon
        mix = np.clip((across - np.median(across)) / (3 * unit), 0, 1) * 0.7 + 0.3 * smooth_noise(size, 10, rng)
    else:  # weave
        period = unit * rng.uniform(4, 9)
        along = np.cos(angle).astype(np.float32) * rows - np.sin(angle).astype(np.float32) * columns
        mix = 0.5 + 0.22 * (np.sin(2 * np.pi * across / period) + np.sin(2 * np.pi * along / period))
    return first + (second - first) * np.float32(mix)[..., None]


def scribble(image: np.ndarray, unit: float, rng: Generator) -> None:
    """Paints one thing that belongs to no class into `image`: a scrawl, a line, a plain blob or strokes."""
    size = image.shape[:2]
    colour = tuple(map(float, _any_colour(rng, 1.0)))
    kind = rng.integers(4)
    if kind == 0:  # a random walk
        count, step = int(rng.integers(6, 16)), unit * rng.uniform(4, 9)
        start = rng.uniform(0, 1, 2) * size[::-1]
        headings = np.cumsum(rng.normal(0, 0.7, count)) + rng.uniform(0, 2 * np.pi)
        points = (start + np.cumsum(rays(headings, step), axis=0)).astype(np.int32)
        cv2.polylines(image, [points], False, colour, max(1, round(unit * rng.uniform(0.6, 2.6))))
    elif kind == 1:
        ends = (rng.uniform(0, 1, (2, 2)) * size[::-1]).astype(int).tolist()
        cv2.line(image, *ends, colour, max(1, round(unit * rng.uniform(0.6, 4))))
    elif kind == 2:  # a plain blob: unlike every object it has no pattern
        centre, radius = rng.uniform(0, 1, 2) * size[::-1], unit * rng.uniform(5, 16)
        blob = rays(np.linspace(0, 2 * np.pi, 9, endpoint=False), radius * rng.uniform(0.5, 1.2, 9))
        cv2.fillPoly(image, [(centre + blob).astype(np.int32)], colour)
    else:
        for x, y in (rng.uniform(0, 1, (int(rng.integers(6, 18)), 2)) * size[::-1]).tolist():
            end = (int(x + unit * rng.uniform(-3, 3)), int(y - unit * rng.uniform(3, 9)))
            cv2.line(image, (int(x), int(y)), end, colour, max(1, round(unit)))
