"""Class names to class embeddings: prompt templates, their ensemble, an on-disk cache.

Paper, section 4.1: one template for PASCAL VOC, an ensemble of 15 for COCO-Stuff; each text embedding is normalised,
the mean over the templates is normalised again.

Files of class embeddings: ours say what they were made for, the released .npy files are known by their checksum.

Ours is a safetensors file with one array `embeddings` (C, D); its metadata hold class names, data set and split where
there is one, templates, and the checksum of the weights that made it. A plain .npy holds only the rows: how many must
fit, which classes they are is taken on trust, unless it is one of the files released with CLIP-RC
(https://github.com/uyzhang/CLIP-RC).

Class embeddings of a run, and the text tower that stays with the weights so that they can meet new class names.

Embeddings come, in this order, from a file (`text.embeddings`), from weights that were made for the same names and
templates, or from a text tower: that of the weights, of the CLIP file `model.init`, or a random one on purpose.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jseg.errors import UserError
from jseg.weights.reader import read_weight_file, write_safetensors

if TYPE_CHECKING:
    import jittor as jt

    from jseg.clip.tokenizer import Tokenizer
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jseg.clip.tokenizer import (
    VOCABULARY_SHA256,
    Merge,
    Tokenizer,
    find_vocabulary,
    generate_vocabulary,
    read_vocabulary,
)
from jseg.config import Config, TextConfig
from jseg.data.class_names import ClassList, class_list
from jseg.files import cache_folder
from jseg.weights.reader import WeightFile, sha256_of_file
from jseg.weights.record import FEATURES_NAME, is_jseg_file, recorded_classes, tensors_sha256, text_tensors

if TYPE_CHECKING:
    from jseg.clip.text_tower import TextTower
    from jseg.clip.weights import ClipWeights


VOC_TEMPLATES = ("a photo of a {}",)
COCO_TEMPLATES = (
    "a photo of a {}.",
    "a photo of a small {}.",
    "a photo of a medium {}.",
    "a photo of a large {}.",
    "This is a photo of a {}.",
    "This is a photo of a small {}.",
    "This is a photo of a medium {}.",
    "This is a photo of a large {}.",
    "a {} in the scene.",
    "a photo of a {} in the scene.",
    "There is a {} in the scene.",
    "There is the {} in the scene.",
    "This is a {} in the scene.",
    "This is the {} in the scene.",
    "This is one {} in the scene.",
)
PLACE = "{}"  # where the class name goes
BATCH = 64  # texts per forward pass
EMBEDDINGS = "embeddings"  # name of the array in our embedding files


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Rows (…, D) float32 scaled to length 1; a row of zeros becomes NaN."""
    with np.errstate(invalid="ignore"):
        return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def embed_class_names(
    names: Sequence[str],
    templates: Sequence[str],
    tokenizer: Tokenizer,
    text_tower: Callable[[np.ndarray], jt.Var],
    weights_hash: str,
    cache_folder: str | Path | None = None,
) -> np.ndarray:
    """Embeds class names: per name, the normalised mean of its normalised embeddings over the templates.

    Args:
        names: class names as they stand ("building-other").
        templates: texts with `{}` once, where the name goes.
        tokenizer: the one whose vocabulary the tower was trained with.
        text_tower: token ids (N, L) int32 -> (N, D), not normalised; has `context_length`.
        weights_hash: identifies the tower's weights; part of the cache key with names, templates and vocabulary.
        cache_folder: where results are kept; None = nowhere.

    Returns:
        (C, D) float32, rows of length 1.

    Raises:
        UserError: no names, a template without its place, a text that is too long, or a cache that cannot be written.
    """
    names, templates = list(names), list(templates)
    if not names or not templates:
        raise UserError("class embeddings need at least one class name and one template")
    for template in templates:
        if template.count(PLACE) != 1:
            raise UserError(f"template {template!r} must hold {PLACE} once, where the class name goes")
    identity = {
        "names": names,
        "templates": templates,
        "weights": weights_hash,
        "vocabulary": tokenizer.fingerprint,
        "context_length": text_tower.context_length,
    }
    key = hashlib.sha256(json.dumps(identity).encode("utf-8")).hexdigest()
    cached = Path(cache_folder) / f"class_embeddings_{key[:32]}.safetensors" if cache_folder else None
    if cached and (stored := _read_cache(cached, identity)) is not None:
        return stored
    texts = [template.replace(PLACE, name) for name in names for template in templates]
    embedded = _run_tower(text_tower, tokenizer(texts, text_tower.context_length))
    rows = unit_rows(unit_rows(embedded).reshape(len(names), len(templates), -1).mean(axis=1))
    if not np.isfinite(rows).all():
        raise UserError("the text tower gives embeddings that are not finite: its weights are damaged")
    if cached:
        write_safetensors(cached, {EMBEDDINGS: rows}, identity)
    return rows


def _read_cache(path: Path, identity: dict) -> np.ndarray | None:
    """The cached rows, or None when there are none; a damaged cache file counts as none and is written again."""
    if not path.is_file():
        return None
    try:
        stored = read_weight_file(path)
    except UserError:
        return None
    rows = stored.tensors.get(EMBEDDINGS)
    fits = stored.meta == identity and rows is not None and rows.ndim == 2 and rows.shape[0] == len(identity["names"])
    return rows if fits else None


def _run_tower(text_tower: Callable[[np.ndarray], jt.Var], token_ids: np.ndarray) -> np.ndarray:
    import jittor as jt  # here, so that templates and embedding files can be read without starting Jittor

    rows = []
    with jt.no_grad():
        for start in range(0, len(token_ids), BATCH):
            rows.append(text_tower(token_ids[start : start + BATCH]).numpy())
    return np.concatenate(rows).astype(np.float32)


FORMAT = "jseg class embeddings 1"
# SHA-256 of voc12_single.npy and coco_multi.npy -> data set and templates
RELEASED = {
    "72d3642e34bc3031fefa2fe31a43ee84b52ebb5f97b85d380f7b0d777b253ea7": ("voc12", VOC_TEMPLATES),
    "4874ea7fef4d5d1c095d217a708b2456b3dcac2474cf39303b96de3c973a3903": (
        "coco_stuff",
        COCO_TEMPLATES,
    ),  # coco_multi.npy
}


@dataclass(frozen=True)
class EmbeddingFile:
    """What a file of class embeddings holds."""

    matrix: np.ndarray  # (C, D) float32
    names: tuple[str, ...]  # empty = the file does not say
    templates: tuple[str, ...]  # empty = the file does not say
    dataset: str  # "" = the file does not say


def write_embeddings(
    path: str | Path,
    matrix: np.ndarray,
    names: Sequence[str],
    templates: Sequence[str],
    weights_sha256: str,
    classes: ClassList | None = None,
) -> None:
    """Writes embeddings (C, D) with all that tells what they are; `classes` where they are those of a data set.

    Raises:
        UserError: the file cannot be written.
    """
    meta = {
        "format": FORMAT,
        "names": list(names),
        "dataset": classes.dataset if classes else "",
        "split": classes.split if classes else "",
        "templates": list(templates),
        "weights_sha256": weights_sha256,
    }
    write_safetensors(path, {EMBEDDINGS: np.ascontiguousarray(matrix)}, meta)


def read_embedding_file(path: str | Path) -> EmbeddingFile:
    """Reads class embeddings and uses the rows as they are: they are not normalised again.

    Args:
        path: .npy with one row per class (float16 in the releases), or a safetensors file with one such array.

    Raises:
        UserError: no such file, no such array, or values not finite.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"class embeddings {path} do not exist: check text.embeddings")
    meta: dict[str, Any] = {}
    if path.suffix == ".npy":
        rows = _npy_rows(path)
        if released := RELEASED.get(sha256_of_file(path)):
            dataset, templates = released
            meta = {"names": class_list(dataset).names, "dataset": dataset, "templates": templates}
    else:
        file = read_weight_file(path)
        if len(file.tensors) != 1:
            raise UserError(f"class embeddings {path} hold {len(file.tensors)} arrays: expected one")
        (rows,), meta = file.tensors.values(), file.meta
    if rows.ndim != 2 or rows.dtype.kind != "f":
        raise UserError(f"class embeddings {path} are {rows.dtype} of shape {rows.shape}: expected floats (classes, D)")
    rows = rows.astype(np.float32)
    if not np.isfinite(rows).all():
        raise UserError(f"class embeddings {path} hold values that are not finite")
    names, templates = _texts(meta, "names", path), _texts(meta, "templates", path)
    if names and len(names) != len(rows):
        raise UserError(f"class embeddings {path} are damaged: {len(rows)} rows for {len(names)} names")
    return EmbeddingFile(rows, names, templates, str(meta.get("dataset") or ""))


def _npy_rows(path: Path) -> np.ndarray:
    try:
        return np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    except (ValueError, OSError, EOFError, SyntaxError) as error:
        raise UserError(f"class embeddings {path} are truncated or no .npy array ({error})") from error


def _texts(meta: dict[str, Any], key: str, path: Path) -> tuple[str, ...]:
    texts = meta.get(key) or ()
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        raise UserError(f"class embeddings {path} are damaged: {key} in the metadata is no list of texts")
    return tuple(texts)


def read_embeddings(
    path: str | Path, classes: ClassList, output_dim: int, templates: Sequence[str] = ()
) -> tuple[np.ndarray, list[str]]:
    """Embeddings of exactly the classes of a list, in its order.

    Args:
        output_dim: length of a row that the model expects.
        templates: of the run; () = any.

    Returns:
        (C, D) float32 and warnings, a line each.

    Raises:
        UserError: what `read_embedding_file` raises; other classes, another number or order of them, another length of
            row, other templates.
    """
    file, title = read_embedding_file(path), classes.title
    count = len(classes.names)
    whose = f" of {file.dataset}" if file.dataset else ""
    mend = "make them by tools/embed_class_names.py, or leave text.embeddings out"
    if len(file.matrix) != count:
        raise UserError(
            f"class embeddings {path} are for {len(file.matrix)} classes{whose}, the class list of {title} has "
            f"{count}: {mend}"
        )
    if file.names and file.names != classes.names:
        pairs = zip(file.names, classes.names, strict=True)
        index, (theirs, ours) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
        raise UserError(
            f"class embeddings {path} are for other classes{whose}: row {index} is {theirs!r}, class {index} of "
            f"{title} is {ours!r}: {mend}"
        )
    if file.matrix.shape[1] != output_dim:
        raise UserError(
            f"class embeddings {path} have length {file.matrix.shape[1]}, the model's output_dim is {output_dim}"
        )
    if file.templates and templates and file.templates != tuple(templates):
        raise UserError(
            f"class embeddings {path} were made with other templates ({len(file.templates)}, first "
            f"{file.templates[0]!r}) than text.templates ({len(templates)}, first {templates[0]!r}): {mend}"
        )
    if not file.names:
        return file.matrix, [f"{path} does not say which classes its rows are: taken to be {title}'s, in its order"]
    return file.matrix, []


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
        from jseg.weights.state import strict_load

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
    if file is None or not is_jseg_file(file) or recorded_classes(file) != class_list.names:
        return None
    return file.tensors.get(FEATURES_NAME)


def _check_same(matrix: np.ndarray, stored: np.ndarray, path: str, file: WeightFile) -> None:
    if matrix.shape != stored.shape or np.abs(matrix - stored).max() > SAME:
        raise UserError(
            f"{file.path} was trained with other class embeddings than text.embeddings={path}: leave text.embeddings "
            "out to use its own, or pass --other-classes"
        )
