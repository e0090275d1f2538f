"""Makes the label maps of COCO-Stuff 164k: *_labelTrainIds.png beside the PNGs of stuffthingmaps.

    python tools/prepare_coco_stuff.py coco_stuff164k --workers 8

Needs annotations/{train,val}2017 (stuffthingmaps_trainval2017.zip of https://github.com/nightrome/cocostuff: ids 0..181
of which 11 never occur, 255 = unlabelled); training needs images/{train,val}2017 (train2017.zip, val2017.zip of COCO)
beside it. Label maps that are there are kept: after an interruption the same command goes on. Exit code 1 when some
could not be made.
"""

from jseg.runtime.command_line import run

from pathlib import Path

import cv2
import numpy as np

from jseg.data import preparation
from jseg.data.class_names import IGNORED
from jseg.data.image_files import read_stored_labels
from jseg.errors import UserError, listed
from jseg.files import write_whole

SUFFIX = "_labelTrainIds.png"
# Ids of COCO's stuffthingmaps; in order they are the training labels 0..170.
# https://github.com/nightrome/cocostuff (labels.txt, counted from 0)
COCO_STUFF_IDS = tuple(value for value in range(182) if value not in (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90))
_NO_ID = -1


def training_ids() -> np.ndarray:
    """(256,) int16: id of stuffthingmaps -> training label, 255 for unlabelled, -1 for values that are no ids."""
    lookup = np.full(256, _NO_ID, np.int16)
    lookup[list(COCO_STUFF_IDS)] = np.arange(len(COCO_STUFF_IDS))
    lookup[IGNORED] = IGNORED
    return lookup


def convert_map(source: Path, target: Path) -> None:
    """Converts one PNG of stuffthingmaps to an 8-bit grey PNG of training labels; UserError for a bad source."""
    stored = read_stored_labels(source)
    labels = training_ids()[stored]
    if (labels == _NO_ID).any():
        values = listed(np.unique(stored[labels == _NO_ID]).tolist())
        raise UserError(f"{source}: values {values} are no ids of stuffthingmaps (0..181 with 11 left out, 255)")
    write_whole(target, cv2.imencode(".png", labels.astype(np.uint8))[1].tobytes())


def main(arguments: list[str] | None = None) -> int:
    """Converts both splits; returns the exit code."""
    parser = preparation.new_parser(__doc__ or "", "folder of COCO, with images and annotations in it")
    options = parser.parse_args(arguments)
    folders = ["annotations/train2017", "annotations/val2017"]
    what = "COCO 2017 with stuffthingmaps unpacked as annotations/{train,val}2017"
    preparation.require_folders(options.root, folders, what)
    sources = sorted(path for folder in folders for path in (options.root / folder).glob("*.png"))
    jobs = [(path, path.with_name(path.stem + SUFFIX)) for path in sources if not path.name.endswith(SUFFIX)]
    return preparation.convert_all(jobs, convert_map, options.workers)


if __name__ == "__main__":
    run(main)
