"""Names and metadata of our own weight files: which tensors are what, and for which classes they were made."""

import hashlib

import numpy as np

from jseg.errors import UserError
from jseg.weights.reader import WeightFile

FORMAT = "jseg checkpoint 1"
MODEL_PREFIXES = ("backbone.", "decode_head.")
TEXT_PREFIX = "text_encoder."
FEATURES_NAME = "text_features"
MOMENT_PREFIXES = {"m": "optimizer.m.", "v": "optimizer.v."}
COSINES = (0.2, 0.92)  # where the median between VOC's names may lie: CLIP has 0.80, random towers 0.94 or more
UNUSED_PREFIX = "ema."  # averaged weights, which earlier versions could keep


def tensors_sha256(tensors: dict[str, np.ndarray]) -> str:
    """Checksum over names, types, shapes and values, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(array.data)
    return digest.hexdigest()


def is_jseg_file(file: WeightFile) -> bool:
    """Whether the file was written by jseg."""
    return file.meta.get("format") == FORMAT


def model_tensors(file: WeightFile) -> dict[str, np.ndarray]:
    """The tensors of CLIP-RC itself: no text tower, class embeddings or optimiser; UserError when there are none."""
    others = (TEXT_PREFIX, UNUSED_PREFIX, FEATURES_NAME, *MOMENT_PREFIXES.values())
    found = {name: array for name, array in file.tensors.items() if not name.startswith(others)}
    if not any(name.startswith(MODEL_PREFIXES) for name in found):
        clip = any("visual" in name for name in file.tensors)
        hint = ": it looks like CLIP: set model.init to it, or --training-free" if clip else ""
        raise UserError(f"{file.path} holds no CLIP-RC weights (no backbone.* and decode_head.*){hint}")
    return found


def text_tensors(file: WeightFile) -> dict[str, np.ndarray]:
    """The text tower's tensors by their names in CLIP; empty when the file holds none."""
    return {name[len(TEXT_PREFIX) :]: array for name, array in file.tensors.items() if name.startswith(TEXT_PREFIX)}


def recorded_classes(file: WeightFile) -> tuple[str, ...]:
    """The class names that a weight file was made for; empty when it does not say."""
    names = file.meta.get("classes" if is_jseg_file(file) else "CLASSES")
    return tuple(map(str, names)) if isinstance(names, (list, tuple)) else ()


def recorded_unseen(file: WeightFile) -> tuple[int, ...] | None:
    """Indices of the classes that were unseen when the weights were made; None when the file does not say."""
    return tuple(file.meta["unseen"]) if is_jseg_file(file) and "unseen" in file.meta else None


def training_note(file: WeightFile) -> str:
    """Which classes the weights were trained on with masks, in one line; "" when the file does not say."""
    names, unseen = recorded_classes(file), recorded_unseen(file) or ()
    seen = [name for index, name in enumerate(names) if index not in unseen]
    listed = ", ".join(seen[:20]) + (", …" if len(seen) > 20 else "")
    return f"trained on the masks of {len(seen)} classes ({listed}); other names may be given as well" if names else ""


OTHER_SOURCE = "set text.embeddings to a .npy file, or model.init (--clip) to CLIP weights"


def check_trained(rows: np.ndarray, source: str) -> None:
    """UserError when rows (20, D), embeddings of VOC's class names by the text tower of `source`, are no CLIP's."""
    middle = float(np.median((rows @ rows.T)[np.triu_indices(len(rows), 1)]))
    if not COSINES[0] < middle < COSINES[1]:  # NaN included
        found = f"cosines between class names are about {middle:.3f} (CLIP: 0.8)"
        raise UserError(f"the text tower of {source} is untrained: {found}: {OTHER_SOURCE}")
