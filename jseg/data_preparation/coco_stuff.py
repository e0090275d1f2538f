"""COCO-Stuff 164k: `*_labelTrainIds.png` with training labels 0..170 beside the PNGs of stuffthingmaps.

The stuffthingmaps (https://github.com/nightrome/cocostuff, stuffthingmaps_trainval2017.zip) hold ids 0..181 of which 11
never occur, and 255 = unlabelled. Layout: images/{train,val}2017/*.jpg, annotations/{train,val}2017/*.png.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from jseg.data.class_names import COCO_STUFF_IDS, IGNORED
from jseg.data.image_files import read_stored_labels
from jseg.data_preparation.conversion import Job, convert_all, unfinished
from jseg.data_preparation.lists import check_size, require_folders
from jseg.data_preparation.manifest import SplitFiles, finish
from jseg.errors import UserError
from jseg.files import write_whole

SUFFIX = "_labelTrainIds.png"
TOOL = "tools/prepare_coco_stuff.py"
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
        UserError: damaged source, values that are no ids, another size than the picture.
    """
    stored = read_stored_labels(source)
    labels = training_ids()[stored]
    if (labels == _NO_ID).any():
        values = np.unique(stored[labels == _NO_ID]).tolist()
        shown = ", ".join(map(str, values[:8]))
        raise UserError(f"{source}: values {shown} are no ids of stuffthingmaps (0..181 with 11 left out, 255)")
    picture = source.parents[2] / "images" / source.parent.name / f"{source.stem}.jpg"
    check_size(picture, stored.shape, source)
    done, content = cv2.imencode(".png", labels.astype(np.uint8))
    if not done:
        raise RuntimeError(f"{source}: OpenCV cannot encode a PNG")
    write_whole(target, content.tobytes())


def source_maps(folder: Path) -> list[Path]:
    """The PNGs of stuffthingmaps in a folder, sorted, without what was made of them."""
    return sorted(path for path in folder.iterdir() if path.suffix == ".png" and not path.name.endswith(SUFFIX))


def prepare(root: Path, workers: int, force: bool = False, allow_partial: bool = False) -> int:
    """Converts both splits, counts, writes the manifest; returns the exit code of a tool.

    Args:
        root: folder with `images` and `annotations`.
        workers: processes; 0 = in this process.
        force: make label maps anew that are there.
        allow_partial: another number of pictures than the published one is meant.

    Raises:
        UserError: missing folders.
    """
    folders = [f"{kind}/{section}2017" for kind in ("images", "annotations") for section in ("train", "val")]
    require_folders(root, folders, "COCO 2017 with stuffthingmaps unpacked as annotations/{train,val}2017")
    splits, problems = [], []
    for section in ("train", "val"):
        folder = root / "annotations" / f"{section}2017"
        jobs = [Job(path, folder / f"{path.stem}{SUFFIX}") for path in source_maps(folder)]
        pending = unfinished(jobs, force)
        print(f"{section}: {len(jobs) - len(pending):,} label maps are there, {len(pending):,} to make")
        problems += convert_all(pending, convert_map, workers, section)
        images = sorted((root / "images" / f"{section}2017").glob("*.jpg"))
        names = [path.stem for path in images]
        labels = [folder / f"{name}{SUFFIX}" for name in names]
        without = sorted({job.target for job in jobs} - set(labels))
        if without:
            problems.append(f"{section}: {len(without)} label maps have no picture, first {without[0]}")
        splits.append(SplitFiles(section, names, images, labels))
    return finish(root, "coco_stuff", splits, problems, allow_partial, TOOL)
