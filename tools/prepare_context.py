"""Makes the label maps and lists of PASCAL Context with 59 classes: SegmentationClassContext, SegmentationContext.

    pip install -e '.[prepare]'
    python tools/prepare_context.py VOCdevkit/VOC2010 --mat trainval

Needs VOC 2010 (VOCtrainval_03-May-2010.tar) and PASCAL-Context's .mat files of the 459 categories (trainval.tar.gz of
https://cs.stanford.edu/~roozbeh/pascal-context); trainval_merged.json of the Detail API holds the same labels and is
not read. Label maps that are there and whole are kept: after an interruption the same command goes on. Ends with the
counts beside the published 4,998 and 5,105 (all of VOC 2010's ImageSets/Main/{train,val}.txt), and
manifest_context.json. Exit code 1 when files are missing or could not be made.
"""

from __future__ import annotations

from jseg.runtime.command_line import run

from functools import partial
from pathlib import Path

import numpy as np

from jseg.data import preparation
from jseg.data.class_names import CONTEXT_IDS, voc_palette
from jseg.drawing import write_label_map
from jseg.errors import UserError

LISTS = Path("ImageSets") / "SegmentationContext"
LABELS = "SegmentationClassContext"
CATEGORIES = 459


def stored_values() -> np.ndarray:
    """(460,) uint8: category of the .mat files -> value in the PNG: 1..59 for the classes, 0 for everything else."""
    lookup = np.zeros(CATEGORIES + 1, np.uint8)
    lookup[list(CONTEXT_IDS)] = np.arange(1, len(CONTEXT_IDS) + 1)
    return lookup


def convert_map(images: Path, source: Path, target: Path) -> None:
    """Makes one palette PNG with values 0..59 from a .mat file.

    Raises:
        UserError: damaged source, values that are no categories, another size than the image in `images`.
    """
    categories = preparation.check_labels(
        preparation.read_mat(source, "LabelMap"), CATEGORIES, source, images / f"{target.stem}.jpg"
    )
    write_label_map(target, stored_values()[categories], voc_palette(256))


def make_lists(root: Path) -> dict[str, list[str]]:
    """Names of train and val: those in ImageSets/SegmentationContext, made from VOC 2010's Main lists if missing.

    Raises:
        UserError: neither is there, or an image is in both.
    """
    found = {}
    for section in ("train", "val"):
        path, main = root / LISTS / f"{section}.txt", root / "ImageSets" / "Main" / f"{section}.txt"
        if path.is_file():
            found[section] = preparation.read_list(path)
            continue
        if not main.is_file():
            raise UserError(f"neither {path} nor {main} exists: copy the lists of VOC 2010 there")
        found[section] = preparation.read_list(main)
        preparation.write_list(path, found[section])
        print(f"{LISTS / f'{section}.txt'}: the images of ImageSets/Main/{section}.txt")
    shared = sorted({*found["train"]} & {*found["val"]})
    if shared:
        raise UserError(f"{root / LISTS}: {len(shared)} names are in train.txt and val.txt, first {shared[0]}")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Makes lists and label maps, counts, writes the manifest; returns the exit code.

    Raises:
        UserError: missing folders, lists, .mat files or scipy.
    """
    parser = preparation.new_parser(__doc__ or "", "folder of VOC 2010, with JPEGImages in it")
    parser.add_argument("--mat", type=Path, help="folder of PASCAL-Context's .mat files")
    options = parser.parse_args(arguments)
    root, source, images = options.root, options.mat, options.root / "JPEGImages"
    preparation.require_folders(root, ("JPEGImages",), "PASCAL VOC 2010, VOCdevkit/VOC2010")
    if source is not None and not source.is_dir():
        raise UserError(f"--mat {source}: no such folder: give the one that holds PASCAL-Context's .mat files")
    lists = make_lists(root)
    splits = [preparation.SplitFiles(section, names, images, root / LABELS) for section, names in lists.items()]
    targets = [path for split in splits for path in split.label_maps()]
    pending = preparation.unfinished(
        [((source or Path()) / f"{path.stem}.mat", path) for path in targets], options.force
    )
    print(f"{LABELS}: {len(targets) - len(pending):,} label maps are there, {len(pending):,} to make")
    if pending and source is None:
        raise UserError(f"{len(pending):,} label maps must be made: pass --mat FOLDER of PASCAL-Context's .mat files")
    if pending:
        preparation.require_scipy()
    problems = preparation.convert_all(pending, partial(convert_map, images), options.workers, LABELS)
    return preparation.finish(root, "context", splits, problems, options.allow_partial)


if __name__ == "__main__":
    run(main)
