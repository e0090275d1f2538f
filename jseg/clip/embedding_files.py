"""Files of class embeddings: ours say what they were made for, the released .npy files are known by their checksum.

Ours is a safetensors file with one array `embeddings` (C, D); its metadata hold class names, data set and split where
there is one, templates, and the checksum of the weights that made it. A plain .npy holds only the rows: how many must
fit, which classes they are is taken on trust, unless it is one of the files released with CLIP-RC
(https://github.com/uyzhang/CLIP-RC).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jseg.clip.prompts import COCO_TEMPLATES, EMBEDDINGS, VOC_TEMPLATES
from jseg.data.class_names import ClassList, class_list
from jseg.errors import UserError
from jseg.weight_files import read_weight_file, sha256_of_file, write_safetensors

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
