"""Scores of a picture of any size: windows over it, calibrated sigmoid scores, averaged where windows overlap.

Zhang et al., "Exploring Regional Clues in CLIP for Zero-Shot Semantic Segmentation", CVPR 2024, section 4.1; window
positions as the released models place them (https://github.com/uyzhang/CLIP-RC).

Only the patch-grid logits of all windows are kept (about 0.7 MB per window with 171 classes); scores at full resolution
are made a band of rows at a time and reduced to labels at once. So memory does not grow with classes x picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import jittor as jt
import numpy as np

from jseg.engine.config import TestConfig
from jseg.ops.bilinear import interpolation_matrix, interpolation_taps

BAND_VALUES = 2**23  # scores in one band, over all classes (32 MiB)


@dataclass(frozen=True)
class Window:
    """A rectangle of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int


def window_starts(length: int, crop: int, stride: int) -> list[int]:
    """Where windows start along one side: every `stride` pixels, the last one shifted back to end with the picture."""
    count = max(length - crop + stride - 1, 0) // stride + 1
    return [max(min(index * stride, length - crop), 0) for index in range(count)]


def windows(height: int, width: int, config: TestConfig) -> list[Window]:
    """The windows over a picture, row by row, all of one size.

    A side shorter than the crop is covered by windows of just its length; mode whole is one window.
    """
    if config.mode == "whole":
        return [Window(0, 0, height, width)]
    crop = (min(config.crop_size[0], height), min(config.crop_size[1], width))
    return [
        Window(top, left, *crop)
        for top in window_starts(height, config.crop_size[0], config.stride[0])
        for left in window_starts(width, config.crop_size[1], config.stride[1])
    ]


def padded_length(length: int, patch_size: int, regions: int) -> int:
    """The next length that the model takes: a multiple of the patch size with at least one patch per region."""
    return max(-(-length // patch_size), regions) * patch_size


class PictureScores:
    """Class scores of one picture, made a band of rows at a time.

    Args:
        model: maps images (B, 3, h, w) and text to logits (B, C, rows, columns) on its patch grid.
        image: (3, H, W) float32, normalised.
        text: (C, D) float32 class embeddings.
        seen: class ids whose scores `gamma` is subtracted from.
        gamma: calibration of inductive runs, 0 elsewhere.
        config: mode, crop size, stride and how many windows are run at once.

    Raises:
        UserError: what the model raises for an input size that it cannot take.
    """

    def __init__(
        self,
        model: Callable[[jt.Var, jt.Var], jt.Var],
        image: np.ndarray,
        text: jt.Var,
        seen: Iterable[int],
        gamma: float,
        config: TestConfig,
    ) -> None:
        self.num_classes = text.shape[0]
        self.height, self.width = image.shape[1:]
        self.windows = windows(self.height, self.width, config)
        first, tower = self.windows[0], model.backbone
        self.padded = tuple(
            padded_length(length, tower.conv1.patch_size, regions)
            for length, regions in zip((first.height, first.width), tower.region_grid, strict=True)
        )
        penalty = np.zeros((self.num_classes, 1, 1), dtype=np.float32)
        penalty[list(seen)] = gamma
        self.penalty = jt.array(penalty)
        self.overlap = np.zeros((1, self.height, self.width), dtype=np.float32)  # how many windows cover each pixel
        for window in self.windows:
            self.overlap[:, window.top : window.top + window.height, window.left : window.left + window.width] += 1
        self.logits: list[jt.Var] = []  # (C, rows, columns) of each window
        with jt.no_grad():
            for start in range(0, len(self.windows), config.window_batch):
                crops = [self._crop(image, window) for window in self.windows[start : start + config.window_batch]]
                logits = model(jt.array(np.stack(crops)), text)
                logits.sync()
                self.logits += [logits[index] for index in range(len(crops))]

    def _crop(self, image: np.ndarray, window: Window) -> np.ndarray:
        """One window, padded at the right and bottom with the mean colour (0 after normalising)."""
        crop = np.zeros((3, *self.padded), dtype=np.float32)
        part = image[:, window.top : window.top + window.height, window.left : window.left + window.width]
        crop[:, : window.height, : window.width] = part
        return crop

    def band(self, start: int, stop: int) -> jt.Var:
        """Calibrated scores of rows [start, stop), averaged over the windows: (C, stop - start, W)."""
        total = jt.zeros((self.num_classes, stop - start, self.width))
        for window, logits in zip(self.windows, self.logits, strict=True):
            top, bottom = max(start, window.top), min(stop, window.top + window.height)
            if top >= bottom:
                continue
            down = interpolation_matrix(logits.shape[1], self.padded[0])[top - window.top : bottom - window.top]
            across = interpolation_matrix(logits.shape[2], self.padded[1])[: window.width]
            columns = _resize_rows(logits, down)  # (C, bottom - top, columns)
            upsampled = jt.matmul(columns.reshape(-1, columns.shape[2]), jt.array(across.T.copy()))
            scores = jt.sigmoid(upsampled).reshape(self.num_classes, bottom - top, window.width) - self.penalty
            total[:, top - start : bottom - start, window.left : window.left + window.width] += scores
        return total / jt.array(self.overlap[:, start:stop])

    def resized_band(self, start: int, stop: int, size: tuple[int, int]) -> jt.Var:
        """Rows [start, stop) of the scores after bilinear resizing to `size` = (H', W'): (C, stop - start, W')."""
        if size == (self.height, self.width):
            return self.band(start, stop)
        above, below, share = (item[start:stop] for item in interpolation_taps(self.height, size[0]))
        first, last = int(above[0]), int(below[-1]) + 1
        rows = _between(self.band(first, last), 1, above - first, below - first, share)  # (C, stop - start, W)
        return _between(rows, 2, *interpolation_taps(self.width, size[1]))

    def bands(self, size: tuple[int, int]) -> Iterable[tuple[int, jt.Var]]:
        """(first row, scores (C, rows, W')) of all bands of the scores resized to `size`, from the top."""
        rows = max(1, BAND_VALUES // (self.num_classes * max(size[1], self.width)))
        rows = max(1, rows * size[0] // max(size[0], self.height))  # a shrunk row is made of several rows
        for start in range(0, size[0], rows):
            with jt.no_grad():
                yield start, self.resized_band(start, min(start + rows, size[0]), size)

    def scores(self, size: tuple[int, int] | None = None) -> np.ndarray:
        """All scores, (C, H', W') float32; `size` None = at the size of the picture as given."""
        size = size or (self.height, self.width)
        result = np.empty((self.num_classes, *size), dtype=np.float32)
        for start, band in self.bands(size):
            result[:, start : start + band.shape[1]] = band.numpy()
        return result

    def labels(self, size: tuple[int, int] | None = None) -> np.ndarray:
        """Class of the highest score at each pixel, (H', W') int32; ties go to the lowest class."""
        size = size or (self.height, self.width)
        result = np.empty(size, dtype=np.int32)
        for start, band in self.bands(size):
            result[start : start + band.shape[1]] = _highest_class(band).numpy()
        return result


def _resize_rows(maps: jt.Var, matrix: np.ndarray) -> jt.Var:
    """(C, h, w) -> (C, rows, w) by a matrix (rows, h)."""
    count, height, width = maps.shape
    columns = jt.matmul(maps.transpose(0, 2, 1).reshape(-1, height), jt.array(matrix.T.copy()))
    return columns.reshape(count, width, matrix.shape[0]).transpose(0, 2, 1)


def _between(maps: jt.Var, axis: int, first: np.ndarray, second: np.ndarray, share: np.ndarray) -> jt.Var:
    """Linear interpolation of (C, h, w) along axis 1 or 2: `(1 - share) * maps[first] + share * maps[second]`."""
    shape = [*maps.shape]
    shape[axis] = len(first)
    indices = ["i0", "i1", "i2"]
    indices[axis] = f"@e0(i{axis})"
    near, far = (maps.reindex(shape, indices, extras=[jt.array(taps)]) for taps in (first, second))
    weight = jt.array(share.astype(np.float32).reshape((-1, 1) if axis == 1 else (1, -1)))
    return near * (1 - weight) + far * weight


def _highest_class(scores: jt.Var) -> jt.Var:
    """argmax over classes of (C, rows, W), as two reductions: Jittor's own argmax is many times slower."""
    highest = scores.max(0, keepdims=True)
    classes = jt.arange(scores.shape[0]).reshape(-1, 1, 1)
    return jt.ternary(scores >= highest, classes.broadcast(scores.shape), scores.shape[0]).min(0)


def window_scores(
    model: Callable[[jt.Var, jt.Var], jt.Var],
    image: np.ndarray,
    text: jt.Var,
    seen: Iterable[int],
    gamma: float,
    config: TestConfig,
) -> np.ndarray:
    """Calibrated, averaged scores (C, H, W) float32 at the size of `image`; arguments as of `PictureScores`."""
    return PictureScores(model, image, text, seen, gamma, config).scores()


def predict(
    model: Callable[[jt.Var, jt.Var], jt.Var],
    image: np.ndarray,
    text: jt.Var,
    seen: Iterable[int],
    gamma: float,
    config: TestConfig,
    size: tuple[int, int],
) -> np.ndarray:
    """Class ids (H', W') int32 at `size`, usually the original size; arguments as of `PictureScores`."""
    return PictureScores(model, image, text, seen, gamma, config).labels(size)
