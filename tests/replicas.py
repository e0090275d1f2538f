"""Small replicas of the paper's data sets in their real folder layouts and file formats, as they are downloaded.

Every class occurs in train and in val; each image shows its label map in one colour per class, so a model can learn
it. What the preparation tools make is not there yet.
"""

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from scipy.io import savemat

from jseg.data.class_names import voc_palette
from tools.prepare_coco_stuff import COCO_STUFF_IDS
from tools.prepare_context import CONTEXT_IDS

SIZE = (72, 96)  # height, width of an image
_BLOCK = 12  # pixels a side of the smallest labelled block
_SHOWN_COLOURS = voc_palette(256)


@dataclass(frozen=True)
class Replica:
    """A data set before preparation."""

    root: Path
    train: list[str]
    val: list[str]
    aug: list[str] = field(default_factory=list)
    sources: Path = Path()  # of .mat files: SBD or PASCAL-Context's label files


def class_maps(values: list[int], images: int, seed: int, background: int | None) -> list[np.ndarray]:
    """Label maps, (H, W) int, made of blocks, in which each of `values` occurs at least once.

    With a `background` value two thirds of each image hold it.
    """
    rng = np.random.default_rng(seed)
    rows, columns = SIZE[0] // _BLOCK, SIZE[1] // _BLOCK
    share = max(2, -(-len(values) // images))
    filled = rows * columns if background is None else rows * columns // 3
    found = []
    for own in np.resize(rng.permutation(values), (images, share)):
        cells = np.full(rows * columns, background if background is not None else 0, np.int32)
        cells[:filled] = np.resize(own, filled)
        cells = rng.permutation(cells).reshape(rows, columns)
        found.append(cv2.resize(cells, SIZE[::-1], interpolation=cv2.INTER_NEAREST))
    return found


def save_image(path: Path, labels: np.ndarray, seed: int) -> None:
    """Writes a JPEG that shows each label in a colour of its own, with noise."""
    noise = np.random.default_rng(seed).integers(-20, 21, (*labels.shape, 3))
    image = np.clip(_SHOWN_COLOURS[labels % 256].astype(np.int32) + noise, 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=95)


def save_palette_png(path: Path, stored: np.ndarray) -> None:
    """Writes a palette PNG as PASCAL VOC's masks are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(stored.astype(np.uint8))
    image.putpalette(voc_palette(256).tobytes())
    image.save(path)


def save_list(path: Path, names: list[str]) -> None:
    """Writes names, one a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))


def _numbered(prefix: str, count: int) -> list[str]:
    return [f"{prefix}_{index:06}" for index in range(1, count + 1)]


def save_sbd_mask(path: Path, labels: np.ndarray) -> None:
    """Writes a mask as SBD's cls/*.mat files hold it, without the boundaries that nothing reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"GTcls": {"Segmentation": labels.astype(np.uint8)}}, do_compression=True)


def make_voc12(folder: Path) -> Replica:
    """VOC 2012 below `folder`/VOCdevkit and SBD in `folder`/benchmark_RELEASE.

    SBD has all images of aug and half of those of train and val, some of which VOC keeps for evaluation.
    """
    root, sbd = folder / "VOCdevkit" / "VOC2012", folder / "benchmark_RELEASE"
    names = {"train": _numbered("2007", 4), "aug": _numbered("2008", 6), "val": _numbered("2009", 8)}
    maps = class_maps(list(range(1, 21)), 10, 1, 0) + class_maps(list(range(1, 21)), 8, 2, 0)
    in_sbd = {*names["aug"], *names["train"][::2], *names["val"][::2]}
    for index, (name, labels) in enumerate(zip([*names["train"], *names["aug"], *names["val"]], maps, strict=True)):
        save_image(root / "JPEGImages" / f"{name}.jpg", labels, index)
        if name not in names["aug"]:
            stored = labels.copy()
            stored[:, 1:][labels[:, 1:] != labels[:, :-1]] = 255  # VOC's border
            save_palette_png(root / "SegmentationClass" / f"{name}.png", stored)
        if name in in_sbd:
            save_sbd_mask(sbd / "dataset" / "cls" / f"{name}.mat", labels)
    for section in ("train", "val"):
        save_list(root / "ImageSets" / "Segmentation" / f"{section}.txt", names[section])
    save_list(sbd / "dataset" / "train.txt", names["val"][::2] + names["aug"][::2])
    save_list(sbd / "dataset" / "val.txt", names["aug"][1::2] + names["train"][::2])
    return Replica(root, sources=sbd, **names)


def make_coco_stuff(folder: Path) -> Replica:
    """COCO 2017 below `folder`/coco_stuff164k, label maps with the ids of stuffthingmaps."""
    root, names = folder / "coco_stuff164k", {"train": _numbered("3", 8), "val": _numbered("4", 8)}
    for section, seed in (("train", 3), ("val", 4)):
        maps = class_maps(list(COCO_STUFF_IDS), len(names[section]), seed, None)
        path = root / "annotations" / f"{section}2017"
        path.mkdir(parents=True)
        for index, (name, labels) in enumerate(zip(names[section], maps, strict=True)):
            stored = labels.astype(np.uint8)
            stored[-5:] = 255
            save_image(root / "images" / f"{section}2017" / f"{name}.jpg", labels, index)
            Image.fromarray(stored).save(path / f"{name}.png")
    return Replica(root, **names)


def make_context(folder: Path) -> Replica:
    """VOC 2010 below `folder`/VOCdevkit, PASCAL-Context's label files in `folder`/trainval."""
    root, mat_files = folder / "VOCdevkit" / "VOC2010", folder / "trainval"
    names = {"train": _numbered("2008", 6), "val": _numbered("2009", 6)}
    mat_files.mkdir(parents=True)
    other = [category for category in range(1, 460) if category not in CONTEXT_IDS]
    for section, seed in (("train", 5), ("val", 6)):
        maps = class_maps(list(CONTEXT_IDS), len(names[section]), seed, None)
        for index, (name, labels) in enumerate(zip(names[section], maps, strict=True)):
            categories = labels.copy()
            categories[-5:] = other[(7 * index) % len(other)]
            categories[-3:] = 0
            save_image(root / "JPEGImages" / f"{name}.jpg", labels, index)
            savemat(mat_files / f"{name}.mat", {"LabelMap": categories.astype(np.uint16)}, do_compression=True)
        save_list(root / "ImageSets" / "Main" / f"{section}.txt", names[section])
    return Replica(root, sources=mat_files, **names)


def make_ade20k(folder: Path) -> Replica:
    """ADE20K's 150 classes as ADEChallengeData2016.zip holds them, in `folder`; label 0 is "other"."""
    root, names = folder / "ADEChallengeData2016", {"train": [], "val": []}
    for section, long, seed in (("train", "training", 9), ("val", "validation", 10)):
        names[section] = [f"ADE_{section}_{number:08}" for number in range(1, 9)]
        maps = class_maps(list(range(151)), 8, seed, None)
        (root / "annotations" / long).mkdir(parents=True)
        for index, (name, labels) in enumerate(zip(names[section], maps, strict=True)):
            save_image(root / "images" / long / f"{name}.jpg", labels, index)
            Image.fromarray(labels.astype(np.uint8)).save(root / "annotations" / long / f"{name}.png")
    return Replica(root, **names)


def make_own(folder: Path, layout: str) -> Path:
    """Data of a user's own, 10 images of train and 4 of val, laid out as VOC (classes 1..4) or Cityscapes (0..3)."""
    root, voc = folder / "streets", layout == "voc"
    names = {"train": _numbered("a", 10), "val": _numbered("b", 4)}
    for section, seed in (("train", 7), ("val", 8)):
        maps = class_maps([1, 2, 3, 4], len(names[section]), seed, 0 if voc else None)
        for index, (name, labels) in enumerate(zip(names[section], maps, strict=True)):
            stored = labels if voc else labels - 1
            stored[-5:] = 255
            if voc:
                save_image(root / "JPEGImages" / f"{name}{('.jpg', '.jpeg', '.png')[index % 3]}", labels, index)
                save_palette_png(root / "SegmentationClass" / f"{name}.png", stored)
                save_palette_png(root / "SegmentationObject" / f"{name}.png", stored)
            else:
                path = Path(section, ("aachen", "bonn")[index % 2], name)
                save_image(root / "leftImg8bit" / f"{path}_leftImg8bit.png", labels, index)
                save_image(root / "gtFine" / f"{path}_gtFine_color.png", labels, index)
                for end, shift in (("labelTrainIds", 0), ("labelIds", 7)):
                    Image.fromarray((stored + shift).astype(np.uint8)).save(
                        root / "gtFine" / f"{path}_gtFine_{end}.png"
                    )
        if voc:
            save_list(root / "ImageSets" / "Segmentation" / f"{section}.txt", names[section])
    return root
