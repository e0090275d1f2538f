"""Whether a command may write a file: never over its inputs, nor over a file that jseg did not write.

What jseg writes into a folder carries a mark: a chunk in PNGs, a key in JSON and safetensors files, a comment in text.
So there is no list of files that several runs in one folder, or killed ones, could leave wrong.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from jseg.errors import UserError
from jseg.files import JSON_MARK

PNG_MARK = b"jsEG"  # a private chunk; by its last capital no editor keeps it in an image that was changed (PNG, 14.2)
TEXT_MARK = "<!-- jseg -->\n"
MARKS = (b"\0\0\0\0" + PNG_MARK, f'"{JSON_MARK}": "'.encode(), TEXT_MARK.encode())
CURE = "choose another folder or name"


def is_ours(path: Path) -> bool:
    """Whether jseg wrote a file; an empty one counts as well, since it holds nothing that could be lost."""
    if path.is_symlink():
        return False
    with open(path, "rb") as file:
        head = file.read(2**16)
    return not head or any(mark in head for mark in MARKS)


def check_outputs(
    outputs: Iterable[Path], inputs: Iterable[str | Path | None] = (), folder: Path | None = None,
    overwrite: bool = False,
) -> None:  # fmt: skip
    """Raises UserError unless all `outputs` may be written.

    No two may be the same, none may be an input (links are followed) or lead out of `folder`. What exists may be
    replaced only with `overwrite`, but in a `folder` also where jseg wrote it.
    """
    outputs = list(outputs)
    if len(set(outputs)) < len(outputs):
        double = next(path for path in outputs if outputs.count(path) > 1)
        raise UserError(f"{double} would be written twice: rename an input, or use several folders")
    for parent in {path.parent for path in outputs} if folder is not None else ():
        if not Path(os.path.realpath(parent)).is_relative_to(os.path.realpath(folder)):
            raise UserError(f"{parent} leads out of {folder}: {CURE}")
    existing = [path for path in outputs if os.path.lexists(path)]
    read = {_identity(path) for path in inputs if path and os.path.exists(path)} if existing else ()
    for path in existing:
        if path.exists() and _identity(path) in read:
            raise UserError(f"{path} itself would be overwritten: {CURE}")
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is no file that could be replaced: {CURE}")
        if not overwrite and (folder is None or not is_ours(path)):
            found = "exists" if folder is None else "was not written by jseg"
            raise UserError(f"{path} {found}: {CURE}, or pass --overwrite to replace it")


def _identity(path: str | Path) -> tuple[int, int]:
    facts = os.stat(path)
    return facts.st_dev, facts.st_ino
