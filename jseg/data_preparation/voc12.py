"""PASCAL VOC 2012 aug: masks and lists of the 10,582 training pictures, from VOC 2012 and SBD.

SBD (Semantic Boundaries Dataset, http://home.bharathh.info/pubs/codes/SBD) has coarser masks of 11,355 pictures of VOC,
among them val pictures, and lacks 676 of VOC's own 2,913. So the masks of train.txt (1,464) are VOC's own, those of
aug.txt (9,118) are SBD's: aug.txt is SBD's train and val lists without the names of VOC's train.txt and val.txt.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from jseg.data.class_names import class_list, voc_palette
from jseg.data.image_files import read_stored_labels
from jseg.data.label_maps import class_labels
from jseg.data_preparation.conversion import Job, convert_all, unfinished
from jseg.data_preparation.lists import check_size, read_list, require_folders, write_list
from jseg.data_preparation.manifest import SplitFiles, finish
from jseg.data_preparation.mat_files import as_label_array, read_variable, require_scipy
from jseg.drawing import write_label_map
from jseg.errors import UserError
from jseg.files import write_whole

LISTS = Path("ImageSets") / "Segmentation"
TOOL = "tools/prepare_voc12.py"
_CLASSES = 20


def sbd_folder(folder: Path) -> Path:
    """The folder of SBD that holds `cls`: `folder` itself or benchmark_RELEASE/dataset below it.

    Raises:
        UserError: there is none.
    """
    for candidate in (folder, folder / "dataset", folder / "benchmark_RELEASE" / "dataset"):
        if (candidate / "cls").is_dir():
            return candidate
    raise UserError(f"--sbd {folder}: no folder cls with SBD's .mat files in it, nor in dataset/ below it")


def make_lists(root: Path, sbd: Path | None) -> tuple[list[str], list[str], list[str]]:
    """Names of train, aug and val; aug.txt and trainaug.txt are written where they are missing.

    A missing aug.txt is trainaug.txt without train.txt, else SBD's train.txt and val.txt without VOC's, sorted.

    Raises:
        UserError: a list is missing or contradicts another.
    """
    lists = root / LISTS
    train, val = read_list(lists / "train.txt"), read_list(lists / "val.txt")
    own, held_out = set(train), set(val)
    if (lists / "aug.txt").is_file():
        aug = read_list(lists / "aug.txt")
    elif (lists / "trainaug.txt").is_file():
        aug = [name for name in read_list(lists / "trainaug.txt") if name not in own]
        print("aug.txt: trainaug.txt without train.txt")
    elif sbd is not None:
        names = {*read_list(sbd / "train.txt"), *read_list(sbd / "val.txt")}
        aug = sorted(names - own - held_out)
        print(f"aug.txt: SBD's train.txt and val.txt ({len(names):,} names) without VOC's train.txt and val.txt")
    else:
        raise UserError(f"{lists / 'aug.txt'} does not exist: pass --sbd FOLDER, whose lists it can be made from")
    for other, names in (("train.txt", own), ("val.txt", held_out)):
        shared = sorted(names & set(aug))
        if shared:
            raise UserError(
                f"{lists / 'aug.txt'}: {len(shared)} names are also in {other}, first {shared[0]}: remove the file to "
                "have it made from SBD's lists"
            )
    path = lists / "trainaug.txt"
    if path.is_file() and set(read_list(path)) != own | set(aug):
        raise UserError(f"{path} is not train.txt and aug.txt together: remove it to have it made anew")
    for missing, names in ((lists / "aug.txt", aug), (path, train + aug)):
        if not missing.is_file():
            write_list(missing, names)
    return train, aug, val


def convert_mask(images: Path, source: Path, target: Path) -> None:
    """Makes one mask of SegmentationClassAug: SBD's .mat as a palette PNG, VOC's own PNG as it is.

    Raises:
        UserError: damaged source, values that are no classes, another size than the picture in `images`.
    """
    picture = images / f"{target.stem}.jpg"
    if source.suffix != ".mat":
        stored = read_stored_labels(source)
        class_labels(stored, class_list("voc12"), str(source))
        check_size(picture, stored.shape, source)
        write_whole(target, source.read_bytes())
        return
    structure = read_variable(source, "GTcls")
    try:
        segmentation = structure["Segmentation"][0, 0]
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{source}: GTcls has no Segmentation: it is not one of SBD's cls files") from error
    labels = as_label_array(segmentation, source, _CLASSES)
    check_size(picture, labels.shape, source)
    write_label_map(target, labels, voc_palette(256))


def make_masks(
    root: Path, sbd: Path | None, train: Sequence[str], aug: Sequence[str], workers: int, force: bool
) -> list[str]:
    """Makes the masks that are missing in SegmentationClassAug; returns what went wrong.

    Raises:
        UserError: SBD or scipy is needed and not there.
    """
    target = root / "SegmentationClassAug"
    own = [Job(root / "SegmentationClass" / f"{name}.png", target / f"{name}.png") for name in train]
    cls = Path("cls") if sbd is None else sbd / "cls"
    others = unfinished([Job(cls / f"{name}.mat", target / f"{name}.png") for name in aug], force)
    jobs = unfinished(own, force) + others
    print(f"SegmentationClassAug: {len(train) + len(aug) - len(jobs):,} masks are there, {len(jobs):,} to make")
    if others and sbd is None:
        raise UserError(f"{len(others):,} masks of aug.txt must be made from SBD: pass --sbd FOLDER")
    if others:
        require_scipy()
    return convert_all(jobs, partial(convert_mask, root / "JPEGImages"), workers, "SegmentationClassAug")


def prepare(root: Path, sbd: Path | None, workers: int, force: bool = False, allow_partial: bool = False) -> int:
    """Makes lists and masks, counts, writes the manifest; returns the exit code of a tool.

    Args:
        root: VOC 2012 (`VOCdevkit/VOC2012`).
        sbd: SBD; None when nothing of it is needed any more.
        workers: processes; 0 = in this process.
        force: make masks anew that are there.
        allow_partial: another number of pictures than the published one is meant.

    Raises:
        UserError: missing folders or lists.
    """
    require_folders(root, ("JPEGImages", "SegmentationClass", str(LISTS)), "PASCAL VOC 2012, VOCdevkit/VOC2012")
    if sbd is not None:
        sbd = sbd_folder(sbd)
    train, aug, val = make_lists(root, sbd)
    problems = make_masks(root, sbd, train, aug, workers, force)
    splits = [
        _split(root, "train", train + aug, "SegmentationClassAug"),
        _split(root, "val", val, "SegmentationClass"),
    ]
    print(f"train: {len(train):,} masks of VOC (train.txt), {len(aug):,} of SBD (aug.txt)")
    return finish(root, "voc12", splits, problems, allow_partial, TOOL)


def _split(root: Path, section: str, names: Sequence[str], labels: str) -> SplitFiles:
    images = [root / "JPEGImages" / f"{name}.jpg" for name in names]
    return SplitFiles(section, names, images, [root / labels / f"{name}.png" for name in names])
