"""Evaluation from several views of a picture: scales, mirrored, averaged as the released models average them.

https://github.com/uyzhang/CLIP-RC: the calibrated scores of each view are brought to the size of the picture, turned
into a softmax over the classes, mirrored back, and averaged.

Like a single picture's, scores at full resolution are made a band of rows at a time: memory does not grow with the
number of views but for their logits on the patch grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import jittor as jt
import numpy as np

from jseg.engine.config import TestConfig
from jseg.engine.sliding_window import PictureScores, highest_classes


class AveragedViews:
    """Class scores of one picture, averaged over views.

    Args:
        model, text, seen, gamma: as of `PictureScores`.
        images: the picture at each scale, (3, h, w) float32, normalised.
        config: as of `PictureScores`; with `flip`, each image is also seen mirrored.
    """

    def __init__(
        self,
        model: Callable[[jt.Var, jt.Var], jt.Var],
        images: Sequence[np.ndarray],
        text: jt.Var,
        seen: Iterable[int],
        gamma: float,
        config: TestConfig,
    ) -> None:
        seen = tuple(seen)
        self.views: list[tuple[PictureScores, bool]] = []  # scores, whether mirrored
        for image in images:
            self.views.append((PictureScores(model, image, text, seen, gamma, config), False))
            if config.flip:
                mirrored = np.ascontiguousarray(image[:, :, ::-1])
                self.views.append((PictureScores(model, mirrored, text, seen, gamma, config), True))
        jt.gc()  # Jittor keeps freed memory for arrays of the same size; none of the forward passes' is needed again

    def bands(self, size: tuple[int, int]) -> Iterator[tuple[int, jt.Var]]:
        """(first row, mean softmax (C, rows, W')) of all bands of the picture at `size` = (H', W'), from the top."""
        rows = min(scores.band_rows(size) for scores, _ in self.views)
        for start in range(0, size[0], rows):
            stop = min(start + rows, size[0])
            with jt.no_grad():
                total = None
                for scores, mirrored in self.views:
                    band = _softmax(scores.resized_band(start, stop, size), mirrored)
                    total = band if total is None else total + band
                    total.sync()  # or the bands of all views would be alive at once
                yield start, total / len(self.views)

    def labels(self, size: tuple[int, int]) -> np.ndarray:
        """Class of the highest mean at each pixel, (H', W') int32; ties go to the lowest class."""
        return highest_classes(self.bands(size), size)


def _softmax(scores: jt.Var, mirrored: bool) -> jt.Var:
    """Softmax over the classes of (C, rows, W), mirrored back where the view was.

    Scores are at most 1, so their exponentials cannot overflow.
    """
    powers = jt.exp(scores)
    shares = powers / powers.sum(0, keepdims=True)
    return shares.reindex(scores.shape, ["i0", "i1", f"{scores.shape[2] - 1}-i2"]) if mirrored else shares


def predict_views(
    model: Callable[[jt.Var, jt.Var], jt.Var],
    images: Sequence[np.ndarray],
    text: jt.Var,
    seen: Iterable[int],
    gamma: float,
    config: TestConfig,
    size: tuple[int, int],
) -> np.ndarray:
    """Class ids (H', W') int32 at `size` from one or more views; arguments as of `AveragedViews`.

    A single view needs no softmax: it changes no order of classes, and windows are averaged before it.
    """
    if len(images) == 1 and not config.flip:
        return PictureScores(model, images[0], text, seen, gamma, config).labels(size)
    return AveragedViews(model, images, text, seen, gamma, config).labels(size)
