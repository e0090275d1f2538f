"""Chooses gamma on held-out seen classes: how much to subtract from seen scores, without a look at unseen classes.

The model was trained without the held-out classes (`data.held_out`), its unseen ones. One forward pass serves all
values of gamma: the mean over windows and the resizing are linear, so gamma may as well be subtracted at the end, and
only the best seen and the best held-out class of each pixel matter.
"""

from collections.abc import Sequence

import jittor as jt
import numpy as np
from tqdm import tqdm

from jseg.config import METRICS, Config
from jseg.data.class_names import ClassList
from jseg.data.dataset import Dataset
from jseg.data.loader import evaluation_image
from jseg.engine.sliding_window import ImageScores
from jseg.errors import UserError
from jseg.metrics import ConfusionMatrix, percent
from jseg.model.clip_rc import ClipRC
from jseg.model.image_encoder import keep_prompts
from jseg.ops.device import normalise

GAMMAS = tuple(round(0.025 * step, 6) for step in range(21))
PUBLISHED_GAMMA = 0.1  # Zhang et al., CVPR 2024, section 4.1, do not say how it was chosen


def best_of_group(scores: np.ndarray, group: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Highest score (float32) and its class (int32) among a group of classes; scores (C, h, W) -> two (h, W)."""
    part = scores[list(group)]
    return part.max(axis=0), np.array(group, np.int32)[part.argmax(axis=0)]


def calibrated_labels(
    seen: tuple[np.ndarray, np.ndarray], unseen: tuple[np.ndarray, np.ndarray], gamma: float
) -> np.ndarray:
    """Class of the highest score after `gamma` is subtracted from the seen ones; ties go to the lowest class."""
    (seen_scores, seen_labels), (unseen_scores, unseen_labels) = seen, unseen
    lowered = seen_scores - np.float32(gamma)
    tie_for_unseen = (unseen_scores == lowered) & (unseen_labels < seen_labels)
    return np.where((unseen_scores > lowered) | tie_for_unseen, unseen_labels, seen_labels)


def sweep(model: ClipRC, dataset: Dataset, indices: Sequence[int], text: np.ndarray, config: Config) -> list[dict]:
    """The metrics (`ConfusionMatrix.summary`) of some images for each of `GAMMAS`, and `gamma`.

    `text` is (C, D) float32, embeddings of the data set's class list, whose unseen classes are the held-out ones.
    """
    if len(config.test.scales) > 1 or config.test.flip:
        raise UserError("gamma is chosen from one view of each image: leave test.scales and test.flip out")
    classes, features = dataset.class_list, jt.array(text)
    matrices = [ConfusionMatrix(len(classes.names)) for _ in GAMMAS]
    with keep_prompts(model.backbone):
        for index in tqdm(indices, desc="images", unit="image", dynamic_ncols=True):
            image = evaluation_image(dataset, config, index)
            pixels = normalise(image.images[0], config.data)
            scores = ImageScores(model, pixels, features, (), 0.0, config.test)
            for start, band in scores.bands(image.size):
                truth, values = image.labels[start : start + band.shape[1]], band.numpy()
                seen, unseen = (best_of_group(values, group) for group in (classes.seen, classes.unseen))
                for matrix, gamma in zip(matrices, GAMMAS, strict=True):
                    matrix.update(calibrated_labels(seen, unseen, gamma), truth)
    if not all(matrices[0].label_area[list(group)].any() for group in (classes.seen, classes.unseen)):
        raise UserError(f"these {len(indices)} images show no held-out or no other seen class: take more of them")
    groups = classes.seen, classes.unseen, classes.names
    return [{"gamma": gamma, **matrix.summary(*groups)} for gamma, matrix in zip(GAMMAS, matrices, strict=True)]


def results_table(results: Sequence[dict], best: dict, classes: ClassList) -> str:
    """A table of all gammas, the choice, and the published value beside it."""
    lines = ["gamma  " + " ".join(f"{key:>8}" for key in METRICS)]
    for result in results:
        marks = ["chosen"] * (result is best) + ["published"] * (result["gamma"] == PUBLISHED_GAMMA)
        figures = " ".join(percent(result[key], 8) for key in METRICS)
        lines.append(f"{result['gamma']:5.3f}  {figures}  {', '.join(marks)}".rstrip())
    lines.append(f"held out, as if unseen: {', '.join(classes.names[index] for index in classes.unseen)}")
    return "\n".join([*lines, f"chosen: test.gamma={best['gamma']:g} (published: {PUBLISHED_GAMMA:g})"])
