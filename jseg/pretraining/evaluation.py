"""Figures of a small CLIP: zero-shot classification, and segmentation without any learning.

All on images from random streams that training does not use.
"""

from __future__ import annotations

from typing import Any

import jittor as jt
import numpy as np

from jseg.baselines import patch_scores
from jseg.clip.class_embeddings import embed_class_names, unit_rows
from jseg.clip.image_tower import ImageTower
from jseg.clip.tokenizer import Tokenizer
from jseg.config import TRAINING_FREE, DataConfig, ShapesConfig
from jseg.data.class_names import SHAPES_NAMES, class_list
from jseg.data.shapes import ShapesDataset
from jseg.metrics import HEADLINE, ConfusionMatrix
from jseg.ops.bilinear import resize_bilinear
from jseg.pretraining.images import HELD_OUT_STREAM, CaptionedImage, Stage, cut, draw, normalise_images
from jseg.pretraining.training import SmallClip

TEMPLATES = (
    "a photo of a {}.", "a {}.", "there is a {} in the picture.", "this is a {}.", "a picture of a {}.",
    "a {} in the scene.",
)  # fmt: skip
CROPS = Stage(0, 0, 64, (1, 1), (1.0, 1.0))  # single-object crops: 64 of the 96 pixels of a scene a side
WHOLE_SCENES = Stage(0, 0, 96, (1, 1), None)
TRAINING_FREE_NAMES = {  # as the shipped file records them
    "patch_features": "patch features",
    "value_path": "value path",
    "class_token": "value path read by the class token",
}
_BATCH = 50


def held_out_images(stage: Stage, count: int, seed: int) -> list[CaptionedImage]:
    """Images that training never sees, the same for every run."""
    drawn = (draw(stage.objects, HELD_OUT_STREAM, seed, stage.pixels, index) for index in range(count))
    return [cut(scene, stage, rng) for scene, rng in drawn]


def zero_shot_accuracy(clip: SmallClip, text: np.ndarray, stage: Stage, count: int) -> tuple[float, list[float | None]]:
    """Percent of single-object images whose class name is the nearest of 20; over all, and per class."""
    items, rows = held_out_images(stage, count, 0), []
    with jt.no_grad():
        for start in range(0, count, _BATCH):
            images = np.stack([item.image for item in items[start : start + _BATCH]])
            rows.append(clip.embed_images(normalise_images(images)).numpy())
    classes = np.array([item.class_index for item in items])
    right = (unit_rows(np.concatenate(rows)) @ text.T).argmax(axis=1) == classes
    groups = [right[classes == index] for index in range(len(SHAPES_NAMES))]
    return float(100 * right.mean()), [float(100 * group.mean()) if group.size else None for group in groups]


def validation_scenes(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The first scenes of the data set's validation split: normalised (3, H, W) float32, labels (H, W)."""
    dataset = ShapesDataset(DataConfig(shapes=ShapesConfig(val_scenes=count)), "val")
    scenes = [dataset.read(index) for index in range(count)]
    return [(normalise_images(image[None])[0], labels) for image, labels, _ in scenes]


def training_free_metrics(
    tower: ImageTower, scenes: list[tuple[np.ndarray, np.ndarray]], text: np.ndarray, features: str
) -> dict[str, Any]:
    """Metrics (`ConfusionMatrix.summary`) of `validation_scenes` without training; `features`: see `TRAINING_FREE`."""
    matrix, classes = ConfusionMatrix(len(SHAPES_NAMES)), class_list("shapes")
    with jt.no_grad():
        for image, labels in scenes:
            scores = patch_scores(tower, jt.array(image[None]), jt.array(text), *TRAINING_FREE[features])
            matrix.update(resize_bilinear(scores, labels.shape).numpy()[0].argmax(0), labels)
    return matrix.summary(classes.seen, classes.unseen, classes.names)


def evaluate(clip: SmallClip, tokenizer: Tokenizer, count: int = 1000) -> dict[str, Any]:
    """All figures in percent, on `count` single-object images and a tenth as many scenes for segmentation."""
    text = embed_class_names(SHAPES_NAMES, TEMPLATES, tokenizer, clip.text, "")
    accuracy, per_class = zero_shot_accuracy(clip, text, CROPS, count)
    whole, _ = zero_shot_accuracy(clip, text, WHOLE_SCENES, count)
    scenes = validation_scenes(max(count // 10, 1))
    figures: dict[str, Any] = {
        "zero-shot accuracy": accuracy,
        "zero-shot accuracy, whole scenes": whole,
        "per class": dict(zip(SHAPES_NAMES, per_class, strict=True)),
    }
    for features, name in TRAINING_FREE_NAMES.items():
        metrics = training_free_metrics(clip.image, scenes, text, features)
        figures[f"training-free, {name}"] = {key: metrics[key] for key in HEADLINE}
    return figures
