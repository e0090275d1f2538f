"""Public inference: an image and any class names -> labels and scores.

segmenter = jseg.load_segmenter("weights.safetensors")
result = segmenter("photo.jpg", "cat|kitten, dog, grass", threshold=0.3)
result.labels  # (H, W) int32: 0 = cat, 1 = dog, 2 = grass, 255 = none of these
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jseg.baselines_config import plain_clip_config
from jseg.clip.class_embeddings import VOC_TEMPLATES, TextModel, text_model_of
from jseg.clip.weights import count_layers, read_clip_weights
from jseg.config import Config, ModelConfig, TestConfig, check, from_dict, read_config
from jseg.data.loader import check_cost, model_image
from jseg.engine.checkpoint import read_whole
from jseg.engine.load import load_model
from jseg.errors import UserError
from jseg.files import shipped
from jseg.segmentation import Names, Segmentation, as_image, check_class_names, classify
from jseg.weights.reader import WeightFile
from jseg.weights.record import is_jseg_file, model_tensors, training_note

if TYPE_CHECKING:
    from PIL.Image import Image

    from jseg.model.clip_rc import ClipRC


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
    weights: str | Path, device: str = "auto", clip: str | Path = "",
    config: Config | str | None = None, precision: str = "fp32", training_free: str = "",
) -> Segmenter:  # fmt: skip
    """Loads a model for images and class names of any kind.

    Args:
        weights: our own weight file, or a released CLIP-RC checkpoint (.pth or .pkl); "shapes": what comes with jseg.
        device: auto, cpu or cuda.
        clip: CLIP weights with the text tower, for weights that do not bring one along.
        config: the configuration of the weights, or its file, where the weights do not tell it.
        precision: fp32, tf32, bf16 or fp16, whatever the weights were trained in.
        training_free: one of `jseg.config.TRAINING_FREE`; `weights` are then those of a plain CLIP.
    """
    check(Config(precision=precision))
    config = read_config(config) if isinstance(config, str) and config else config
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
    notes += [] if plain else [training_note(file)]
    return Segmenter(model, text_model, config, tuple(filter(None, notes)))


class Segmenter:
    """A model that segments images into classes given by name; `notes` say where its weights come from."""

    def __init__(self, model: ClipRC, text_model: TextModel, config: Config, notes: tuple[str, ...] = ()) -> None:
        self.model, self.text_model, self.config, self.notes = model, text_model, config, notes
        self._embeddings: dict[tuple[tuple[str, ...], tuple[str, ...]], np.ndarray] = {}

    def embeddings(self, class_names: Names, templates: Sequence[str] = VOC_TEMPLATES) -> np.ndarray:
        """Class embeddings (C, D) float32 of names and synonyms, computed once per list of them and of templates."""
        key = check_class_names(class_names).texts, (templates,) if isinstance(templates, str) else tuple(templates)
        if key not in self._embeddings:
            rows, length = self.text_model.embed(*key), self.config.model.output_dim
            if rows.shape[1] != length:
                problem = f"of length {rows.shape[1]}, the model needs {length}: use the CLIP it was trained with"
                raise UserError(f"{self.text_model.source} gives embeddings {problem}")
            self._embeddings[key] = rows
        return self._embeddings[key].copy()

    def __call__(
        self, image: np.ndarray | Image | str | Path | Sequence[np.ndarray | Image | str | Path], class_names: Names,
        templates: Sequence[str] = VOC_TEMPLATES, seen: Names = (), gamma: float | None = None,
        with_scores: bool = False, threshold: float | None = None, others: Names = (),
    ) -> Segmentation | list[Segmentation]:  # fmt: skip
        """Segments an image, or each one of a list.

        Args:
            image: a file, a Pillow image or (H, W, 3) uint8 RGB, any size; or a list of them. Seen once: `test.scales`,
                `test.flip`, `test.protocol` do not count.
            class_names: what to look for: "cat|kitten, dog" (a kitten is a cat too), a list, or {"cat": ["kitten"]}.
            templates: texts with `{}` where the class name goes.
            seen: those of the names that the model was trained on; `gamma` is subtracted from their scores.
            gamma: None = that of the model's configuration if `seen` names classes, else 0.
            with_scores: return the scores too: C * H * W * 4 bytes.
            threshold: pixels whose best score is lower get label 255, none of these.
            others: names that compete with the classes; pixels that they win get label 255.
        """
        import jittor as jt

        from jseg.engine.sliding_window import ImageScores
        from jseg.ops.device import normalise

        if isinstance(image, list | tuple):
            options = (class_names, templates, seen, gamma, with_scores, threshold, others)
            return [self(item, *options) for item in image]
        image, classes = as_image(image), check_class_names(class_names, seen, others, threshold)
        if gamma and not classes.seen:
            raise UserError("gamma lowers the scores of seen classes: name them (seen=...), or leave gamma out")
        if gamma is None:
            gamma = self.config.gamma() if classes.seen else 0.0
        check_cost(image.shape[:2], self.config.test, "the image")
        text = jt.array(self.embeddings(classes.texts, templates))
        pixels = normalise(model_image(image, self.config.test), self.config.data)
        scores = ImageScores(self.model, pixels, text, classes.seen, gamma, self.config.test)
        return classify(scores.bands(image.shape[:2]), image, classes, threshold, with_scores)
