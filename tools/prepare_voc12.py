"""Makes the masks and lists of PASCAL VOC 2012 aug: SegmentationClassAug, aug.txt and trainaug.txt.

    pip install -e '.[prepare]'
    python tools/prepare_voc12.py VOCdevkit/VOC2012 --sbd benchmark_RELEASE

Needs VOC 2012 (VOCtrainval_11-May-2012.tar) and SBD (benchmark.tgz). Masks of train.txt are VOC's own, those of aug.txt
SBD's. Masks that are there and whole are kept: after an interruption the same command goes on. Ends with the counts
beside the published 10,582 and 1,449, and manifest_voc12.json. Exit code 1 when files are missing or could not be made.
"""

from __future__ import annotations

from pathlib import Path

from jseg.data_preparation.options import parsed, preparation_parser
from jseg.data_preparation.voc12 import prepare
from jseg.runtime.command_line import run


def main(arguments: list[str] | None = None) -> int:
    """Prepares; see the module docstring."""
    parser = preparation_parser(__doc__.split("\n")[0], "folder of VOC 2012, with JPEGImages in it")
    parser.add_argument("--sbd", type=Path, help="folder of SBD, benchmark_RELEASE or the one that holds cls")
    options = parsed(parser, arguments)
    return prepare(options.root, options.sbd, options.workers, options.force, options.allow_partial)


if __name__ == "__main__":
    run(main)
