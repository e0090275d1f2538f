"""What the tools that prepare data sets share: options, .mat files, parallel conversion."""

from jseg.runtime.command_line import ArgumentParser

import importlib.util
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from jseg.data.workers import map_in_order
from jseg.errors import UserError
from jseg.outputs import check_outputs


def new_parser(description: str, root: str) -> ArgumentParser:
    """A parser of the data folder (`root` says which) and --workers."""
    parser = ArgumentParser(description)
    parser.add_argument("root", type=Path, help=root)
    parser.add_argument("--workers", type=int, default=min(os.cpu_count(), 8), help="processes; 0 = none")
    return parser


def require_folders(root: Path, folders: Sequence[str], what: str) -> None:
    """Raises UserError if one of `folders` is not below `root`, saying what `root` should be."""
    for folder in folders:
        if not (root / folder).is_dir():
            raise UserError(f"folder {root / folder} does not exist: give the folder of {what}")


def read_mat_labels(path: Path, name: str, highest: int, field: str = "") -> np.ndarray:
    """Label map `name` (or the `field` of that structure) of a .mat file of version 5: (H, W) int32 in 0..`highest`."""
    from scipy.io import loadmat

    try:
        value = loadmat(str(path), variable_names=[name])[name]
        value = value[field][0, 0] if field else value
    except Exception as error:  # scipy raises many types on damaged data; all of them are the file's fault
        raise UserError(f"{path}: missing, or no .mat file of version 5 that holds {name}: {error}") from error
    labels = value.astype(np.int32)
    if (labels != value).any() or labels.min() < 0 or labels.max() > highest:
        raise UserError(f"{path}: label values {value.min()} to {value.max()}, expected whole numbers 0..{highest}")
    return labels


def _problem(convert: Callable[[Path, Path], None], source: Path, target: Path) -> str:
    try:
        convert(source, target)
    except UserError as error:
        return str(error)
    return ""


def convert_all(
    jobs: Sequence[tuple[Path, Path]],
    convert: Callable[[Path, Path], None],
    workers: int,
    replaced: Sequence[Path] = (),
) -> int:
    """Makes the label PNGs of `jobs` (source, PNG) that are missing or `replaced`; exit code 1 if some failed.

    With workers `convert` must be importable.
    """
    again = set(replaced)
    pending = [job for job in dict.fromkeys(jobs) if not job[1].is_file() or job[1] in again]
    check_outputs([target for _, target in pending], [source for source, _ in jobs], overwrite=bool(replaced))
    print(f"{len(jobs) - len(pending):,} label maps are there, {len(pending):,} to make")
    if any(source.suffix == ".mat" for source, _ in pending) and importlib.util.find_spec("scipy") is None:
        raise UserError("reading .mat files needs scipy: pip install -e '.[prepare]'")
    remedy = "run the same command again with fewer --workers, finished files are kept"
    results = map_in_order(_problem, pending, min(workers, len(pending)), (convert,), remedy=remedy)
    progress = tqdm(results, total=len(pending), unit="file", disable=None)  # on a terminal only
    problems = [problem for problem in progress if problem]
    for problem in problems[:20]:
        print(f"found: {problem}")
    print(f"{len(problems)} could not be made" if problems else "all made: tools/check_dataset.py checks them")
    return 1 if problems else 0
