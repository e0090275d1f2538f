"""Makes the label maps and lists of PASCAL Context with 59 classes: SegmentationClassContext, SegmentationContext.

    pip install -e '.[prepare]'
    python tools/prepare_context.py VOCdevkit/VOC2010 --mat trainval

Needs VOC 2010 (VOCtrainval_03-May-2010.tar) and PASCAL-Context's .mat files of the 459 categories (trainval.tar.gz);
trainval_merged.json of the Detail API is not read. Label maps that are there and whole are kept: after an interruption
the same command goes on. Ends with the counts beside the published 4,998 and 5,105, and manifest_context.json. Exit
code 1 when files are missing or could not be made.
"""

from __future__ import annotations

from pathlib import Path

from jseg.data_preparation.context import prepare
from jseg.data_preparation.options import parsed, preparation_parser
from jseg.runtime.command_line import run


def main(arguments: list[str] | None = None) -> int:
    """Prepares; see the module docstring."""
    parser = preparation_parser(__doc__.split("\n")[0], "folder of VOC 2010, with JPEGImages in it")
    parser.add_argument("--mat", type=Path, help="folder of PASCAL-Context's .mat files")
    options = parsed(parser, arguments)
    return prepare(options.root, options.mat, options.workers, options.force, options.allow_partial)


if __name__ == "__main__":
    run(main)
