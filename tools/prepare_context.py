"""Makes the label maps and lists of PASCAL Context with 59 classes: SegmentationClassContext, SegmentationContext.

    pip install -e '.[prepare]'
    python tools/prepare_context.py VOCdevkit/VOC2010 --mat trainval
    python tools/prepare_context.py VOCdevkit/VOC2010 --json trainval_merged.json

Needs VOC 2010 (VOCtrainval_03-May-2010.tar) and PASCAL-Context's .mat files of the 459 categories (trainval.tar.gz of
https://cs.stanford.edu/~roozbeh/pascal-context), or the file that the Detail API reads
(https://github.com/zhanghang1989/detail-api): images with their `image_id`, and `annos_segmentation`, a mask in COCO's
run-length code for each category in an image. The lists are VOC 2010's ImageSets/Main/{train,val}.txt. Label maps that
are there are kept: after an interruption the same command goes on. Exit code 1 when some could not be made.
"""

from jseg.runtime.command_line import run

import json
from collections import defaultdict
from functools import partial
from pathlib import Path

import numpy as np

from jseg.data import preparation
from jseg.data.class_names import voc_palette
from jseg.data.dataset import read_names
from jseg.drawing import write_label_map
from jseg.errors import UserError
from jseg.files import write_whole

LISTS = Path("ImageSets") / "SegmentationContext"
LABELS = "SegmentationClassContext"
CATEGORIES = 459
# Ids of the class list, in order, among the 459 categories of PASCAL-Context's label files; any other id is background.
# https://cs.stanford.edu/~roozbeh/pascal-context
CONTEXT_IDS = (
    2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144, 158, 159,
    162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355, 360, 366, 368,
    397, 415, 416, 420, 424, 427, 440, 445, 454, 458,
)  # fmt: skip


def stored_values() -> np.ndarray:
    """(460,) uint8: category of the .mat files -> value in the PNG: 1..59 for the classes, 0 for everything else."""
    lookup = np.zeros(CATEGORIES + 1, np.uint8)
    lookup[list(CONTEXT_IDS)] = np.arange(1, len(CONTEXT_IDS) + 1)
    return lookup


def convert_map(source: Path, target: Path) -> None:
    """Makes one palette PNG with values 0..59 from a .mat file; UserError for a bad source."""
    categories = preparation.read_mat_labels(source, "LabelMap", CATEGORIES)
    write_label_map(target, stored_values()[categories], voc_palette(256))


def decode_mask(counts: str, size: tuple[int, int]) -> np.ndarray:
    """A mask in COCO's compressed run-length code as (H, W) bool; `size` is its (height, width).

    Runs go down the columns, the first of them outside. A character holds 5 bits, the lowest first, and whether more
    follow; from the fourth on a run is stored as its difference to the last but one.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (1 << shift) * bool(bits & 16)  # the highest bit is the sign
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size[::-1]).T


def read_json(path: Path) -> dict[str, list[dict]]:
    """Annotations of each image in trainval_merged.json by its name; UserError when it is another file."""
    try:
        content, annotations = json.loads(path.read_bytes()), defaultdict(list)
        for annotation in content["annos_segmentation"]:
            annotations[annotation["image_id"]].append(annotation)
        return {Path(image["file_name"]).stem: annotations[image["image_id"]] for image in content["images"]}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path} is not trainval_merged.json of the Detail API: {error!r}") from error


def convert_annotations(images: dict[str, list[dict]], source: Path, target: Path) -> None:
    """Makes one palette PNG with values 0..59 from the annotations of the image that `source` names."""
    try:
        categories = np.zeros(images[source.name][0]["segmentation"]["size"], np.int32)
        for annotation in images[source.name]:
            mask = decode_mask(annotation["segmentation"]["counts"], categories.shape)
            categories[mask] = annotation["category_id"]
        stored = stored_values()[categories]
    except (LookupError, ValueError, TypeError) as error:
        raise UserError(f"{source.name}: no annotations that can be read in the .json file: {error!r}") from error
    write_label_map(target, stored, voc_palette(256))


def read_lists(root: Path) -> dict[str, list[str]]:
    """Names of train and val: those in ImageSets/SegmentationContext, made from VOC 2010's Main lists if missing."""
    found = {}
    for section in ("train", "val"):
        path, main_list = root / LISTS / f"{section}.txt", root / "ImageSets" / "Main" / f"{section}.txt"
        found[section] = read_names(path if path.is_file() else main_list)
        if not path.is_file():
            write_whole(path, "".join(f"{name}\n" for name in found[section]).encode())
            print(f"{LISTS / f'{section}.txt'}: the images of ImageSets/Main/{section}.txt")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Makes lists and label maps; returns the exit code."""
    parser = preparation.new_parser(__doc__ or "", "folder of VOC 2010, with JPEGImages in it")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--mat", type=Path, help="folder of PASCAL-Context's .mat files")
    source.add_argument("--json", type=Path, help="trainval_merged.json")
    options = parser.parse_args(arguments)
    preparation.require_folders(options.root, ("JPEGImages",), "PASCAL VOC 2010, VOCdevkit/VOC2010")
    names = [name for section in read_lists(options.root).values() for name in section]
    targets = [options.root / LABELS / f"{name}.png" for name in names]
    if options.json:
        convert = partial(convert_annotations, read_json(options.json))
        return preparation.convert_all([*zip(map(Path, names), targets, strict=True)], convert, workers=0)
    jobs = [(options.mat / f"{name}.mat", target) for name, target in zip(names, targets, strict=True)]
    return preparation.convert_all(jobs, convert_map, options.workers)


if __name__ == "__main__":
    run(main)
