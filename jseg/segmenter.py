"""Public inference: an image and any class names -> labels and scores.

segmenter = jseg.load_segmenter("weights.safetensors")
result = segmenter(image, ["cat", "dog", "grass"])  # image (H, W, 3) uint8 RGB
result.labels  # (H, W) int32: 0 = cat, 1 = dog, 2 = grass
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jseg.baselines_config import plain_clip_config, plain_clip_note
from jseg.clip.class_embeddings import VOC_TEMPLATES, TextModel, text_model_of
from jseg.clip.weights import count_layers, read_clip_weights
from jseg.config import Config, ModelConfig, TestConfig, check, from_dict
from jseg.data.loader import check_cost, model_image
from jseg.engine.checkpoint import read_whole
from jseg.engine.load import load_model
from jseg.errors import UserError
from jseg.files import shipped
from jseg.weights.reader import WeightFile
from jseg.weights.record import is_jseg_file, model_tensors, training_note

if TYPE_CHECKING:
    from jseg.model.clip_rc import ClipRC


@dataclass(frozen=True)
class Segmentation:
    """The classes of one image."""

    labels: np.ndarray  # (H, W) int32: position in `names`
    names: tuple[str, ...]
    scores: np.ndarray | None = None  # (C, H, W) float32 in [-gamma, 1], if they were asked for

    @property
    def shares(self) -> dict[str, float]:
        """Share of the image that each class fills, 0..1, for all names."""
        counts = np.bincount(self.labels.reshape(-1), minlength=len(self.names))
        return {name: float(count / self.labels.size) for name, count in zip(self.names, counts, strict=True)}


def check_class_names(names: Sequence[str], seen: Sequence[str] = ()) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The names without surrounding blanks, and the positions of the seen ones; UserError for names that cannot be."""
    groups = (((group,) if isinstance(group, str) else group) for group in (names, seen))
    names, seen = (tuple(" ".join(name.split()) for name in group) for group in groups)
    lower = [name.lower() for name in names]  # as the text tower reads them
    if not all(lower) or not lower:
        raise UserError("class names: give at least one, and no empty ones")
    if twice := [name for place, name in enumerate(names) if lower.index(name.lower()) != place]:
        raise UserError(f"class names: {', '.join(twice)} is given twice")
    if unknown := [name for name in seen if name not in names]:
        raise UserError(f"seen classes: {', '.join(unknown)} not among the class names ({', '.join(names)})")
    return names, tuple(names.index(name) for name in seen)


def config_of(file: WeightFile) -> Config:
    """The configuration that weights were made with: recorded in ours, inferred from the arrays of released files."""
    if is_jseg_file(file):
        return from_dict(file.meta.get("config"), file.path)
    tensors = model_tensors(file)
    try:
        width, _, patch_size, _ = tensors["backbone.conv1.weight"].shape
        positions = len(tensors["backbone.positional_embedding"])
        regions = len(tensors["backbone.region_level_bridge"])
        output_dim, prompts = (tensors[f"backbone.{name}"].shape[1] for name in ("proj", "prompt_embeddings"))
        hidden = len(tensors["decode_head.decoder_q.layers.0.linear1.weight"])
    except (KeyError, ValueError) as error:
        raise UserError(f"{file.path} holds no whole CLIP-RC model (missing or misshapen: {error})") from error
    size = math.isqrt(positions - 1) * patch_size
    model = ModelConfig(
        image_size=size, patch_size=patch_size, width=width, heads=width // 64, output_dim=output_dim, prompts=prompts,
        region_grid=math.isqrt(regions), decoder_heads=8, ffn_factor=hidden // output_dim,
        layers=count_layers(tensors, "backbone.transformer.resblocks."),
        decoder_layers=count_layers(tensors, "decode_head.decoder_q.layers."),
        recovery_layers=count_layers(tensors, "decode_head.recovery_decoder.decouple_q."),
    )  # fmt: skip
    stride = size * 5 // 6  # 426 for 512, as released
    return Config(model=model, test=TestConfig(short_side=size, crop_size=(size, size), stride=(stride, stride)))


def load_segmenter(
    weights: str | Path, device: str = "auto", clip: str | Path = "", config: Config | None = None,
    precision: str = "fp32", training_free: str = "",
) -> Segmenter:  # fmt: skip
    """Loads a model for images and class names of any kind.

    Args:
        weights: our own weight file, or a released CLIP-RC checkpoint (.pth or .pkl); "shapes": what comes with jseg.
        device: auto, cpu or cuda.
        clip: CLIP weights with the text tower, for weights that do not bring one along.
        config: the configuration of the weights, where the file does not tell it.
        precision: fp32, tf32, bf16 or fp16, whatever the weights were trained in.
        training_free: one of `jseg.config.TRAINING_FREE`; `weights` are then those of a plain CLIP.
    """
    check(Config(precision=precision))
    if training_free and (config or precision != "fp32"):
        raise UserError("training_free: computes in fp32, with the sizes of the CLIP: leave config and precision out")
    path = shipped("pretrained/shapes_clip_rc.safetensors") if str(weights) == "shapes" else Path(weights)
    plain = read_clip_weights(path) if training_free else None
    file = None if plain else read_whole(path)
    config = plain_clip_config(plain, training_free) if plain else config or config_of(file)
    text_model = text_model_of(read_clip_weights(clip) if clip else plain or file, config.text)
    if text_model is None:
        raise UserError(f"{path} holds no text tower: give CLIP weights that do (--clip PATH)")
    from jseg.runtime.start import start  # Jittor starts only after all inputs are checked

    start(device)
    model, notes = load_model(config, file, plain, precision)
    note = plain_clip_note(plain, training_free) if plain else training_note(file)
    return Segmenter(model, text_model, config, tuple(filter(None, (*notes, note))))


class Segmenter:
    """A model that segments images into classes given by name; `notes` say where its weights come from."""

    def __init__(self, model: ClipRC, text_model: TextModel, config: Config, notes: tuple[str, ...] = ()) -> None:
        self.model, self.text_model, self.config, self.notes = model, text_model, config, notes
        self._embeddings: dict[tuple[tuple[str, ...], tuple[str, ...]], np.ndarray] = {}

    def embeddings(self, class_names: Sequence[str], templates: Sequence[str] = VOC_TEMPLATES) -> np.ndarray:
        """Class embeddings (C, D) float32, computed once per list of names and templates."""
        key = check_class_names(class_names)[0], (templates,) if isinstance(templates, str) else tuple(templates)
        if key not in self._embeddings:
            rows, length = self.text_model.embed(*key), self.config.model.output_dim
            if rows.shape[1] != length:
                problem = f"of length {rows.shape[1]}, the model needs {length}: use the CLIP it was trained with"
                raise UserError(f"{self.text_model.source} gives embeddings {problem}")
            self._embeddings[key] = rows
        return self._embeddings[key].copy()

    def __call__(
        self, image: np.ndarray, class_names: Sequence[str], templates: Sequence[str] = VOC_TEMPLATES,
        seen: Sequence[str] = (), gamma: float | None = None, with_scores: bool = False,
    ) -> Segmentation:  # fmt: skip
        """Segments one image.

        Args:
            image: (H, W, 3) uint8 RGB, any size; seen once: `test.scales`, `test.flip`, `test.protocol` do not count.
            class_names: what to look for; every pixel gets one of them.
            templates: texts with `{}` where the class name goes.
            seen: those of the names that the model was trained on; `gamma` is subtracted from their scores.
            gamma: None = that of the model's configuration if `seen` names classes, else 0.
            with_scores: return the scores too: C * H * W * 4 bytes.
        """
        import jittor as jt

        from jseg.engine.sliding_window import ImageScores
        from jseg.ops.device import normalise

        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape[2:] != (3,) or not image.size:
            raise UserError("the image must be an (H, W, 3) uint8 RGB array")
        (names, seen), size = check_class_names(class_names, seen), image.shape[:2]
        if gamma is None:
            gamma = self.config.gamma() if seen else 0.0
        check_cost(size, self.config.test, "the image")
        text = jt.array(self.embeddings(names, templates))
        pixels = normalise(model_image(image, self.config.test), self.config.data)
        result = ImageScores(self.model, pixels, text, seen, gamma, self.config.test)
        scores = result.scores(size) if with_scores else None
        labels = result.labels(size) if scores is None else scores.argmax(axis=0).astype(np.int32)
        return Segmentation(labels, names, scores)
