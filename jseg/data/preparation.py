"""What the tools that prepare data sets share: options, lists, .mat files, parallel conversion, the final count."""

from __future__ import annotations

from jseg.runtime.command_line import ArgumentParser

import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from jseg.data.class_names import PUBLISHED_IMAGES, count_note
from jseg.data.workers import map_in_order
from jseg.errors import UserError
from jseg.files import write_whole

Pair = tuple[Path, Path]  # source and label PNG to make of it, or image and label PNG


def new_parser(description: str, root: str) -> ArgumentParser:
    """A parser of the data folder (`root` says which), --workers, --force and --allow-partial."""
    parser = ArgumentParser(description=description.split("\n")[0])
    cores = min(len(os.sched_getaffinity(0)), 8)
    parser.add_argument("root", type=Path, help=root)
    parser.add_argument("--workers", type=int, default=cores, help="processes that convert; 0 = in this process")
    parser.add_argument("--force", action="store_true", help="make label maps anew that are there")
    parser.add_argument("--allow-partial", action="store_true", help="only a part of the data set is meant")
    return parser


def require_folders(root: Path, folders: Sequence[str], what: str) -> None:
    """Raises UserError if one of `folders` is not below `root`, saying what `root` should be."""
    for folder in folders:
        if not (root / folder).is_dir():
            raise UserError(f"folder {root / folder} does not exist: give the folder of {what}")


def write_list(path: Path, names: Sequence[str]) -> None:
    """Writes names, one a line, whole or not at all."""
    write_whole(path, "".join(f"{name}\n" for name in names).encode())


def read_mat(path: Path, name: str) -> Any:
    """The variable `name` of a .mat file of version 5, a structure as a record array; UserError names a bad file."""
    from scipy.io import loadmat

    try:
        return loadmat(str(path), variable_names=[name])[name]
    except Exception as error:  # scipy raises many types on damaged data; all of them are the file's fault
        raise UserError(f"{path}: missing, or no .mat file of version 5 that holds {name}: {error}") from error


def check_labels(value: Any, highest: int, source: Path, image: Path) -> np.ndarray:
    """A variable of `source` as (H, W) int32 category numbers; UserError names `source`.

    They must be whole numbers in 0..`highest`, and of the size of `image` if that is there.
    """
    labels = value.astype(np.int32)
    if (labels != value).any() or labels.min() < 0 or labels.max() > highest:
        raise UserError(f"{source}: label values {value.min()} to {value.max()}, expected whole numbers 0..{highest}")
    if image.is_file():  # else the final count says so
        with Image.open(image) as file:  # reads the header only
            size = file.size
        if size != labels.shape[::-1]:
            raise UserError(f"{source}: {labels.shape[1]}x{labels.shape[0]} pixels, its image {size[0]}x{size[1]}")
    return labels


def _convert(convert: Callable[[Path, Path], None], source: Path, target: Path) -> str:
    try:
        convert(source, target)
    except UserError as error:
        return str(error)
    return ""


def convert_all(
    jobs: Sequence[Pair], convert: Callable[[Path, Path], None], workers: int, title: str, force: bool, sources: str
) -> list[str]:
    """Makes the label maps that are not there yet (`force`: all); returns what went wrong, one line for each file.

    Args:
        convert: importable function (or a partial of one) of source and target, which writes the target whole or not
            at all, and raises UserError for a bad source.
        sources: the missing option that gives the folder of .mat files; "" = none is missing.
    """
    pending = [job for job in jobs if force or not job[1].is_file()]
    print(f"{title}: {len(jobs) - len(pending):,} label maps are there, {len(pending):,} to make")
    if any(source.suffix == ".mat" for source, _ in pending):
        if sources:
            raise UserError(f"{len(pending):,} label maps must be made: pass {sources}")
        if importlib.util.find_spec("scipy") is None:
            raise UserError("reading .mat files needs scipy: pip install -e '.[prepare]'")
    remedy = "run the same command again with fewer --workers, finished files are kept"
    problems = map_in_order(_convert, pending, min(workers, len(pending)), (convert,), remedy=remedy)
    progress = tqdm(problems, desc=title, total=len(pending), unit="file", disable=not sys.stderr.isatty())
    return [problem for problem in progress if problem]


def finish(dataset: str, splits: dict[str, list[Pair]], problems: Sequence[str], partial: bool) -> int:
    """Prints how many pairs of image and label map train and val have, and all `problems`; returns the exit code."""
    problems = list(problems)
    for (section, pairs), published in zip(splits.items(), PUBLISHED_IMAGES[dataset], strict=True):
        print(f"{section}: {len(pairs):,} images (published: {published:,})")
        for place, kind in enumerate(("images", "label maps")):
            if missing := [pair[place] for pair in pairs if not pair[place].is_file()]:
                problems.append(f"{section}: {len(missing)} of {len(pairs)} {kind} missing, first {missing[0]}")
        note = count_note(dataset, section, len(pairs))
        if note and not partial:
            problems.append(f"{note} (--allow-partial if only a part is meant)")
    for problem in problems[:20]:
        print(f"found: {problem}")
    if len(problems) > 20:
        print(f"and {len(problems) - 20} more")
    print("all there" if not problems else f"{len(problems)} problems: fix them and run the same command again")
    return 1 if problems else 0
