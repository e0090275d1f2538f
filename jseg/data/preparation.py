"""What the tools that prepare data sets share: options, lists, .mat files, parallel conversion, the final count."""

from __future__ import annotations

from jseg.runtime.command_line import ArgumentParser

import argparse
import hashlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

import jseg
from jseg.data.class_names import PUBLISHED_IMAGES, count_note
from jseg.data.dataset import read_names
from jseg.data.image_files import file_problem
from jseg.data.workers import map_in_order
from jseg.errors import UserError
from jseg.files import write_json, write_whole

_SHOWN = 20  # problems on the screen
Job = tuple[Path, Path]  # source, label PNG to make of it


class SplitFiles(NamedTuple):
    """The files of one split: images/NAME.jpg and labels/NAME.png (or another `suffix`)."""

    section: str  # train or val
    names: Sequence[str]
    images: Path
    labels: Path
    suffix: str = ".png"

    def label_maps(self) -> list[Path]:
        """The label map of each name."""
        return [self.labels / f"{name}{self.suffix}" for name in self.names]


def new_parser(description: str, root: str) -> ArgumentParser:
    """A parser of the data folder (`root` says which), --workers, --force and --allow-partial."""
    parser = ArgumentParser(description=description.split("\n")[0])
    cores = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 8)
    parser.add_argument("root", type=Path, help=root)
    parser.add_argument("--workers", type=_count, default=cores, help="processes that convert; 0 = in this process")
    parser.add_argument("--force", action="store_true", help="make label maps anew that are there")
    parser.add_argument("--allow-partial", action="store_true", help="only a part of the data set is meant")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number from 0 on")
    return int(text)


def require_folders(root: Path, folders: Sequence[str], what: str) -> None:
    """Raises UserError if one of `folders` is not below `root`, saying what `root` should be."""
    for folder in folders:
        if not (root / folder).is_dir():
            raise UserError(f"folder {root / folder} does not exist: give the folder of {what}")


def read_list(path: Path) -> list[str]:
    """Names of a list file, one a line, without folder and suffix; UserError for anything else."""
    names = read_names(path)
    for name in names:
        if any(character.isspace() or character in "/\\" for character in name):
            raise UserError(f"list {path}: {name!r} is no image name: one name a line, without folder and suffix")
    if len(set(names)) < len(names):
        raise UserError(f"list {path} holds {next(name for name in names if names.count(name) > 1)} twice")
    return names


def write_list(path: Path, names: Sequence[str]) -> None:
    """Writes names, one a line, whole or not at all."""
    write_whole(path, "".join(f"{name}\n" for name in names).encode())


def require_scipy() -> None:
    """Raises UserError with the command that installs scipy, if it is missing."""
    if importlib.util.find_spec("scipy") is None:
        raise UserError("reading .mat files needs scipy: pip install -e '.[prepare]'")


def read_mat(path: Path, name: str) -> Any:
    """The variable `name` of a .mat file of version 5, a structure as a record array; UserError names a bad file."""
    from scipy.io import loadmat

    try:
        content = loadmat(str(path), variable_names=[name])
    except FileNotFoundError as error:
        raise UserError(f"{path}: missing") from error
    except Exception as error:  # scipy raises many types on damaged data; all of them are the file's fault
        raise UserError(f"{path}: not a .mat file of version 5: {error or type(error).__name__}") from error
    if name not in content:
        raise UserError(f"{path}: has no variable {name}: it is another kind of .mat file")
    return content[name]


def check_labels(value: Any, highest: int, source: Path, image: Path) -> np.ndarray:
    """A variable of `source` as (H, W) int32 category numbers 0..`highest`, of the size of `image` if that is there.

    Raises:
        UserError: another shape, numbers that are not whole or out of range; names `source`.
    """
    array = np.asarray(value)
    if array.ndim != 2 or not array.size or array.dtype.kind not in "iufb":
        raise UserError(f"{source}: expected a two-dimensional label array, got {array.dtype} of shape {array.shape}")
    labels = array.astype(np.int32)
    if (labels != array).any() or labels.min() < 0 or labels.max() > highest:
        raise UserError(f"{source}: label values {array.min()} to {array.max()}, expected whole numbers 0..{highest}")
    try:
        with Image.open(image) as file:  # reads the header only
            width, height = file.size
    except OSError:
        return labels  # missing or damaged: the final count says so
    if (height, width) != labels.shape:
        raise UserError(f"{source}: {labels.shape[1]}x{labels.shape[0]} pixels, its image {image} {width}x{height}")
    return labels


def unfinished(jobs: Sequence[Job], force: bool = False) -> list[Job]:
    """The jobs whose target is not there as a whole label PNG; `force` = all of them."""
    return [job for job in jobs if force or file_problem(job[1], labels=True)]


def _convert(convert: Callable[[Path, Path], None], source: Path, target: Path) -> str:
    try:
        convert(source, target)
    except UserError as error:
        return str(error)
    return ""


def convert_all(jobs: Sequence[Job], convert: Callable[[Path, Path], None], workers: int, title: str) -> list[str]:
    """Runs `convert(source, target)` for every job; returns what went wrong, one line for each file.

    Args:
        convert: importable function (or a partial of one) that writes the target whole or not at all, and raises
            UserError for a bad source.
        workers: processes; 0 = in this process.

    Raises:
        UserError: a worker process was killed.
    """
    problems = map_in_order(
        _convert,
        jobs,
        min(workers, len(jobs)),
        shared=(convert,),
        name=lambda job: str(job[0]),
        remedy="run the same command again with fewer --workers, finished files are kept",
    )
    progress = tqdm(problems, desc=title, total=len(jobs), unit="file", disable=not sys.stderr.isatty())
    return [problem for problem in progress if problem]


def finish(root: Path, dataset: str, splits: Sequence[SplitFiles], problems: Sequence[str], partial: bool) -> int:
    """Counts the files of every split, prints them beside the published numbers and writes `manifest_<dataset>.json`.

    The manifest holds for each split the number and bytes of images and label maps and the SHA-256 of its list (the
    names in order, one a line), so that two copies of a data set can be compared at a glance.

    Args:
        problems: what went wrong before, one line each.
        partial: counts other than the published ones are meant.

    Returns:
        Exit code: 0 = all there, 1 = something is missing or went wrong.
    """
    problems, described = list(problems), {}
    for split in splits:
        section, names = split.section, split.names
        published = PUBLISHED_IMAGES[dataset, section]
        entry = {"names": len(names), "published": published}
        entry["list_sha256"] = hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest()
        images = [split.images / f"{name}.jpg" for name in names]
        for kind, files in (("image", images), ("label_map", split.label_maps())):
            missing = [path for path in files if not path.is_file()]
            entry[f"{kind}s"] = len(files) - len(missing)
            entry[f"{kind}_bytes"] = sum(path.stat().st_size for path in files if path.is_file())
            if missing:
                kinds = f"{kind.replace('_', ' ')}s"
                problems.append(f"{section}: {len(missing)} of {len(files)} {kinds} missing, first {missing[0]}")
        entry["bytes"] = entry["image_bytes"] + entry["label_map_bytes"]
        described[section] = entry
        print(
            f"{section}: {len(names):,} names (published: {published:,}), {entry['images']:,} images, "
            f"{entry['label_maps']:,} label maps, {entry['bytes'] / 2**20:,.1f} MiB"
        )
        note = count_note(dataset, section, len(names))
        if note and not partial:
            problems.append(f"{note} (--allow-partial if only a part is meant)")
        elif note:
            print(f"note: {note}")
    path = root / f"manifest_{dataset}.json"
    content = {"dataset": dataset, "tool": f"tools/prepare_{dataset}.py", "jseg": jseg.__version__}
    write_json(path, content | {"splits": described, "problems": problems})
    print(f"manifest: {path}")
    for problem in problems[:_SHOWN]:
        print(f"found: {problem}")
    if len(problems) > _SHOWN:
        print(f"and {len(problems) - _SHOWN} more, all named in the manifest")
    print("all there" if not problems else f"{len(problems)} problems: fix them and run the same command again")
    return 1 if problems else 0
