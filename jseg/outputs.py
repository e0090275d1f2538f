"""Whether a command may write a file: never over its inputs, nor over a file that jseg did not write.

What jseg writes into a folder carries a mark: a chunk in PNGs, a key in JSON and safetensors files, a comment in text,
a cell in CSV. So there is no list of files that several runs in one folder, or killed ones, could leave wrong. The mark
says who wrote a file, not that nobody has edited it since.
"""

import functools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jseg.errors import UserError
from jseg.files import JSON_MARK

PNG_MARK = b"jsEG"  # a private chunk; by its last capital no editor keeps it in an image that was changed (PNG, 14.2)
TEXT_MARK = "<!-- jseg -->\n"
CSV_MARK = "label \\ prediction (jseg)"  # the first cell
IMAGES_MARK, ROWS_MARK = "image (jseg)", "row (jseg)"  # of other tables
MARKS = (b"\0\0\0\0" + PNG_MARK, f'"{JSON_MARK}": "'.encode(), TEXT_MARK.encode(), CSV_MARK.encode(),
         f"{IMAGES_MARK},".encode(), f"{ROWS_MARK},".encode())  # fmt: skip


def is_ours(path: Path) -> bool:
    """Whether jseg wrote a file; an empty one counts as well, since it holds nothing that could be lost."""
    if path.is_symlink():
        return False
    with open(path, "rb") as file:
        head = file.read(2**16)
    return not head or any(mark in head for mark in MARKS)


def check_outputs(
    outputs: Iterable[Path], inputs: Iterable[Any] = (), folder: Path | None = None, overwrite: bool = False
) -> None:
    """Raises UserError unless all `outputs` may be written.

    None may be given twice, lie outside of `folder`, or be one of the paths `inputs`, links followed. A file that
    exists may be replaced if jseg wrote it into `folder`, or with `overwrite`.
    """
    seen: set[Path] = set()
    read = {os.stat(path)[1:3] for path in inputs if path and os.path.exists(path)}  # inode and device
    resolved = functools.cache(os.path.realpath)  # many files lie in few folders
    for path in outputs:
        problem = ""
        if path in seen:
            problem = "would be written twice"
        elif folder is not None and not Path(resolved(path.parent)).is_relative_to(resolved(folder)):
            problem = f"lies outside of {folder}"
        elif path.exists() and os.stat(path)[1:3] in read:
            problem = "itself would be overwritten"
        elif path.exists() and not path.is_file():
            problem = "is no file that could be replaced"
        elif os.path.lexists(path) and not overwrite and (folder is None or not is_ours(path)):
            problem = f"{'exists' if folder is None else 'was not written by jseg'} (--overwrite replaces it)"
        if problem:
            raise UserError(f"{path} {problem}: choose another folder or name")
        seen.add(path)
