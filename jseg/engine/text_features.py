"""Class embeddings of a run, and the text tower that stays with the weights so that they can meet new class names.

Embeddings come, in this order, from a file (`text.embeddings`), from weights that were made for the same names and
templates, or from a text tower: that of the weights, of the CLIP file `model.init`, or a random one on purpose.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from jseg.clip.embedding_files import read_embeddings
from jseg.clip.prompts import embed_class_names
from jseg.clip.tokenizer import (
    VOCABULARY_SHA256,
    Merge,
    Tokenizer,
    find_vocabulary,
    generate_vocabulary,
    read_vocabulary,
)
from jseg.data.class_names import ClassList
from jseg.engine.checkpoint import FEATURES_NAME, is_ours, recorded_classes, tensors_sha256, text_tensors
from jseg.engine.config import Config, TextConfig
from jseg.errors import UserError
from jseg.runtime.prepare import cache_folder
from jseg.weight_files import WeightFile, sha256_of_file

if TYPE_CHECKING:
    from jseg.clip.text_tower import TextTower
    from jseg.clip.weights import ClipWeights

HEAD_WIDTH = 64  # channels per attention head in all published CLIP models
GENERATED_MERGES = 1000  # more than the words of any list of class names need
SAME = 1e-2  # largest difference between embeddings of the same texts by the same weights (half precision included)
IMAGE_NAMES = ("visual.", "logit_scale")


@dataclass(frozen=True)
class TextSide:
    """A text tower as arrays, and its vocabulary."""

    tensors: dict[str, np.ndarray]  # by CLIP's names, float32
    heads: int
    merges: tuple[Merge, ...] | None  # None = CLIP's own vocabulary
    source: str  # where it comes from, for messages

    def tokenizer(self) -> Tokenizer:
        """The tokenizer of this tower.

        Raises:
            UserError: CLIP's vocabulary is not there, or this is not the vocabulary that the tower was made for.
        """
        tokenizer = Tokenizer(find_vocabulary() if self.merges is None else self.merges)
        rows = self.tensors["token_embedding.weight"].shape[0]
        if tokenizer.vocab_size != rows:
            raise UserError(
                f"the text tower of {self.source} knows {rows} tokens, the vocabulary has {tokenizer.vocab_size}: "
                "correct text.vocabulary"
            )
        return tokenizer

    def tower(self) -> TextTower:
        """The tower, ready to run.

        Raises:
            UserError: arrays that do not make a text tower, with their names.
        """
        from jseg.clip.text_tower import TextTower
        from jseg.model.state import strict_load

        try:
            context_length, width = self.tensors["positional_embedding"].shape
            vocab_size, output_dim = (
                len(self.tensors["token_embedding.weight"]),
                self.tensors["text_projection"].shape[1],
            )
        except (KeyError, ValueError, IndexError, TypeError) as error:
            raise UserError(f"{self.source} holds no whole text tower (missing or misshapen: {error})") from error
        layers = len({name.split(".")[2] for name in self.tensors if name.startswith("transformer.resblocks.")})
        tower = TextTower(width, layers, self.heads, output_dim, context_length, vocab_size)
        strict_load(tower, self.tensors, f"the text tower of {self.source}")
        return tower

    def embed(self, names: Sequence[str], templates: Sequence[str]) -> np.ndarray:
        """Embeddings (C, D) float32 of class names, rows of length 1; kept in the cache folder."""
        tower, identity = self.tower(), f"{tensors_sha256(self.tensors)} {self.heads}"
        return embed_class_names(names, templates, self.tokenizer(), tower, identity, cache_folder() / "embeddings")


@dataclass(frozen=True)
class TextFeatures:
    """What a run knows of its classes."""

    matrix: np.ndarray  # (C, D) float32, one row per class of the class list
    side: TextSide | None  # the text tower, where it is known

    @property
    def sha256(self) -> str:
        """SHA-256 of the matrix, hexadecimal."""
        return hashlib.sha256(np.ascontiguousarray(self.matrix).tobytes()).hexdigest()


def _vocabulary(text: TextConfig) -> tuple[Merge, ...] | None:
    """Merges of the vocabulary that the config names; None for CLIP's own."""
    if text.vocabulary == "generated":
        raise UserError("text.vocabulary='generated' fits no trained text tower: it needs model.init='random'")
    if not text.vocabulary or sha256_of_file(find_vocabulary(text.vocabulary)) == VOCABULARY_SHA256:
        return None
    return read_vocabulary(text.vocabulary)


def _stored_vocabulary(meta: Mapping[str, Any], text: TextConfig) -> tuple[Merge, ...] | None:
    """The vocabulary that a weight file of ours brings along, else that of the config; None for CLIP's own."""
    if stored := meta.get("vocabulary"):
        if not isinstance(stored, (list, tuple)):
            raise UserError(f"a weight file records the vocabulary {str(stored)[:80]!r}, which is none")
        return Tokenizer(stored).merges
    return None if text.vocabulary == "generated" else _vocabulary(text)


def _heads(width: int, stored: Any, text: TextConfig) -> int:
    """Attention heads of a tower, which its arrays do not tell: as stored, by CLIP's convention, or from the config."""
    if type(stored) is int and stored > 0 and width % stored == 0:
        return stored
    return width // HEAD_WIDTH if width % HEAD_WIDTH == 0 else text.heads


def side_of_checkpoint(file: WeightFile, text: TextConfig) -> TextSide | None:
    """The text tower that a CLIP-RC checkpoint (ours or a released one) brings along; None when it has none."""
    tensors = {
        name: np.asarray(array, np.float32)
        for name, array in text_tensors(file).items()
        if not name.endswith("attn_mask")
    }
    if not tensors:
        return None
    width = tensors["ln_final.weight"].size if "ln_final.weight" in tensors else text.width
    heads = _heads(width, file.meta.get("text_heads"), text)
    return TextSide(tensors, heads, _stored_vocabulary(file.meta, text), str(file.path))


def side_of_clip(clip: ClipWeights, text: TextConfig) -> TextSide:
    """The text tower of CLIP weights."""
    tensors = {name: array for name, array in clip.tensors.items() if not name.startswith(IMAGE_NAMES)}
    heads = clip.config["text_heads"] or text.heads
    return TextSide(tensors, heads, _stored_vocabulary(clip.source.meta, text), str(clip.source.path))


def random_side(config: Config, class_list: ClassList) -> TextSide:
    """A text tower with random weights, for `model.init="random"`, made from the run's seed."""
    from jseg.clip.text_tower import TextTower, random_text_weights

    text = config.text
    if text.vocabulary == "generated":
        texts = [template.replace("{}", name) for template in text.templates for name in class_list.names]
        merges: tuple[Merge, ...] | None = generate_vocabulary(texts, GENERATED_MERGES)
    else:
        merges = _vocabulary(text)
    vocab_size = Tokenizer(find_vocabulary() if merges is None else merges).vocab_size
    tower = TextTower(
        text.width, text.layers, text.heads, config.model.output_dim, text.context_length, vocab_size
    )  # fmt: skip
    tensors = random_text_weights(tower, np.random.default_rng([config.train.seed, 2]))
    return TextSide(tensors, text.heads, merges, "the random start")


def class_embeddings(
    config: Config,
    class_list: ClassList,
    file: WeightFile | None = None,
    clip: ClipWeights | None = None,
    other_classes: bool = False,
) -> TextFeatures:
    """Embeddings of all classes of `class_list`.

    Args:
        file: CLIP-RC weights that the run starts from or evaluates.
        clip: CLIP weights (`model.init`).
        other_classes: whether the weights may have been made for other classes than the run's.

    Raises:
        UserError: no source of embeddings, or one that fits neither the classes nor the model.
    """
    side = side_of_checkpoint(file, config.text) if file is not None else None
    if side is None and clip is not None:
        side = side_of_clip(clip, config.text)
    stored = _stored_features(file, class_list)
    if config.text.embeddings:
        matrix, warnings = read_embeddings(
            config.text.embeddings, class_list, config.model.output_dim, config.text.templates
        )
        for warning in warnings:
            print(f"warning: {warning}")
        if stored is not None and not other_classes:
            _check_same(matrix, stored, config.text.embeddings, file)
    elif stored is not None and file.meta.get("templates") == list(config.text.templates):
        matrix = stored
    else:
        if side is None and file is None and config.model.init == "random":
            side = random_side(config, class_list)
        if side is None:
            raise UserError(
                "no source of class embeddings: set text.embeddings to a file of them, or model.init to CLIP weights "
                "(python tools/fetch_pretrained.py ViT-B-16)"
            )
        matrix = side.embed(class_list.names, config.text.templates)
    if matrix.shape[1] != config.model.output_dim:
        raise UserError(
            f"class embeddings have length {matrix.shape[1]}, the model's output_dim is {config.model.output_dim}"
        )
    return TextFeatures(matrix, side)


def _stored_features(file: WeightFile | None, class_list: ClassList) -> np.ndarray | None:
    """The embeddings that weights of ours were trained with, if they are for these classes."""
    if file is None or not is_ours(file) or recorded_classes(file) != class_list.names:
        return None
    return file.tensors.get(FEATURES_NAME)


def _check_same(matrix: np.ndarray, stored: np.ndarray, path: str, file: WeightFile) -> None:
    if matrix.shape != stored.shape or np.abs(matrix - stored).max() > SAME:
        raise UserError(
            f"{file.path} was trained with other class embeddings than text.embeddings={path}: leave text.embeddings "
            "out to use its own, or pass --other-classes"
        )
