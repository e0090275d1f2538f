"""Lists of picture names, and the folders that a data set must have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from jseg.errors import UserError
from jseg.files import write_whole


def require_folders(root: Path, folders: Sequence[str], what: str) -> None:
    """Raises UserError if one of `folders` is not below `root`, saying what `root` should be."""
    for folder in folders:
        if not (root / folder).is_dir():
            raise UserError(f"folder {root / folder} does not exist: give the folder of {what}")


def read_list(path: Path) -> list[str]:
    """Names of a list file, one a line.

    Raises:
        UserError: missing, unreadable or empty file, lines that are not names, names that occur twice.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise UserError(f"list {path} does not exist") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"list {path} cannot be read: {error}") from error
    names = [line.strip() for line in lines if line.strip()]
    for name in names:
        if any(sign.isspace() or sign in "/\\" for sign in name):
            raise UserError(f"list {path}: {name!r} is no picture name: one name a line, without folder and suffix")
    if not names:
        raise UserError(f"list {path} is empty")
    if len(set(names)) < len(names):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise UserError(f"list {path} holds {twice} twice")
    return names


def write_list(path: Path, names: Sequence[str]) -> None:
    """Writes names, one a line, whole or not at all."""
    write_whole(path, "".join(f"{name}\n" for name in names).encode())


def check_size(picture: Path, shape: tuple[int, int], source: Path) -> None:
    """Raises UserError if labels of `shape` (height, width) from `source` are not of the size of their picture.

    Only the header of the picture is read; a picture that is missing or damaged is left to the final check.
    """
    try:
        with Image.open(picture) as image:
            width, height = image.size
    except OSError:
        return
    if (height, width) != shape:
        raise UserError(f"{source}: labels of {shape[1]}x{shape[0]} pixels, picture {picture} of {width}x{height}")
