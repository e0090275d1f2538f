"""How many pictures each split of the published runs has, and what other well-known counts mean.

Sources: CLIP-RC (CVPR 2024), section 4.1; the development kits of PASCAL VOC, COCO 2017 and PASCAL-Context.
"""

from __future__ import annotations

PUBLISHED = {
    ("voc12", "train"): 10_582,  # train.txt 1,464 + aug.txt 9,118
    ("voc12", "val"): 1_449,
    ("coco_stuff", "train"): 118_287,
    ("coco_stuff", "val"): 5_000,
    ("context", "train"): 4_998,
    ("context", "val"): 5_105,
}

_WELL_KNOWN = {
    ("voc12", "train", 1_464): "that is train.txt alone: the published runs train on trainaug.txt",
    ("voc12", "train", 9_118): "that is aug.txt alone: the published runs train on trainaug.txt",
    ("voc12", "train", 2_913): "that is train and val together: nothing would be left to evaluate on",
    ("voc12", "train", 11_355): "that is all of SBD, which holds pictures of VOC's val",
    ("voc12", "train", 12_031): "that is trainaug and val together: nothing would be left to evaluate on",
    ("coco_stuff", "train", 9_000): "that is COCO-Stuff 10k, another data set",
    ("coco_stuff", "val", 1_000): "that is COCO-Stuff 10k, another data set",
    ("context", "train", 10_103): "that is train and val together: nothing would be left to evaluate on",
}


def count_note(dataset: str, section: str, count: int) -> str:
    """One sentence if `count` pictures in `section` (train or val) are not the published number; "" if they are.

    Data sets without published numbers (shapes, own data) have nothing to compare with: "".
    """
    published = PUBLISHED.get((dataset, section), count)
    if count == published:
        return ""
    meaning = _WELL_KNOWN.get((dataset, section, count), "")
    return f"{dataset} {section} has {count:,} pictures, the published runs have {published:,}" + (
        f": {meaning}" if meaning else ""
    )
