"""PASCAL Context, 59 classes: label PNGs from the .mat files of the 459 categories, and the lists.

Supported source: the .mat files (`LabelMap`) of https://cs.stanford.edu/~roozbeh/pascal-context, the pictures and lists
of PASCAL VOC 2010. The other source in use, trainval_merged.json with the Detail API, is not supported: it holds the
same labels. The 4,998 training and 5,105 validation pictures are all of VOC 2010's ImageSets/Main/{train,val}.txt.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from jseg.data.class_names import CONTEXT_IDS, voc_palette
from jseg.data_preparation.conversion import Job, convert_all, unfinished
from jseg.data_preparation.lists import check_size, read_list, require_folders, write_list
from jseg.data_preparation.manifest import SplitFiles, finish
from jseg.data_preparation.mat_files import as_label_array, read_variable, require_scipy
from jseg.drawing import write_label_map
from jseg.errors import UserError

LISTS = Path("ImageSets") / "SegmentationContext"
LABELS = "SegmentationClassContext"
TOOL = "tools/prepare_context.py"
_CATEGORIES = 459


def stored_values() -> np.ndarray:
    """(460,) uint8: category of the .mat files -> value in the PNG: 1..59 for the classes, 0 for everything else."""
    lookup = np.zeros(_CATEGORIES + 1, np.uint8)
    lookup[list(CONTEXT_IDS)] = np.arange(1, len(CONTEXT_IDS) + 1)
    return lookup


def convert_map(images: Path, source: Path, target: Path) -> None:
    """Makes one palette PNG with values 0..59 from a .mat file.

    Raises:
        UserError: damaged source, values that are no categories, another size than the picture in `images`.
    """
    categories = as_label_array(read_variable(source, "LabelMap"), source, _CATEGORIES)
    check_size(images / f"{target.stem}.jpg", categories.shape, source)
    write_label_map(target, stored_values()[categories], voc_palette(256))


def make_lists(root: Path) -> dict[str, list[str]]:
    """Names of train and val: those in ImageSets/SegmentationContext, made from VOC 2010's Main lists if missing.

    Raises:
        UserError: neither is there, or a picture is in both.
    """
    found = {}
    for section in ("train", "val"):
        path, main = root / LISTS / f"{section}.txt", root / "ImageSets" / "Main" / f"{section}.txt"
        if path.is_file():
            found[section] = read_list(path)
            continue
        if not main.is_file():
            raise UserError(f"neither {path} nor {main} exists: copy the lists of VOC 2010 there")
        found[section] = read_list(main)
        write_list(path, found[section])
        print(f"{LISTS / f'{section}.txt'}: the pictures of ImageSets/Main/{section}.txt")
    shared = sorted(set(found["train"]) & set(found["val"]))
    if shared:
        raise UserError(f"{root / LISTS}: {len(shared)} names are in train.txt and val.txt, first {shared[0]}")
    return found


def prepare(root: Path, mat_files: Path | None, workers: int, force: bool = False, allow_partial: bool = False) -> int:
    """Makes lists and label maps, counts, writes the manifest; returns the exit code of a tool.

    Args:
        root: VOC 2010 (`VOCdevkit/VOC2010`).
        mat_files: folder of the .mat files; None when nothing of it is needed any more.
        workers: processes; 0 = in this process.
        force: make label maps anew that are there.
        allow_partial: another number of pictures than the published one is meant.

    Raises:
        UserError: missing folders, lists, .mat files or scipy.
    """
    require_folders(root, ("JPEGImages",), "PASCAL VOC 2010, VOCdevkit/VOC2010")
    if mat_files is not None and not mat_files.is_dir():
        raise UserError(f"--mat {mat_files}: no such folder: give the one that holds PASCAL-Context's .mat files")
    lists = make_lists(root)
    source = Path() if mat_files is None else mat_files
    splits = [_split(root, section, names) for section, names in lists.items()]
    targets = [path for split in splits for path in split.labels]
    pending = unfinished([Job(source / f"{path.stem}.mat", path) for path in targets], force)
    print(f"{LABELS}: {len(targets) - len(pending):,} label maps are there, {len(pending):,} to make")
    if pending and mat_files is None:
        raise UserError(f"{len(pending):,} label maps must be made: pass --mat FOLDER of PASCAL-Context's .mat files")
    if pending:
        require_scipy()
    problems = convert_all(pending, partial(convert_map, root / "JPEGImages"), workers, LABELS)
    return finish(root, "context", splits, problems, allow_partial, TOOL)


def _split(root: Path, section: str, names: Sequence[str]) -> SplitFiles:
    images = [root / "JPEGImages" / f"{name}.jpg" for name in names]
    return SplitFiles(section, names, images, [root / LABELS / f"{name}.png" for name in names])
