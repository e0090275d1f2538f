"""Reads MATLAB's .mat label files (version 5, as SBD and PASCAL-Context are published) through scipy."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from jseg.errors import UserError


def require_scipy() -> None:
    """Raises UserError with the command that installs scipy, if it is missing."""
    if importlib.util.find_spec("scipy") is None:
        raise UserError("reading .mat files needs scipy: pip install -e '.[prepare]'")


def read_variable(path: str | Path, name: str) -> Any:
    """The variable `name` of a .mat file, a structure as a record array.

    Raises:
        UserError: no scipy, missing or damaged file, no such variable; names the file.
    """
    require_scipy()
    from scipy.io import loadmat

    try:
        content = loadmat(str(path), variable_names=[name])
    except FileNotFoundError as error:
        raise UserError(f"{path}: missing") from error
    except Exception as error:  # scipy raises many types on damaged data; all of them are the file's fault
        raise UserError(
            f"{path}: not a .mat file of version 5 that can be read: {error or type(error).__name__}"
        ) from error
    if name not in content:
        raise UserError(f"{path}: has no variable {name}: it is another kind of .mat file")
    return content[name]


def as_label_array(value: Any, path: str | Path, highest: int) -> np.ndarray:
    """A variable as an (H, W) int32 array of category numbers 0..`highest`.

    Raises:
        UserError: another shape, numbers that are not whole or out of range; names the file.
    """
    array = np.asarray(value)
    if array.ndim != 2 or not array.size or array.dtype.kind not in "iufb":
        raise UserError(f"{path}: expected a two-dimensional label array, got {array.dtype} of shape {array.shape}")
    labels = array.astype(np.int32)
    if (labels != array).any() or labels.min() < 0 or labels.max() > highest:
        raise UserError(
            f"{path}: label values from {array.min()} to {array.max()}, expected whole numbers 0..{highest}"
        )
    return labels
