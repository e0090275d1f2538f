"""Public inference: an image and any class names -> labels and scores.

In Python:

    import jseg

    segmenter = jseg.load_segmenter("weights.safetensors")
    result = segmenter(image, ["cat", "dog", "grass"])  # image (H, W, 3) uint8 RGB
    result.labels  # (H, W) int32: 0 = cat, 1 = dog, 2 = grass
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jseg.clip.class_embeddings import TextModel, text_model_of_checkpoint, text_model_of_clip
from jseg.clip.weights import read_clip_weights
from jseg.config import PRECISIONS, Config, ModelConfig, from_dict, read_config, suggestion
from jseg.data.loader import check_cost, model_image
from jseg.engine.checkpoint import read_whole
from jseg.engine.load import load_model
from jseg.errors import UserError
from jseg.weights.reader import WeightFile
from jseg.weights.record import is_jseg_file, model_tensors

if TYPE_CHECKING:
    from jseg.model.clip_rc import ClipRC

DEFAULT_TEMPLATES = ("a photo of a {}",)
RELEASED_HEAD_WIDTH = 64  # channels per attention head of CLIP's image towers
RELEASED_DECODER_HEADS = 8


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


def check_image(image: np.ndarray) -> None:
    """Raises UserError unless `image` is (H, W, 3) uint8 with at least one pixel."""
    shape, dtype = getattr(image, "shape", ()), getattr(image, "dtype", type(image).__name__)
    if not isinstance(image, np.ndarray) or dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or not image.size:
        raise UserError(f"the image must be an (H, W, 3) uint8 RGB array, got {dtype} {shape}")


def check_class_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names without surrounding blanks.

    Raises:
        UserError: none, an empty one, or the same one twice (case does not count: the text tower reads lower case).
    """
    names = (names,) if isinstance(names, str) else names
    stripped = tuple(" ".join(name.split()) for name in names)
    if not stripped or not all(stripped):
        raise UserError("class names: give at least one, and no empty ones")
    lower = [name.lower() for name in stripped]
    if twice := [name for place, name in enumerate(stripped) if lower.index(name.lower()) != place]:
        raise UserError(f"class names: {', '.join(twice)} is given twice")
    return stripped


def seen_ids(seen: Iterable[str], names: Sequence[str]) -> tuple[int, ...]:
    """Positions of the seen names in the list of class names.

    Raises:
        UserError: a seen name that is not in the list.
    """
    seen = check_class_names(seen) if seen else ()
    if unknown := [name for name in seen if name not in names]:
        raise UserError(f"seen classes: {', '.join(unknown)} not among the class names ({', '.join(names)})")
    return tuple(names.index(name) for name in seen)


def model_config_of(tensors: Mapping[str, np.ndarray]) -> ModelConfig:
    """Sizes of a CLIP-RC model from its weights under the released names; heads by the released models' convention.

    Raises:
        UserError: weights of another model, or another width of attention heads.
    """

    def count(prefix: str) -> int:
        return len({name[len(prefix) :].split(".")[0] for name in tensors if name.startswith(prefix)})

    try:
        width, _, patch_size, _ = tensors["backbone.conv1.weight"].shape
        side = round((tensors["backbone.positional_embedding"].shape[0] - 1) ** 0.5)
        output_dim = tensors["backbone.proj"].shape[1]
        sizes = ModelConfig(
            image_size=side * patch_size,
            patch_size=patch_size,
            width=width,
            layers=count("backbone.transformer.resblocks."),
            heads=width // RELEASED_HEAD_WIDTH,
            output_dim=output_dim,
            prompts=tensors["backbone.prompt_embeddings"].shape[1],
            region_grid=round(tensors["backbone.region_level_bridge"].shape[0] ** 0.5),
            decoder_layers=count("decode_head.decoder_q.layers."),
            decoder_heads=RELEASED_DECODER_HEADS,
            ffn_factor=tensors["decode_head.decoder_q.layers.0.linear1.weight"].shape[0] // output_dim,
            recovery_layers=count("decode_head.recovery_decoder.decouple_q."),
        )
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(f"the weights are no whole CLIP-RC model (missing or misshapen: {error})") from error
    if width % RELEASED_HEAD_WIDTH or output_dim % RELEASED_DECODER_HEADS:
        raise UserError(
            f"a model of width {width} and {output_dim} outputs does not follow the released models' head sizes: "
            "give its config file"
        )
    return sizes


def config_of(file: WeightFile) -> Config:
    """The configuration that weights were made with: as recorded in ours, inferred for released files.

    Raises:
        UserError: it can be neither read nor inferred.
    """
    if is_jseg_file(file):
        return from_dict(file.meta.get("config"), file.path)
    config = Config(model=model_config_of(model_tensors(file)))
    size = config.model.image_size
    config.test.short_side, config.test.crop_size = size, (size, size)
    config.test.stride = (size * 5 // 6, size * 5 // 6)  # 426 for 512, as released
    return config


def load_segmenter(
    weights: str | Path,
    device: str = "auto",
    clip: str | Path = "",
    config: str | Path | Config = "",
    precision: str = "fp32",
) -> Segmenter:
    """Loads a model for images and class names of any kind; prints where its weights come from.

    Args:
        weights: our own weight file, or a released CLIP-RC checkpoint (.pth or .pkl).
        device: auto, cpu or cuda.
        clip: CLIP weights with the text tower, for weights that do not bring one along.
        config: the configuration of the weights, where the file does not tell it.
        precision: fp32, tf32, bf16 or fp16, whatever the weights were trained in.

    Raises:
        UserError: files that are missing, damaged or do not fit together; CUDA demanded where it cannot work; a
            precision that the device does not have.
    """
    if precision not in PRECISIONS:
        raise UserError(f"precision={precision!r}{suggestion(precision, PRECISIONS)}")
    file = read_whole(Path(weights))
    if not config:
        config = config_of(file)
    elif not isinstance(config, Config):
        config = read_config(config)
    text_model = (
        text_model_of_clip(read_clip_weights(clip), config.text)
        if clip
        else text_model_of_checkpoint(file, config.text)
    )
    if text_model is None:
        raise UserError(f"{file.path} brings no text tower along: give CLIP weights (--clip PATH)")
    from jseg.runtime.start import start  # Jittor starts only after all inputs are checked

    start(device)
    model, notes = load_model(config, file, precision=precision)
    return Segmenter(model, text_model, config, tuple(notes))


class Segmenter:
    """A model that segments images into classes given by name.

    Attributes:
        config: of the model and of inference (`config.test`), which may be changed.
    """

    def __init__(self, model: ClipRC, text_model: TextModel, config: Config, notes: tuple[str, ...] = ()) -> None:
        self.model, self.text_model, self.config, self.notes = model, text_model, config, notes
        self._embeddings: dict[tuple[tuple[str, ...], tuple[str, ...]], np.ndarray] = {}

    def embeddings(self, class_names: Sequence[str], templates: Sequence[str] = DEFAULT_TEMPLATES) -> np.ndarray:
        """Class embeddings (C, D) float32, computed once per list of names and templates.

        Raises:
            UserError: names or templates that cannot be used, a vocabulary that is missing.
        """
        templates = (templates,) if isinstance(templates, str) else tuple(templates)
        key = check_class_names(class_names), templates
        if key not in self._embeddings:
            rows = self.text_model.embed(*key)
            if rows.shape[1] != self.config.model.output_dim:
                raise UserError(
                    f"the text tower of {self.text_model.source} gives embeddings of length {rows.shape[1]}, the model "
                    f"needs {self.config.model.output_dim}: use the CLIP that the model was trained with"
                )
            self._embeddings[key] = rows
        return self._embeddings[key].copy()

    def __call__(
        self,
        image: np.ndarray,
        class_names: Sequence[str],
        templates: Sequence[str] = DEFAULT_TEMPLATES,
        seen: Sequence[str] = (),
        gamma: float | None = None,
        with_scores: bool = False,
    ) -> Segmentation:
        """Segments one image.

        Args:
            image: (H, W, 3) uint8 RGB, any size.
            class_names: what to look for; every pixel gets one of them.
            templates: texts with `{}` where the class name goes.
            seen: those of the names that the model was trained on; `gamma` is subtracted from their scores.
            gamma: None = that of the model's configuration if `seen` names classes, else 0.
            with_scores: return the scores too: C * H * W * 4 bytes.

        Raises:
            UserError: an image of another form, or so long that it would
                take too many windows; names that are empty, double or unknown.
        """
        import jittor as jt

        from jseg.engine.sliding_window import ImageScores

        check_image(image)
        names = check_class_names(class_names)
        seen = seen_ids(seen, names)
        if gamma is None:
            gamma = self.config.gamma() if seen else 0.0
        check_cost(image.shape[:2], self.config.test, "the image")
        text, size = jt.array(self.embeddings(names, templates)), image.shape[:2]
        result = ImageScores(self.model, model_image(image, self.config), text, seen, gamma, self.config.test)
        scores = result.scores(size) if with_scores else None
        labels = result.labels(size) if scores is None else scores.argmax(axis=0).astype(np.int32)
        return Segmentation(labels, names, scores)

    segment = __call__
