"""Makes the label maps of COCO-Stuff 164k: *_labelTrainIds.png beside the PNGs of stuffthingmaps.

    python tools/prepare_coco_stuff.py coco_stuff164k --workers 8

Needs images/{train,val}2017 (train2017.zip, val2017.zip of COCO) and annotations/{train,val}2017
(stuffthingmaps_trainval2017.zip). Label maps that are there and whole are kept: after an interruption the same command
goes on. Ends with the counts beside the published 118,287 and 5,000, and manifest_coco_stuff.json. Exit code 1 when
files are missing or could not be made.
"""

from __future__ import annotations

from jseg.data_preparation.coco_stuff import prepare
from jseg.data_preparation.options import parsed, preparation_parser
from jseg.runtime.command_line import run


def main(arguments: list[str] | None = None) -> int:
    """Prepares; see the module docstring."""
    parser = preparation_parser(__doc__.split("\n")[0], "folder of COCO, with images and annotations in it")
    options = parsed(parser, arguments)
    return prepare(options.root, options.workers, options.force, options.allow_partial)


if __name__ == "__main__":
    run(main)
