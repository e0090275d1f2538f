"""What a folder of images and label maps holds: which belong together, pixel values, and how a config names them.

No names of data sets are known here: an image and a label map belong together when their file names begin alike.
"""

import itertools
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

import numpy as np
from PIL import Image

from jseg.config import SplitConfig
from jseg.data.dataset import images_in
from jseg.data.image_files import read_stored_labels
from jseg.data.workers import map_in_order
from jseg.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
SECTION = re.compile(r"(train|val)(ing|id|idation|_?\d+)?", re.IGNORECASE)  # a folder of one of the two
MOST_READ = 5000  # label maps, evenly spread
VAL_SHARE = 5  # one of so many pairs is for val where nothing says which


@dataclass
class Pairs:
    """Images and label maps that belong together, as paths relative to the folder, and how their names end."""

    root: Path
    pairs: list[tuple[str, str]]
    image_suffixes: tuple[str, ...]
    label_suffix: str
    others: dict[str, int]  # other endings of label maps, with their numbers

    def files(self, pairs: Sequence[tuple[str, str]]) -> tuple[SplitConfig, list[str]]:
        """Folders and names of some of the pairs; UserError when the folders of images and labels do not go along."""
        sides = [[os.path.dirname(path) or "." for path in side] for side in zip(*pairs, strict=True)]
        images, labels = (os.path.commonpath(side) or "." for side in sides)
        if any(os.path.relpath(x, images) != os.path.relpath(y, labels) for x, y in zip(*sides, strict=True)):
            raise UserError(f"{self.root}: folders of images and label maps differ below {images} and {labels}")
        suffixes = self.image_suffixes if len(self.image_suffixes) > 1 else self.image_suffixes[0]
        found = (os.path.relpath(path, labels).removesuffix(self.label_suffix) for _, path in pairs)
        return SplitConfig(images, labels, "", suffixes, self.label_suffix), sorted(found)


def _kind(path: Path) -> str:
    """`labels` for a PNG that could be a label map (palette, 8-bit grey), `grey` for other grey ones, `image` or ""."""
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        return ""
    with open(path, "rb") as file:
        head = file.read(26)
    depth, colour_type = head[24:] if head[:4] == b"\x89PNG" and len(head) == 26 else (8, 2)
    return "labels" if colour_type == 3 or (depth, colour_type) == (8, 0) else "image" if colour_type else "grey"


def _endings(paths: Iterable[str]) -> list[str]:
    """How many file names end without their suffix, the commonest first: "", "_mask", "_gtFine_labelIds"."""
    found = Counter({"": 1 << 30})
    for path in paths:
        stem = PurePath(path).stem
        found.update(stem[match.start() :] for match in re.finditer(r"[_.-]", stem) if match.start())
    return sorted(found, key=lambda end: (-found[end], len(end)))[:12]


def find_pairs(root: Path, label_folder: str = "") -> Pairs:
    """The images below a folder and their label maps (below `label_folder` in it), or a UserError that says why not."""
    files: dict[str, list[str]] = defaultdict(list)
    for folder, _, names in os.walk(root):
        for path in (Path(folder, name) for name in sorted(names) if not name.startswith(".")):
            files[_kind(path)].append(os.path.relpath(path, root))
    images, labels = files["image"], [path for path in files["labels"] if Path(path).is_relative_to(label_folder)]
    if not (images and labels):
        lacking = "images" if labels else "label maps (palette or 8-bit grey PNGs of class numbers)"
        odd = any(path.endswith(".png") for path in images + files["grey"])
        hint = ", but masks drawn in colours or not of 8 bits" if odd and not labels else ""
        raise UserError(f"{root}: {len(images)} images, {len(labels)} label maps: no {lacking} there{hint}")

    def keys(paths: Sequence[str], end: str) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for path in paths:
            if (stem := PurePath(path).stem).endswith(end):
                found[stem.removesuffix(end)].append(path)
        return found

    by_image, by_label = ({end: keys(paths, end) for end in _endings(paths)} for paths in (images, labels))
    common = {(i, l): len(x.keys() & y.keys()) for i, x in by_image.items() for l, y in by_label.items()}  # noqa: E741

    def rank(ends: tuple[str, str]) -> tuple:  # TrainIds: of Cityscapes and COCO-Stuff, made for training
        return common[ends], "trainid" in ends[1].lower(), "color" not in ends[0].lower(), -len("".join(ends))

    best = max(common, key=rank)
    if not common[best]:
        text = f"{len(images)} images such as {images[0]}, {len(labels)} label maps such as {labels[0]}"
        raise UserError(f"{root}: {text}: no two names begin alike")
    pairs, candidates = [], by_image[best[0]]
    for key, paths in by_label[best[1]].items():
        for path in paths if key in candidates else ():
            parts = {*PurePath(path).parts}
            same = {image: (len(parts & {*PurePath(image).parts}), image[-4:] != ".png") for image in candidates[key]}
            pairs.append((max(same, key=same.__getitem__), path))
    pairs.sort()
    for (image, first), (again, second) in itertools.pairwise(pairs):
        if image == again:
            raise UserError(f"{root}: {image} has several label maps, {first} and {second}: name a folder by --labels")
    used = Counter(os.path.splitext(image)[1] for image, _ in pairs)
    others = {end: common[best[0], end] for end in by_label if end != best[1] and common[best[0], end]}
    return Pairs(root, pairs, tuple(best[0] + end for end, _ in used.most_common()), f"{best[1]}.png", others)


def find_splits(found: Pairs) -> tuple[dict[str, tuple[SplitConfig, list[str]]], str, int]:
    """For train and val its folders and the names for a list that must be made ([] = none); what told them apart.

    And the number of pairs for training.
    """
    by_folder: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for pair in found.pairs:
        parts = [SECTION.fullmatch(part) for path in pair for part in PurePath(path).parts[:-1]]
        by_folder[next((part[1].lower() for part in parts if part), "")].append(pair)
    if by_folder["train"] and by_folder["val"]:
        splits = {name: found.files(by_folder[name]) for name in ("train", "val")}
        alone = {name: images_in(found.root, files) == names for name, (files, names) in splits.items()}
        splits = {name: (files, [] if alone[name] else names) for name, (files, names) in splits.items()}
        return splits, "folders", len(by_folder["train"])
    files, names = found.files(found.pairs)
    lists, counts = {}, {}
    for path in sorted(found.root.rglob("*.txt")):
        lines = path.read_text("utf-8", "replace").split() if path.stem in ("train", "val") else []
        if lines and {*lines} <= {*names}:
            lists[path.stem], counts[path.stem] = os.path.relpath(path, found.root), len(lines)
    if len(lists) == 2:
        splits = {name: (replace(files, names=lists[name]), []) for name in ("train", "val")}
        return splits, "lists", counts["train"]
    val = names[VAL_SHARE - 1 :: VAL_SHARE] or names[-1:]
    train = sorted({*names} - {*val})
    return {"train": (files, train), "val": (replace(files), val)}, "", len(train)


@dataclass
class Values:
    """What some of the label maps hold."""

    maps: int  # read
    holding: np.ndarray  # (256,) int64: label maps that hold each value
    pixels: np.ndarray  # (256,) int64
    sizes: list[tuple[int, int]]  # width, height of each image
    palette: np.ndarray | None  # (256, 3) uint8 of the first label map; None = grey


def read_values(found: Pairs) -> Values:
    """Reads at most `MOST_READ` label maps and the sizes of their images, with threads."""
    chosen = [found.pairs[i] for i in np.linspace(0, len(found.pairs) - 1, MOST_READ).round().astype(int)]

    def count(image: str, labels: str) -> tuple[np.ndarray, tuple[int, int]]:
        with Image.open(found.root / image) as opened:  # reads no pixels
            return np.bincount(read_stored_labels(found.root / labels).ravel(), minlength=256), opened.size

    results = [*map_in_order(count, dict.fromkeys(chosen), 4, threads=True)]
    pixels = np.array([counts for counts, _ in results])
    with Image.open(found.root / chosen[0][1]) as first:
        palette = first.mode == "P" and np.resize(np.array(first.getpalette("RGB"), np.uint8), (256, 3))
    sizes = [size for _, size in results]
    return Values(len(results), (pixels > 0).sum(0), pixels.sum(0), sizes, None if palette is False else palette)
