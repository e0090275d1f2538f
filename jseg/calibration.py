"""Chooses gamma on held-out seen classes: how much to subtract from seen scores, without a look at unseen classes.

Zhang et al., "Exploring Regional Clues in CLIP for Zero-Shot Semantic Segmentation", CVPR 2024, subtract 0.1 and do not
say how it was chosen. Here the model was trained without the held-out classes (`data.held_out`), so they are to it what
unseen classes are to the final model.

One forward pass serves all values of gamma: the mean over windows and the resizing are linear, so gamma may as well be
subtracted at the end, and only the best seen and the best held-out class of each pixel matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import jittor as jt
import numpy as np
from tqdm import tqdm

from jseg.config import Config
from jseg.data.class_names import ClassList
from jseg.data.dataset import Dataset
from jseg.data.loader import evaluation_image
from jseg.engine.sliding_window import PictureScores
from jseg.errors import UserError
from jseg.metrics import HEADLINE, ConfusionMatrix, percent
from jseg.model.image_encoder import keep_prompts

PUBLISHED_GAMMA = 0.1


@dataclass(frozen=True)
class Best:
    """The best class of a group at each pixel."""

    scores: np.ndarray  # (H, W) float32
    labels: np.ndarray  # (H, W) int32


def best_of_groups(scores: PictureScores, groups: Sequence[Sequence[int]], size: tuple[int, int]) -> list[Best]:
    """The best class of each group of classes at each pixel of the picture at `size`; ties go to the lowest class."""
    found = [Best(np.empty(size, np.float32), np.empty(size, np.int32)) for _ in groups]
    for start, band in scores.bands(size):
        values = band.numpy()
        rows = slice(start, start + values.shape[1])
        for best, group in zip(found, groups, strict=True):
            part = values[list(group)]
            places = part.argmax(axis=0)
            best.labels[rows] = np.array(group, np.int32)[places]
            best.scores[rows] = np.take_along_axis(part, places[None], axis=0)[0]
    return found


def calibrated_labels(seen: Best, unseen: Best, gamma: float) -> np.ndarray:
    """Class of the highest score after `gamma` is subtracted from the seen ones, (H, W) int32."""
    lowered = seen.scores - np.float32(gamma)
    tie_for_unseen = (unseen.scores == lowered) & (unseen.labels < seen.labels)
    return np.where((unseen.scores > lowered) | tie_for_unseen, unseen.labels, seen.labels)


def picture_indices(length: int, count: int) -> list[int]:
    """`count` pictures evenly spread over a data set of `length`; all of them when `count` is 0 or too many."""
    if not 0 < count < length:
        return list(range(length))
    return [(2 * index + 1) * length // (2 * count) for index in range(count)]


def sweep(
    model: Callable[[jt.Var, jt.Var], jt.Var],
    dataset: Dataset,
    indices: Sequence[int],
    text: np.ndarray,
    config: Config,
    gammas: Sequence[float],
) -> list[dict]:
    """Metrics for each gamma.

    Args:
        model: trained without the held-out classes, in evaluation mode.
        dataset: its class list has the held-out classes as unseen.
        text: (C, D) float32 embeddings of the class list.

    Returns:
        For each gamma what `ConfusionMatrix.summary` gives, and `gamma`.

    Raises:
        UserError: several views (their softmax does not commute with gamma), a picture without labels, or no pixel of
            a held-out or of a seen class in these pictures.
    """
    if len(config.test.scales) > 1 or config.test.flip:
        raise UserError("gamma is chosen from one view of each picture: leave test.scales and test.flip out")
    classes = dataset.class_list
    matrices = [ConfusionMatrix(len(classes.names)) for _ in gammas]
    for truth, seen, unseen in _group_scores(model, dataset, indices, text, config):
        for matrix, gamma in zip(matrices, gammas, strict=True):
            matrix.update(calibrated_labels(seen, unseen, gamma), truth)
    for group, what in ((classes.seen, "other seen"), (classes.unseen, "held-out")):
        if not matrices[0].label_area[list(group)].any():
            raise UserError(f"these {len(indices)} pictures show none of the {what} classes: take more of them")
    summaries = (matrix.summary(classes.seen, classes.unseen, classes.names) for matrix in matrices)
    return [{"gamma": gamma, **summary} for gamma, summary in zip(gammas, summaries, strict=True)]


def _group_scores(
    model: Callable[[jt.Var, jt.Var], jt.Var],
    dataset: Dataset,
    indices: Sequence[int],
    text: np.ndarray,
    config: Config,
) -> Iterator[tuple[np.ndarray, Best, Best]]:
    """Labels, best seen and best held-out classes of each picture."""
    classes, features = dataset.class_list, jt.array(text)
    with keep_prompts(model.backbone):
        for index in tqdm(indices, desc="pictures", unit="picture", dynamic_ncols=True):
            picture = evaluation_image(dataset, config, index)
            if picture.labels is None:
                raise UserError(f"{picture.name} has no label map")
            scores = PictureScores(model, picture.images[0], features, (), 0.0, config.test)
            yield picture.labels, *best_of_groups(scores, (classes.seen, classes.unseen), picture.size)


def chosen(results: Sequence[dict]) -> dict:
    """The result with the highest hIoU; of equal ones that with the smallest gamma."""
    return max(results, key=lambda result: (result["hIoU"], -result["gamma"]))


def report(results: Sequence[dict], classes: ClassList) -> str:
    """A table of all gammas, the choice, and the published value beside it."""
    best = chosen(results)
    lines = ["gamma  " + " ".join(f"{key:>8}" for key in HEADLINE)]
    for result in results:
        marks = ["chosen"] if result is best else []
        marks += ["published"] if result["gamma"] == PUBLISHED_GAMMA else []
        figures = " ".join(percent(result[key], 8) for key in HEADLINE)
        lines.append(f"{result['gamma']:5.3f}  {figures}  {', '.join(marks)}".rstrip())
    held_out = ", ".join(classes.names[index] for index in classes.unseen)
    lines.append(f"held out of the seen classes, as if unseen: {held_out}")
    lines.append(f"chosen: test.gamma={best['gamma']:g} (published: {PUBLISHED_GAMMA:g})")
    return "\n".join(lines)
