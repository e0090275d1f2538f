"""The brushes of the data set `shapes`: outlines, surface patterns, backgrounds, distractors, light.

Images are (H, W, 3) float32 RGB in [0, 255] while they are painted. One unit is the length that a scene of 96 pixels
short side shows as one pixel. Everything random comes from the `rng` that is passed in.
"""

from __future__ import annotations

import colorsys
from functools import lru_cache

import cv2
import numpy as np
from numpy.random import Generator

SHAPES = ("circle", "square", "triangle", "star", "cross")
PATTERNS = ("striped", "dotted", "checked", "ringed")
# centre and half width of the hue, in degrees, and the least brightness that still deserves the name
COLOURS = {"red": (0, 13, 0.45), "yellow": (54, 10, 0.6), "green": (122, 30, 0.35), "blue": (220, 22, 0.4),
           "purple": (282, 20, 0.4)}  # fmt: skip
_SUBPIXEL = 4  # bits behind the point in vertices


@lru_cache(maxsize=8)
def coordinates(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) float32 column and row of every pixel; shared, not to be written to."""
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    return columns, rows


def _ray_outline(angles: np.ndarray, radii: np.ndarray | float) -> np.ndarray:
    return np.stack([np.cos(angles) * radii, np.sin(angles) * radii], axis=1)


def outline(shape: str) -> np.ndarray:
    """(points, 2) vertices of a shape that fits the circle of radius 1 around 0, y pointing down."""
    turn = 2 * np.pi
    if shape == "circle":
        return _ray_outline(np.linspace(0, turn, 48, endpoint=False), 0.92)
    if shape == "square":
        return _ray_outline(np.arange(4) * turn / 4 + turn / 8, 1.1)
    if shape == "triangle":
        return _ray_outline(np.arange(3) * turn / 3 - turn / 4, 1.15)
    if shape == "star":
        return _ray_outline(np.arange(10) * turn / 10 - turn / 4, np.tile([1.15, 0.48], 5))
    arm = 0.36  # half the width of the bars of a cross
    quarter = np.array([(1, -arm), (1, arm), (arm, arm)])
    quarter_turn = np.array([(0, 1), (-1, 0)])
    return np.concatenate([quarter @ np.linalg.matrix_power(quarter_turn, times) for times in range(4)])


def fill(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: the pixels of a polygon with (points, 2) vertices x, y in pixels. No antialiasing."""
    mask = np.zeros(size, np.uint8)
    cv2.fillPoly(mask, [np.round(points * 2**_SUBPIXEL).astype(np.int32)], 1, shift=_SUBPIXEL)
    return mask.view(bool)


def family_colour(colour: str, rng: Generator) -> np.ndarray:
    """A colour, (3,) float32, that may be called by the name `colour`."""
    hue, spread, darkest = COLOURS[colour]
    hue = (hue + rng.uniform(-spread, spread)) / 360 % 1
    return 255 * np.float32(colorsys.hsv_to_rgb(hue, rng.uniform(0.5, 1), rng.uniform(darkest, 1)))


def second_colour(first: np.ndarray, rng: Generator) -> np.ndarray:
    """The other colour of a pattern: much lighter or much darker than `first`, tinted by it, never of another hue."""
    grey = first.mean()
    light = grey < 90 or (grey < 150 and rng.integers(2))
    target = np.float32(rng.uniform(225, 255) if light else rng.uniform(0, 40))
    return target + (first - target) * np.float32(rng.uniform(0, 0.35))


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


def _line_points(size: tuple[int, int], count: int, step: float, rng: Generator) -> np.ndarray:
    """(count, 2) int32 vertices of a random walk that starts anywhere in the image."""
    start = rng.uniform(0, 1, 2) * size[::-1]
    headings = np.cumsum(rng.normal(0, 0.7, count)) + rng.uniform(0, 2 * np.pi)
    return (start + np.cumsum(_ray_outline(headings, step), axis=0)).astype(np.int32)


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
    if kind == 0:
        points = _line_points(size, int(rng.integers(6, 16)), unit * rng.uniform(4, 9), rng)
        cv2.polylines(image, [points], False, colour, max(1, round(unit * rng.uniform(0.6, 2.6))))
    elif kind == 1:
        ends = (rng.uniform(0, 1, (2, 2)) * size[::-1]).astype(int).tolist()
        cv2.line(image, *ends, colour, max(1, round(unit * rng.uniform(0.6, 4))))
    elif kind == 2:  # a plain blob: unlike every object it has no pattern
        centre, radius = rng.uniform(0, 1, 2) * size[::-1], unit * rng.uniform(5, 16)
        blob = _ray_outline(np.linspace(0, 2 * np.pi, 9, endpoint=False), radius * rng.uniform(0.5, 1.2, 9))
        cv2.fillPoly(image, [(centre + blob).astype(np.int32)], colour)
    else:
        for x, y in (rng.uniform(0, 1, (int(rng.integers(6, 18)), 2)) * size[::-1]).tolist():
            end = (int(x + unit * rng.uniform(-3, 3)), int(y - unit * rng.uniform(3, 9)))
            cv2.line(image, (int(x), int(y)), end, colour, max(1, round(unit)))


def light(image: np.ndarray, rng: Generator) -> np.ndarray:
    """The finished (H, W, 3) uint8 image: uneven light, brightness, colour cast, now and then blur, grain."""
    columns, rows = coordinates(*image.shape[:2])
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.4)
    slope = np.cos(angle) * (columns / columns[0, -1] - 0.5) + np.sin(angle) * (rows / rows[-1, 0] - 0.5)
    cast = rng.uniform(0.7, 1.15) * rng.uniform(0.92, 1.08, 3)
    image = image * (1 + strength * slope.astype(np.float32))[..., None]
    image *= np.float32(cast)
    if rng.random() < 0.25:
        image = cv2.GaussianBlur(image, (3, 3), 0)
    grain = rng.standard_normal(image.shape, np.float32)
    grain *= np.float32(rng.uniform(1, 8))
    image += grain
    return np.clip(image, 0, 255, out=image).astype(np.uint8)
