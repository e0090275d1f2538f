"""Class names to class embeddings: prompt templates, their ensemble, an on-disk cache.

Paper, section 4.1: one template for PASCAL VOC, an ensemble of 15 for COCO-Stuff; each text embedding is normalised,
the mean over the templates is normalised again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jseg.errors import UserError
from jseg.weight_files import read_weight_file, write_safetensors

if TYPE_CHECKING:
    import jittor as jt

    from jseg.clip.tokenizer import Tokenizer

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
