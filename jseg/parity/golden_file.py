"""Reading golden files: arrays by name, configurations, companion files; remembers what was used.

An array that is neither an input, nor compared, nor left out on purpose must not go unnoticed.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jseg.errors import UserError

SUFFIXES = (".npz", ".json")


class NotRun(Exception):
    """A check that cannot run: something beside the file is missing. The message says what."""


class GoldenFile:
    """One golden file. Reading an array with `[...]` marks it as an input.

    Args:
        path: .npz, .json (flattened: keys joined by "/"), or a file of another kind, which holds no arrays to us.

    Attributes:
        arrays: everything in it by name.
        read: names of the inputs.

    Raises:
        UserError: the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.read: set[str] = set()
        try:
            self.arrays = _arrays(path)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"golden file {path} cannot be read: {error}") from error

    @property
    def stem(self) -> str:
        """File name without the last suffix."""
        return self.path.stem

    @property
    def tag(self) -> str:
        """Name of the configuration: `forward_eval_A.npz` -> `A`."""
        return self.path.name.split(".")[0].rsplit("_", 1)[-1]

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.arrays:
            raise UserError(f"golden file {self.path} holds no {name!r}")
        self.read.add(name)
        return self.arrays[name]

    def json(self, name: str) -> Any:
        """An input that holds JSON text, parsed."""
        return json.loads(str(self[name]))

    def starting_with(self, prefix: str) -> dict[str, np.ndarray]:
        """Inputs whose names start with `prefix`, under the rest of the name."""
        names = [name for name in self.arrays if name.startswith(prefix)]
        return {name.removeprefix(prefix): self[name] for name in names}

    def expect(self, name: str, value: np.ndarray) -> None:
        """Adds an array to compare with that follows from the file, or replaces one by a form that can be compared."""
        self.arrays[name] = np.asarray(value)

    def companion(self, name: str) -> GoldenFile:
        """Another file of the same folder.

        Raises:
            NotRun: it is not there.
        """
        path = self.path.with_name(name)
        if not path.is_file():
            raise NotRun(f"{name} is missing")
        return GoldenFile(path)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    if path.suffix == ".json":
        return {name: np.asarray(value) for name, value in _leaves(json.loads(path.read_text()))}
    return {}


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(path, leaf) pairs of nested dictionaries; a list of numbers or texts is one leaf."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{prefix}/{key}" if prefix else str(key))
    elif isinstance(value, list) and any(isinstance(item, (list, Mapping)) for item in value):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{prefix}/{index}")
    else:
        yield prefix, value
