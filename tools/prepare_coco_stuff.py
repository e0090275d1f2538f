"""Makes the label maps of COCO-Stuff 164k: *_labelTrainIds.png beside the PNGs of stuffthingmaps.

    python tools/prepare_coco_stuff.py coco_stuff164k --workers 8

Needs images/{train,val}2017 (train2017.zip, val2017.zip of COCO) and annotations/{train,val}2017
(stuffthingmaps_trainval2017.zip of https://github.com/nightrome/cocostuff: ids 0..181 of which 11 never occur, 255 =
unlabelled). Label maps that are there and whole are kept: after an interruption the same command goes on. Ends with the
counts beside the published 118,287 and 5,000, and manifest_coco_stuff.json. Exit code 1 when files are missing or could
not be made.
"""

from __future__ import annotations

from jseg.runtime.command_line import run

from pathlib import Path

import cv2
import numpy as np

from jseg.data import preparation
from jseg.data.class_names import COCO_STUFF_IDS, IGNORED
from jseg.data.image_files import read_stored_labels
from jseg.errors import UserError
from jseg.files import write_whole

SUFFIX = "_labelTrainIds.png"
_NO_ID = -1


def training_ids() -> np.ndarray:
    """(256,) int16: id of stuffthingmaps -> training label, 255 for unlabelled, -1 for values that are no ids."""
    lookup = np.full(256, _NO_ID, np.int16)
    lookup[list(COCO_STUFF_IDS)] = np.arange(len(COCO_STUFF_IDS))
    lookup[IGNORED] = IGNORED
    return lookup


def convert_map(source: Path, target: Path) -> None:
    """Converts one PNG of stuffthingmaps to an 8-bit grey PNG of training labels.

    Raises:
        UserError: damaged source, values that are no ids, another size than the image.
    """
    stored = read_stored_labels(source)
    labels = training_ids()[stored]
    if (labels == _NO_ID).any():
        shown = ", ".join(map(str, np.unique(stored[labels == _NO_ID]).tolist()[:8]))
        raise UserError(f"{source}: values {shown} are no ids of stuffthingmaps (0..181 with 11 left out, 255)")
    preparation.check_labels(
        labels, IGNORED, source, source.parents[2] / "images" / source.parent.name / f"{source.stem}.jpg"
    )
    _, content = cv2.imencode(".png", labels.astype(np.uint8))
    write_whole(target, content.tobytes())


def main(arguments: list[str] | None = None) -> int:
    """Converts both splits, counts, writes the manifest; returns the exit code. UserError for missing folders."""
    parser = preparation.new_parser(__doc__ or "", "folder of COCO, with images and annotations in it")
    options = parser.parse_args(arguments)
    folders = [f"{kind}/{section}2017" for kind in ("images", "annotations") for section in ("train", "val")]
    preparation.require_folders(
        options.root, folders, "COCO 2017 with stuffthingmaps unpacked as annotations/{train,val}2017"
    )
    splits, problems = [], []
    for section in ("train", "val"):
        images, labels = (options.root / kind / f"{section}2017" for kind in ("images", "annotations"))
        sources = sorted(path for path in labels.glob("*.png") if not path.name.endswith(SUFFIX))
        jobs = [(path, labels / f"{path.stem}{SUFFIX}") for path in sources]
        pending = preparation.unfinished(jobs, options.force)
        print(f"{section}: {len(jobs) - len(pending):,} label maps are there, {len(pending):,} to make")
        problems += preparation.convert_all(pending, convert_map, options.workers, section)
        names = sorted(path.stem for path in images.glob("*.jpg"))
        splits.append(preparation.SplitFiles(section, names, images, labels, SUFFIX))
        if without := sorted({path.stem for path in sources} - {*names}):
            problems.append(f"{section}: {len(without)} label maps have no image, first {without[0]}")
    return preparation.finish(options.root, "coco_stuff", splits, problems, options.allow_partial)


if __name__ == "__main__":
    run(main)
