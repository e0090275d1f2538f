"""Makes the masks and lists of PASCAL VOC 2012 aug: SegmentationClassAug, aug.txt and trainaug.txt.

    pip install -e '.[prepare]'
    python tools/prepare_voc12.py VOCdevkit/VOC2012 --sbd benchmark_RELEASE    # or: VOCdevkit benchmark_RELEASE

Needs VOC 2012 (VOCtrainval_11-May-2012.tar) and SBD (benchmark.tgz, http://home.bharathh.info/pubs/codes/SBD). SBD has
coarser masks of 11,355 images of VOC, among them val images, and lacks 676 of VOC's own 2,913. So the masks of
train.txt (1,464) are VOC's own, those of aug.txt (9,118) SBD's: aug.txt is SBD's train and val lists without the names
of VOC's. Masks that are there are kept: after an interruption the same command goes on. A SegmentationClassAug that
another program made holds SBD's masks of train.txt as well: --overwrite replaces these by VOC's own. Exit code 1 when
some could not be made.
"""

from jseg.runtime.command_line import run

from pathlib import Path

import numpy as np

from jseg.data import preparation
from jseg.data.class_names import class_labels, class_list, voc_palette
from jseg.data.dataset import read_names
from jseg.data.image_files import read_stored_labels
from jseg.data.workers import map_in_order
from jseg.drawing import write_label_map
from jseg.errors import UserError
from jseg.files import write_whole
from jseg.outputs import is_ours

LISTS = Path("ImageSets") / "Segmentation"
MASKS = "SegmentationClassAug"


def sbd_folder(folder: Path) -> Path:
    """The folder of SBD that holds `cls`: `folder` itself or (benchmark_RELEASE/)dataset below it; else UserError."""
    for candidate in (folder, folder / "dataset", folder / "benchmark_RELEASE" / "dataset"):
        if (candidate / "cls").is_dir():
            return candidate
    raise UserError(f"--sbd {folder}: no folder cls with SBD's .mat files in it, nor in dataset/ below it")


def read_lists(root: Path, sbd: Path) -> tuple[list[str], list[str]]:
    """Names of train and aug; aug.txt and trainaug.txt are written where they are missing.

    A missing aug.txt is trainaug.txt without train.txt, else SBD's train.txt and val.txt without VOC's, sorted.

    Raises:
        UserError: a list is missing or contradicts another.
    """
    lists = root / LISTS
    train, val = read_names(lists / "train.txt"), read_names(lists / "val.txt")
    if (lists / "aug.txt").is_file():
        aug = read_names(lists / "aug.txt")
    elif (lists / "trainaug.txt").is_file():
        aug = [name for name in read_names(lists / "trainaug.txt") if name not in {*train}]
        print("aug.txt: trainaug.txt without train.txt")
    else:
        names = {*read_names(sbd / "train.txt"), *read_names(sbd / "val.txt")}
        aug = sorted(names - {*train, *val})
        print(f"aug.txt: SBD's train.txt and val.txt ({len(names):,} names) without VOC's train.txt and val.txt")
    if shared := sorted({*train, *val} & {*aug}):
        raise UserError(
            f"{lists / 'aug.txt'}: {len(shared)} names are also in train.txt or val.txt, first {shared[0]}: remove the "
            "file to have it made from SBD's lists"
        )
    path = lists / "trainaug.txt"
    if path.is_file() and {*read_names(path)} != {*train, *aug}:
        raise UserError(f"{path} is not train.txt and aug.txt together: remove it to have it made anew")
    for missing, names in ((lists / "aug.txt", aug), (path, train + aug)):
        if not missing.is_file():
            write_whole(missing, "".join(f"{name}\n" for name in names).encode())
    return train, aug


def convert_mask(source: Path, target: Path) -> None:
    """Makes one mask: SBD's .mat as a palette PNG, VOC's own PNG as it is; UserError for a bad source."""
    if source.suffix == ".mat":
        labels = preparation.read_mat_labels(source, "GTcls", 20, "Segmentation")
        write_label_map(target, labels, voc_palette(256))
    else:
        class_labels(read_stored_labels(source), class_list("voc12"), str(source))
        write_whole(target, source.read_bytes())


def is_other(own: Path, mask: Path) -> bool:
    """Whether a mask is there and differs from VOC's own."""
    if not mask.is_file() or mask.read_bytes() == own.read_bytes():
        return False
    return not np.array_equal(read_stored_labels(own), read_stored_labels(mask))


def main(arguments: list[str] | None = None) -> int:
    """Makes lists and masks; returns the exit code."""
    parser = preparation.new_parser(__doc__ or "", "folder of VOC 2012, with JPEGImages in it")
    parser.add_argument("--sbd", type=Path, help="benchmark_RELEASE, or the folder that holds cls")
    parser.add_argument("aug", type=Path, nargs="?", help="the same as --sbd")
    parser.add_argument("--overwrite", action="store_true", help="replace masks of train.txt that are not VOC's own")
    options = parser.parse_args(arguments)
    if (options.sbd is None) == (options.aug is None):
        raise UserError("give the folder of SBD, once: --sbd benchmark_RELEASE")
    root, sbd = options.root, sbd_folder(options.sbd or options.aug)
    if not (root / "JPEGImages").is_dir() and (root / "VOC2012").is_dir():
        root = root / "VOC2012"  # of VOCdevkit
    own, masks = root / "SegmentationClass", root / MASKS
    folders = ("JPEGImages", "SegmentationClass", str(LISTS))
    preparation.require_folders(root, folders, "PASCAL VOC 2012, VOCdevkit/VOC2012")
    train, aug = read_lists(root, sbd)
    own_jobs = [(own / f"{name}.png", masks / f"{name}.png") for name in train]
    aug_jobs = [(sbd / "cls" / f"{name}.mat", masks / f"{name}.png") for name in aug]
    found = map_in_order(is_other, own_jobs, options.workers)
    others = [mask for (_, mask), other in zip(own_jobs, found, strict=True) if other]
    replaced = [mask for mask in others if options.overwrite or is_ours(mask)]
    there = [sum(mask.is_file() for _, mask in jobs) for jobs in (own_jobs, aug_jobs)]
    print(f"train.txt: {len(train):,} masks of VOC, {there[0] - len(others):,} of them are in {MASKS}", end="")
    print(f", {len(others):,} there are not VOC's own (SBD's?): {len(replaced):,} of these are replaced")
    if kept := len(others) - len(replaced):
        print(f"{kept:,} stay, since jseg did not write them: --overwrite replaces them by VOC's own. jseg's configs")
        print("do not read them: they take masks of train.txt from SegmentationClass")
    print(f"aug.txt: {len(aug):,} masks of SBD, {there[1]:,} files are there and stay as they are")
    return preparation.convert_all(own_jobs + aug_jobs, convert_mask, options.workers, replaced)


if __name__ == "__main__":
    run(main)
