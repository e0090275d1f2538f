"""Class names -> class embeddings: templates and their ensemble, files of embeddings, and what a run takes.

Paper, section 4.1: one template for PASCAL VOC, an ensemble of 15 for COCO-Stuff. Our files of embeddings are
safetensors files with one array and, as metadata, class names and templates; a plain .npy has only rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jseg.clip.tokenizer import Merge, Tokenizer, find_vocabulary, generate_vocabulary
from jseg.clip.weights import ClipWeights, text_config_of, usual_heads
from jseg.config import Config, TextConfig
from jseg.data.class_names import ClassList, class_list
from jseg.errors import UserError
from jseg.files import cache_folder, digest_of
from jseg.weights import record
from jseg.weights.reader import WeightFile, read_weight_file, write_safetensors
from jseg.weights.record import FEATURES_NAME, is_jseg_file, recorded_classes, tensors_sha256, text_tensors

if TYPE_CHECKING:
    from jseg.clip.text_tower import TextTower

VOC_TEMPLATES = ("a photo of a {}",)
SIZES = ("", "small ", "medium ", "large ")
SCENES = ("a", "a photo of a", "There is a", "There is the", "This is a", "This is the", "This is one")
COCO_TEMPLATES = (
    *(f"{start} photo of a {size}{{}}." for start in ("a", "This is a") for size in SIZES),
    *(f"{start} {{}} in the scene." for start in SCENES),
)
PLACE = "{}"  # where the class name goes
BATCH = 64  # texts per forward pass
EMBEDDINGS = "embeddings"  # name of the array in our embedding files
FORMAT = "jseg class embeddings 1"
RELEASED = {  # SHA-256 of voc12_single.npy and coco_multi.npy -> data set and templates
    "72d3642e34bc3031fefa2fe31a43ee84b52ebb5f97b85d380f7b0d777b253ea7": ("voc12", VOC_TEMPLATES),
    "4874ea7fef4d5d1c095d217a708b2456b3dcac2474cf39303b96de3c973a3903": ("coco_stuff", COCO_TEMPLATES),
}
GENERATED_MERGES = 1000  # more than the words of any list of class names need
SAME = 1e-2  # largest difference between embeddings of the same texts by the same weights (half precision included)


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Rows (…, D) float32 scaled to length 1; a row of zeros becomes NaN."""
    with np.errstate(invalid="ignore"):
        return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def embed_class_names(
    names: Sequence[str], templates: Sequence[str], tokenizer: Tokenizer, text_tower: Callable[[np.ndarray], Any],
    weights_hash: str, cache_folder: str | Path | None = None,
) -> np.ndarray:  # fmt: skip
    """Embeds class names: per name, the normalised mean of its normalised embeddings over the templates.

    `text_tower` maps token ids (N, L) int32 to a Jittor array (N, D), not normalised, and has a `context_length`;
    `weights_hash` identifies its weights, for results kept in `cache_folder`. Returns (C, D) float32, rows of length 1.
    """
    names, templates = list(names), list(templates)
    if not names or not templates or any(template.count(PLACE) != 1 for template in templates):
        raise UserError(f"class embeddings need names, and templates which must hold {PLACE} once: {templates}")
    identity = {"names": names, "templates": templates, "weights": weights_hash, "vocabulary": tokenizer.fingerprint}
    key = hashlib.sha256(json.dumps(identity).encode("utf-8")).hexdigest()
    cached = Path(cache_folder) / f"class_embeddings_{key[:32]}.safetensors" if cache_folder else None
    if cached and cached.exists():
        with suppress(UserError):  # a damaged one is made again
            stored = read_weight_file(cached)
            if stored.meta == identity | {"sha256": tensors_sha256(stored.tensors)}:
                return stored.tensors[EMBEDDINGS]
    texts = [template.replace(PLACE, name) for name in names for template in templates]
    ids = tokenizer(texts, text_tower.context_length)
    import jittor as jt

    with jt.no_grad():
        batches = [text_tower(ids[i : i + BATCH]).numpy() for i in range(0, len(ids), BATCH)]
    embedded = np.concatenate(batches).astype(np.float32)
    rows = unit_rows(unit_rows(embedded).reshape(len(names), len(templates), -1).mean(axis=1))
    if not np.isfinite(rows).all():
        raise UserError(f"class embeddings are not finite, the text tower's weights are damaged: {record.OTHER_SOURCE}")
    if cached:
        write_safetensors(cached, {EMBEDDINGS: rows}, identity | {"sha256": tensors_sha256({EMBEDDINGS: rows})})
    return rows


@dataclass(frozen=True)
class TextModel:
    """A text tower as arrays, and its vocabulary."""

    tensors: dict[str, np.ndarray]  # by CLIP's names, float32
    heads: int
    merges: tuple[Merge, ...] | None  # None = CLIP's own vocabulary
    source: str  # where it comes from, for messages
    is_ours: bool = True  # of a file of ours, or random on purpose; else its embeddings must look like CLIP's

    def tower(self) -> TextTower:
        """The tower as a module."""
        from jseg.clip.text_tower import TextTower
        from jseg.weights.state import strict_load

        sizes = text_config_of(self.tensors)
        others = (sizes[key] for key in ("output_dim", "context_length", "vocab_size"))
        tower = TextTower(sizes["text_width"], sizes["text_layers"], self.heads, *others)
        strict_load(tower, self.tensors, f"the text tower of {self.source}")
        return tower

    def embed(self, names: Sequence[str], templates: Sequence[str]) -> np.ndarray:
        """Embeddings (C, D) float32 of class names, rows of length 1; kept in the cache folder."""
        tower, tokenizer = self.tower(), Tokenizer(self.merges or find_vocabulary())
        if tokenizer.vocab_size != tower.vocab_size:
            problem = f"{tower.vocab_size} tokens, the vocabulary has {tokenizer.vocab_size}"
            raise UserError(f"the text tower of {self.source} knows {problem}: correct text.vocabulary")
        identity = f"{tensors_sha256(self.tensors)} {self.heads}"
        options = (tokenizer, tower, identity, cache_folder() / "embeddings")
        if not self.is_ours:
            record.check_trained(embed_class_names(class_list("voc12").names, VOC_TEMPLATES, *options), self.source)
        return embed_class_names(names, templates, *options)


def text_model_of(weights: WeightFile | ClipWeights, text: TextConfig) -> TextModel | None:
    """The text tower of CLIP weights or of a CLIP-RC checkpoint (ours or a released one); None when it has none."""
    if isinstance(weights, ClipWeights):
        file, heads = weights.source, weights.config["text_heads"]
        tensors = {key: x for key, x in weights.tensors.items() if not key.startswith(("visual.", "logit_scale"))}
    else:
        file, found = weights, text_tensors(weights).items()
        tensors = {name: np.asarray(array, np.float32) for name, array in found if not name.endswith("attn_mask")}
        heads = file.meta.get("text_heads") or usual_heads(np.size(tensors.get("ln_final.weight", ())))
    if not tensors:
        return None
    ours, vocabulary = is_jseg_file(file), file.meta.get("vocabulary")  # our own files bring theirs along
    if not (ours and vocabulary) and text.vocabulary not in ("", "generated"):  # a generated one fits no trained tower
        vocabulary = find_vocabulary(text.vocabulary)
    merges = Tokenizer(vocabulary).merges if vocabulary else None
    return TextModel(tensors, heads or text.heads, merges, str(file.path), ours or "clip" in file.meta)


def random_text_model(config: Config, classes: ClassList) -> TextModel:
    """A text tower with random weights, for `model.init="random"`, made from the run's seed."""
    from jseg.clip.text_tower import TextTower, random_text_weights

    text = config.text
    if text.vocabulary == "generated":
        texts = [template.replace(PLACE, name) for template in text.templates for name in classes.names]
        tokenizer = Tokenizer(generate_vocabulary(texts, GENERATED_MERGES))
    else:
        tokenizer = Tokenizer(find_vocabulary(text.vocabulary))
    sizes = (config.model.output_dim, text.context_length, tokenizer.vocab_size)
    tower = TextTower(text.width, text.layers, text.heads, *sizes)
    tensors = random_text_weights(tower, np.random.default_rng([config.train.seed, 2]))
    return TextModel(tensors, text.heads, tokenizer.merges if text.vocabulary else None, "the random start")


def write_embeddings(
    path: str | Path, matrix: np.ndarray, names: Sequence[str], templates: Sequence[str], weights_sha256: str
) -> None:
    """Writes embeddings (C, D) and what they are."""
    meta = {"format": FORMAT, "names": list(names), "templates": list(templates), "weights_sha256": weights_sha256}
    write_safetensors(path, {EMBEDDINGS: matrix}, meta)


def read_embeddings(path: str | Path, classes: ClassList, templates: Sequence[str] = ()) -> np.ndarray:
    """Embeddings (C, D) float32 of the classes of a list, in its order; the rows are not normalised again.

    The file is a .npy with one row per class (float16 in the releases) or a safetensors file with one such array.
    Prints a warning where it does not say whose rows they are; UserError where it does not fit; templates () = any.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"class embeddings {path} do not exist: check text.embeddings")
    names: Sequence[str] = ()
    if path.suffix == ".npy":
        try:
            rows = np.array(np.load(path, mmap_mode="r", allow_pickle=False))
        except Exception as error:  # NumPy parses the header as Python text: many kinds of exceptions
            raise UserError(f"class embeddings {path} are truncated or no .npy array ({error})") from error
        dataset, made_with = RELEASED.get(digest_of(path), ("", ()))
        names = class_list(dataset).names if dataset else ()
    else:
        file = read_weight_file(path)
        rows = next(iter(file.tensors.values()))
        names, made_with = (tuple(file.meta.get(key) or ()) for key in ("names", "templates"))
    count, problem = len(classes.names), ""
    if rows.ndim != 2 or rows.dtype.kind != "f" or not np.isfinite(rows).all():
        problem = f"{rows.dtype} of shape {rows.shape}: expected finite floats (classes, D)"
    elif len(rows) != count or len(names) not in (0, count):
        problem = f"for {len(rows)} classes, the class list of {classes.title} has {count}"
    elif names and names != classes.names:
        i = next(i for i in range(count) if names[i] != classes.names[i])
        problem = f"for other classes: row {i} is {names[i]!r}, class {i} of {classes.title} is {classes.names[i]!r}"
    elif made_with and templates and made_with != tuple(templates):
        problem = f"made with other templates ({len(made_with)}, first {made_with[0]!r}) than text.templates "
        problem += f"({len(templates)}, first {templates[0]!r})"
    if problem:
        cure = "make them by tools/embed_class_names.py, or leave text.embeddings out"
        raise UserError(f"class embeddings {path} are {problem}: {cure}")
    if not names:
        print(f"warning: {path} does not say which classes its rows are: taken to be {classes.title}'s, in its order")
    return rows.astype(np.float32)


@dataclass(frozen=True)
class TextFeatures:
    """The class embeddings of a run, and the text tower that stays with its weights for new class names."""

    matrix: np.ndarray  # (C, D) float32, one row per class of the class list
    text_model: TextModel | None  # None = not known


def class_embeddings(
    config: Config, class_list: ClassList, file: WeightFile | None = None, clip: ClipWeights | None = None,
    other_classes: bool = False,
) -> TextFeatures:  # fmt: skip
    """Embeddings of all classes of `class_list`; UserError where no source has those of the classes and the model.

    They come, in this order, from a file (`text.embeddings`), from weights that were made for the same names and
    templates, or from a text tower: that of our weights, of CLIP (`model.init`), of released weights, or a random one.
    `file` holds the CLIP-RC weights of the run, made for other classes than the run's only with `other_classes`.
    """
    templates, output_dim = config.text.templates, config.model.output_dim
    ours = file is not None and is_jseg_file(file)
    sources = (file, clip) if ours else (clip, file)  # the Jittor release's checkpoints have an untrained text tower
    models = (text_model_of(weights, config.text) for weights in sources if weights is not None)
    model = next((model for model in models if model is not None), None)
    stored = None  # the embeddings that the weights were trained with, if they are for these classes
    if ours and recorded_classes(file) == class_list.names:
        stored = file.tensors.get(FEATURES_NAME)
        if stored is not None and not np.isfinite(stored).all():
            raise UserError(f"{file.path} is damaged: its class embeddings are not finite")
    if config.text.embeddings:
        matrix = read_embeddings(config.text.embeddings, class_list, templates)
        if model is not None and file is not None and not model.is_ours:  # it stays with the weights only if it works
            try:
                model.embed(class_list.names[:1], VOC_TEMPLATES)
            except UserError as error:
                print(f"warning: {error} (it is left out: class embeddings come from {config.text.embeddings})")
                model = None
        equal = stored is None or (matrix.shape == stored.shape and np.abs(matrix - stored).max() <= SAME)
        if not equal and not other_classes:
            given = f"text.embeddings={config.text.embeddings}: leave it out to use its own, or pass --other-classes"
            raise UserError(f"{file.path} was trained with other class embeddings than {given}")
    elif stored is not None and file.meta.get("templates") == list(templates):
        matrix = stored
    else:
        if model is None and file is None and config.model.init == "random":
            model = random_text_model(config, class_list)
        if model is None:
            cure = "set text.embeddings to a file of them, or model.init to CLIP weights"
            raise UserError(f"no source of class embeddings: {cure} (python tools/fetch_pretrained.py ViT-B-16)")
        matrix = model.embed(class_list.names, templates)
    if matrix.shape[1] != output_dim:
        raise UserError(f"class embeddings have length {matrix.shape[1]}, the model's output_dim is {output_dim}")
    return TextFeatures(matrix, model)
