"""Class scores of an image of any size: windows over it, calibrated sigmoid scores, averaged where windows overlap.

Zhang et al., CVPR 2024, section 4.1; as in the released models. Only logits on the patch grid are kept: scores at full
resolution are computed for a band of rows at a time, so memory does not grow with classes x image.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

import jittor as jt
import numpy as np
from tqdm import tqdm

from jseg.config import TestConfig
from jseg.errors import UserError
from jseg.ops.bilinear import interpolation_matrix, interpolation_taps, multiply

BAND_VALUES = 2**24  # scores in one band, over all classes (64 MiB)
MANY_WINDOWS = 200  # from here on a terminal shows a progress bar
Model, Array = Callable[[jt.Var, jt.Var], jt.Var], jt.Var | np.ndarray


def window_starts(length: int, crop: int, stride: int) -> list[int]:
    """Where windows start along one side: every `stride` pixels, the last one shifted back to end with the image."""
    last = max(length - crop, 0)
    return [min(start, last) for start in range(0, last + stride, stride)]


def segments(starts: list[int], crop: int) -> list[tuple[int, int, tuple[int, ...]]]:
    """Parts of one side that the same windows cover: (start, stop, their positions in the list of window starts)."""
    cuts = sorted({*starts, *(start + crop for start in starts)})
    return [
        (first, last, tuple(i for i, start in enumerate(starts) if start <= first and last <= start + crop))
        for first, last in pairwise(cuts)
    ]


class ImageScores:
    """Class scores of one image, computed for a band of rows at a time.

    Args:
        model: maps images (B, 3, h, w) and text to logits (B, C, rows, columns) on its patch grid.
        image: (3, H, W) float32, normalised: an array, or better on the device already.
        text: (C, D) float32 class embeddings.
        seen: ids of the seen classes; `gamma` is subtracted from their scores.
    """

    def __init__(
        self, model: Model, image: Array, text: jt.Var, seen: Iterable[int], gamma: float, config: TestConfig
    ) -> None:
        self.num_classes = text.shape[0]
        image = image if isinstance(image, jt.Var) else jt.array(image)
        self.height, self.width = sides = tuple(image.shape[1:])
        whole = config.mode == "whole"
        self.crop = sides if whole else tuple(map(min, config.crop_size, sides))
        self.tops, self.lefts = map(window_starts, sides, self.crop, sides if whole else config.stride)
        patch, regions = model.backbone.conv1.patch_size, model.backbone.region_grid
        # whole patches, and at least one for each region
        self.padded = tuple(max(-(-side // patch), n) * patch for side, n in zip(self.crop, regions, strict=True))
        is_seen = np.isin(np.arange(self.num_classes), [*seen]).reshape(-1, 1, 1)
        self.penalty = jt.array(np.where(is_seen, np.float32(gamma), np.float32(0)))
        places = [(top, left) for top in self.tops for left in self.lefts]
        batches, outputs = range(0, len(places), config.window_batch), []
        with jt.no_grad():
            for first in tqdm(batches, "windows", leave=False, disable=None if len(places) >= MANY_WINDOWS else True):
                batch = places[first : first + config.window_batch]
                windows = [image[:, top : top + self.crop[0], left : left + self.crop[1]] for top, left in batch]
                # padded at the right and bottom with the mean colour, 0 after normalising
                padded = jt.stack(windows).reindex((len(batch), 3, *self.padded), ["i0", "i1", "i2", "i3"])
                outputs.append(model(padded, text))
                outputs[-1].sync()
            logits = jt.concat(outputs, dim=0)
            # (window rows, windows in a row, C, h, w)
            self.logits = logits.reshape(len(self.tops), len(self.lefts), *logits.shape[1:])
            self.total = self.logits.sum()  # for `check_finite`
            jt.sync([self.logits, self.total])

    def _window_row(self, row: int, start: int, stop: int) -> jt.Var:
        """Calibrated scores of rows [start, stop) of each window in a row: (windows, C, stop - start, crop width)."""
        down, across = map(interpolation_matrix, self.logits.shape[3:], self.padded)
        down, across = down[start - self.tops[row] : stop - self.tops[row]], across[: self.crop[1]]
        return jt.sigmoid(multiply(self.logits[row], jt.array(down), jt.array(across))) - self.penalty

    def _band(self, start: int, stop: int) -> jt.Var:
        """Calibrated scores of rows [start, stop), averaged over the windows: (C, stop - start, W)."""
        parts = []
        for top, bottom, rows in segments(self.tops, self.crop[0]):
            first, last = max(start, top), min(stop, bottom)
            if first >= last:
                continue
            scores, means = [self._window_row(row, first, last) for row in rows], []
            for left, right, columns in segments(self.lefts, self.crop[1]):
                spans = [(column, slice(left - self.lefts[column], right - self.lefts[column])) for column in columns]
                covering = [row[column, :, :, span] for row in scores for column, span in spans]
                means.append(sum(covering[1:], start=covering[0]) / len(covering))
            parts.append(jt.concat(means, dim=2))
        return jt.concat(parts, dim=1)

    def resized_band(self, start: int, stop: int, size: tuple[int, int]) -> jt.Var:
        """Rows [start, stop) of the scores after bilinear resizing to `size` = (H', W'): (C, stop - start, W')."""
        if size == (self.height, self.width):
            return self._band(start, stop)
        above, below, share = interpolation_taps(self.height, size[0])[:, start:stop]
        first, last = int(above[0]), int(below[-1]) + 1
        rows = _interpolate(self._band(first, last), 1, above - first, below - first, share)  # (C, stop - start, W)
        return _interpolate(rows, 2, *interpolation_taps(self.width, size[1]))

    def band_starts(self, size: tuple[int, int]) -> range:
        """First rows of the bands in which the scores resized to `size` are computed."""
        rows = max(1, BAND_VALUES // (self.num_classes * max(size[1], self.width)))
        return range(0, size[0], max(1, rows * size[0] // max(size[0], self.height)))  # a shrunk row is of several rows

    def bands(self, size: tuple[int, int]) -> Iterator[tuple[int, jt.Var]]:
        """(first row, scores (C, rows, W')) of all bands of the scores resized to `size`, from the top."""
        check_finite([self])
        for start in (starts := self.band_starts(size)):
            with jt.no_grad():
                band = self.resized_band(start, min(start + starts.step, size[0]), size)
            yield start, band

    def scores(self, size: tuple[int, int] | None = None) -> np.ndarray:
        """All scores resized to `size` (default: as the image), (C, H', W') float32."""
        return np.concatenate([band.numpy() for _, band in self.bands(size or (self.height, self.width))], axis=1)

    def labels(self, size: tuple[int, int] | None = None) -> np.ndarray:
        """Class of the highest score at each pixel, (H', W') int32; ties go to the lowest class."""
        size = size or (self.height, self.width)
        return highest_classes(self.bands(size), size)


def check_finite(views: Iterable[ImageScores]) -> None:
    """Raises UserError unless the model's results for all views are finite: the host waits for them once."""
    if not np.isfinite(jt.concat([view.total for view in views]).numpy()).all():
        raise UserError("the model's results are not finite: use precision=fp32, or other weights")


def _interpolate(maps: jt.Var, axis: int, first: np.ndarray, second: np.ndarray, share: np.ndarray) -> jt.Var:
    """Linear interpolation of (C, h, w) along axis 1 or 2: `(1 - share) * maps[first] + share * maps[second]`."""
    shape, indices = [*maps.shape], ["i0", "i1", "i2"]
    shape[axis], indices[axis] = len(first), f"@e0(i{axis})"
    near, far = (maps.reindex(shape, indices, extras=[jt.array(taps.astype(np.int32))]) for taps in (first, second))
    weight = jt.array(share.reshape((-1, 1) if axis == 1 else (1, -1)))
    return near * (1 - weight) + far * weight


def highest_classes(bands: Iterable[tuple[int, jt.Var]], size: tuple[int, int]) -> np.ndarray:
    """Class of the highest score at each pixel, (H', W') int32, the lowest of equal ones; bands as of `bands`."""
    result = np.empty(size, dtype=np.int32)
    for start, scores in bands:  # two reductions: Jittor's own argmax is many times slower
        highest = scores.max(0, keepdims=True)
        classes = jt.arange(scores.shape[0]).reshape(-1, 1, 1).broadcast(scores.shape)
        labels = jt.ternary(scores >= highest, classes, scores.shape[0]).min(0)
        result[start : start + scores.shape[1]] = labels.numpy()
    return result


def mirror(x: jt.Var) -> jt.Var:
    """x (C, H, W) with its columns in reverse order."""
    return x.reindex(x.shape, ["i0", "i1", "xshape2-1-i2"])


def mean_bands(views: Sequence[tuple[ImageScores, bool]], size: tuple[int, int]) -> Iterator[tuple[int, jt.Var]]:
    """(first row, mean softmax (C, rows, W')) of all bands at `size`. Views: scores, and whether mirrored."""
    check_finite(scores for scores, _ in views)
    starts = min((scores.band_starts(size) for scores, _ in views), key=lambda starts: starts.step)
    for start in starts:
        with jt.no_grad():
            total = None
            for scores, mirrored in views:
                band = scores.resized_band(start, min(start + starts.step, size[0]), size)
                powers = jt.exp(band)  # scores are at most 1
                band = powers / powers.sum(0, keepdims=True)
                band = mirror(band) if mirrored else band
                total = band if total is None else total + band
                total.sync()  # or the bands of all views would be alive at once
            yield start, total / len(views)


def predict_views(
    model: Model, images: Sequence[jt.Var], text: jt.Var, seen: Sequence[int], gamma: float, config: TestConfig,
    size: tuple[int, int],
) -> np.ndarray:  # fmt: skip
    """Class ids (H', W') int32 at `size` from the image at each scale, with `config.flip` also mirrored."""
    both = [(mirror(x) if flip else x, flip) for x in images for flip in ((False, True) if config.flip else (False,))]
    views = [(ImageScores(model, view, text, seen, gamma, config), mirrored) for view, mirrored in both]
    if len(views) == 1:  # needs no softmax: it changes no order of classes, and windows are averaged before it
        return views[0][0].labels(size)
    jt.gc()  # Jittor keeps freed memory for arrays of the same size; the forward passes' memory is not needed again
    return highest_classes(mean_bands(views, size), size)
