"""Segments pictures into classes given by name.

    python tools/segment.py cat.jpg --classes "cat,dog,grass" --weights weights.safetensors

Writes, for each picture, `<name>.png` (label map: 0 = first class, in colours) and `<name>_overlay.png` (the picture
tinted, with a legend) into the folder `--save-dir`, and prints the share of each class.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from jseg.config import PRECISIONS
from jseg.data.image_files import file_problem, read_image
from jseg.drawing import Classes, distinct_palette, overlay_with_legend, write_label_map, write_image
from jseg.errors import UserError
from jseg.files import check_writable
from jseg.runtime.command_line import ArgumentParser, add_device_options, run
from jseg.segmenter import DEFAULT_TEMPLATES, Segmentation, check_class_names, load_segmenter, seen_ids


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line -> options."""
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="pictures")
    parser.add_argument("--classes", required=True, help="class names, separated by commas")
    parser.add_argument("--weights", required=True, type=Path, help="ours, or a released .pth or .pkl")
    parser.add_argument("--clip", default="", metavar="PATH", help="CLIP weights, where --weights has no text tower")
    parser.add_argument(
        "--template", action="append", help=f'text with {{}} for the name (default: "{DEFAULT_TEMPLATES[0]}"); repeat '
        "for an ensemble",
    )  # fmt: skip
    parser.add_argument("--seen", default="", help="those of the classes that the model was trained on (calibration)")
    parser.add_argument("--save-dir", type=Path, default=Path("segmented"), help="default: segmented")
    parser.add_argument("--config-file", default="", help="config of the weights, where they do not tell it")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="default: fp32")
    add_device_options(parser)
    return parser.parse_args(arguments)


def listed(text: str) -> list[str]:
    """`"cat, dog"` -> `["cat", "dog"]`; an empty text is an empty list."""
    return text.split(",") if text.strip() else []


def output_paths(image: Path, save_dir: Path) -> tuple[Path, Path]:
    """Where label map and overlay of a picture go."""
    return save_dir / f"{image.stem}.png", save_dir / f"{image.stem}_overlay.png"


def check_files(images: list[Path], save_dir: Path) -> None:
    """Looks at all pictures before anything is computed or written.

    Raises:
        UserError: a picture that cannot be read, or two files that would be written to the same place.
    """
    for image in images:
        if problem := "a folder" if image.is_dir() else file_problem(image):
            raise UserError(f"{image}: {problem}: give pictures that can be opened")
    outputs = Counter(path.resolve() for image in images for path in output_paths(image, save_dir))
    if overwritten := [image for image in images if image.resolve() in outputs]:
        raise UserError(f"--save-dir {save_dir}: {overwritten[0]} itself would be overwritten: choose another folder")
    if twice := [path.name for path, count in outputs.items() if count > 1]:
        raise UserError(f"several pictures would be written to {twice[0]}: run them with different --save-dir")


def describe(result: Segmentation) -> str:
    """`dog 61.2 %, grass 38.8 %`, largest first."""
    shares = sorted(result.shares.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares if share)


def main(arguments: list[str] | None = None) -> int:
    """Segments the pictures of the command line."""
    options = parse_arguments(arguments)
    names = check_class_names(listed(options.classes))
    seen = seen_ids(listed(options.seen), names)
    templates = tuple(options.template or DEFAULT_TEMPLATES)
    check_files(options.images, options.save_dir)
    segmenter = load_segmenter(options.weights, options.device, options.clip, options.config_file, options.precision)
    for note in segmenter.notes:
        print(f"weights: {note}")
    segmenter.embeddings(names, templates)  # what can be wrong with them shows before the folder is made
    check_writable(options.save_dir)
    unseen = [index for index in range(len(names)) if index not in seen] if seen else []
    classes = Classes(names, distinct_palette(len(names)), unseen)
    for path in options.images:
        image = read_image(path)
        result = segmenter(image, names, templates, [names[index] for index in seen])
        label_path, overlay_path = output_paths(path, options.save_dir)
        write_label_map(label_path, result.labels, classes.palette)
        write_image(overlay_path, overlay_with_legend(image, result.labels, classes))
        print(f"{path}: {describe(result)} -> {label_path}, {overlay_path}", flush=True)
    return 0


if __name__ == "__main__":
    run(main)
