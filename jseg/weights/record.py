"""Names and metadata of our own weight files: which tensors are what, and for which classes they were made."""

from __future__ import annotations

import hashlib

import numpy as np

from jseg.errors import UserError
from jseg.weights.reader import WeightFile

FORMAT = "jseg checkpoint 1"
MODEL_PREFIXES = ("backbone.", "decode_head.")
TEXT_PREFIX = "text_encoder."
FEATURES_NAME = "text_features"
MOMENT_PREFIXES = {"m": "optimizer.m.", "v": "optimizer.v."}
AVERAGE_PREFIX = "ema."
BATCH_PREFIX = "batch."  # of a step that is kept to be repeated


def tensors_sha256(tensors: dict[str, np.ndarray]) -> str:
    """Checksum over names, types, shapes and values, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(array.data)
    return digest.hexdigest()


def is_ours(file: WeightFile) -> bool:
    """Whether the file was written by jseg."""
    return file.meta.get("format") == FORMAT


def averages_of(file: WeightFile) -> dict[str, np.ndarray]:
    """The averaged weights of a checkpoint by parameter name; empty when the run kept none."""
    return {name[len(AVERAGE_PREFIX) :]: a for name, a in file.tensors.items() if name.startswith(AVERAGE_PREFIX)}


def model_tensors(file: WeightFile, averaged: bool = True) -> dict[str, np.ndarray]:
    """The tensors that concern CLIP-RC: all but the text side and the optimiser.

    Args:
        file: the weights.
        averaged: whether averaged weights are taken where the file has them, as for everything but going on training.

    Raises:
        UserError: there are none, as in a plain CLIP file.
    """
    others = (TEXT_PREFIX, AVERAGE_PREFIX, BATCH_PREFIX, *MOMENT_PREFIXES.values())
    found = {
        name: array for name, array in file.tensors.items() if not name.startswith(others) and name != FEATURES_NAME
    }
    if not any(name.startswith(MODEL_PREFIXES) for name in found):
        hint = ": that looks like CLIP, set model.init to it" if any("visual" in name for name in file.tensors) else ""
        raise UserError(f"{file.path} holds no CLIP-RC weights (no backbone.* and decode_head.*){hint}")
    return found | averages_of(file) if averaged else found


def text_tensors(file: WeightFile) -> dict[str, np.ndarray]:
    """The text tower's tensors by their names in CLIP; empty when the file holds none."""
    return {name[len(TEXT_PREFIX) :]: array for name, array in file.tensors.items() if name.startswith(TEXT_PREFIX)}


def recorded_classes(file: WeightFile) -> tuple[str, ...]:
    """The class names that a weight file was made for; empty when it does not say."""
    names = file.meta.get("classes" if is_ours(file) else "CLASSES")
    if isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names):
        return tuple(names)
    return ()


def recorded_unseen(file: WeightFile) -> tuple[int, ...] | None:
    """Indices of the classes that were unseen when the weights were made; None when the file does not say."""
    unseen, count = file.meta.get("unseen"), len(recorded_classes(file))
    if is_ours(file) and isinstance(unseen, list) and all(type(i) is int and 0 <= i < count for i in unseen):
        return tuple(unseen)
    return None
