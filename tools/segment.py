"""Segments images and videos into classes given by name.

    python tools/segment.py cat.jpg --classes "cat|kitten,dog,grass" --weights weights.safetensors --threshold 0.3

Writes, for each image, `<name>.png` (label map: 0 = first class, 255 = none of them, in colours) and
`<name>_overlay.png` (the image tinted, with a legend) into the folder `--save-dir`, and prints the share of each class.
Of a video it writes `<name>_overlay.mp4`.
"""

from __future__ import annotations

from jseg.runtime.command_line import ArgumentParser, add_device_options, run

import argparse
import csv
import glob
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from jseg.clip.class_embeddings import VOC_TEMPLATES
from jseg.config import PRECISIONS, TRAINING_FREE, read_config
from jseg.data.image_files import read_image
from jseg.data.loader import check_cost
from jseg.drawing import class_palette, overlay
from jseg.errors import UserError
from jseg.files import TEMPORARY, check_writable, read_lines, write_json, write_whole
from jseg.outputs import check_outputs
from jseg.segmentation import PARTS, check_class_names, saved_paths
from jseg.segmenter import load_segmenter

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")  # what is taken from a folder
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Options of the command line."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="images, videos, folders, patterns")
    parser.add_argument(
        "--classes", required=True, help='"cat|kitten,dog": names; a kitten is a cat too; or @FILE with one a line'
    )
    parser.add_argument("--others", default="", help='"wall,sky": names that compete; where they win is no class (255)')
    parser.add_argument("--threshold", type=float, help="pixels whose best score, 0..1, is lower are no class (255)")
    parser.add_argument("--weights", required=True, type=Path, help="of a run, a released .pth or .pkl, or: shapes")
    parser.add_argument(
        "--training-free", nargs="?", default="", const="class_token", choices=TRAINING_FREE, metavar="METHOD",
        help=f"--weights are those of a plain CLIP: {', '.join(TRAINING_FREE)} (without METHOD: class_token)",
    )  # fmt: skip
    parser.add_argument("--clip", default="", metavar="PATH", help="CLIP weights, where --weights has no text tower")
    parser.add_argument(
        "--template", action="append", help=f'text with {{}} for the name (default: "{VOC_TEMPLATES[0]}"); repeat '
        "for an ensemble",
    )  # fmt: skip
    parser.add_argument("--seen", default="", help="those of the classes that the model was trained on (calibration)")
    parser.add_argument("--save-dir", type=Path, default=Path("segmented"), help="default: segmented")
    parser.add_argument("--save", default="labels,overlay", help=f"some of {','.join(PARTS)}; default: labels,overlay")
    parser.add_argument("--summary", type=Path, metavar="FILE.csv", help="a table of the shares of all images")
    parser.add_argument("--opacity", type=float, default=0.55, help="of the colours in overlays; default: 0.55")
    parser.add_argument("--outline", action="store_true", help="draw the borders of the classes only")
    parser.add_argument("--skip-bad", action="store_true", help="go on without files that cannot be read")
    parser.add_argument("--overwrite", action="store_true", help="replace files that jseg did not write")
    parser.add_argument("--config-file", default="", help="config of the weights, where they do not tell it")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="default: fp32")
    add_device_options(parser)
    return parser.parse_args(arguments)


def listed_names(text: str) -> str | Sequence[str]:
    """Class names of an option: as they are, or the lines of the file behind an @."""
    return read_lines(Path(text[1:]), text) if text.startswith("@") else text


def find_images(paths: Sequence[Path], save_dir: Path) -> dict[Path, str]:
    """Images and videos of the command line, those in folders and of patterns too -> name of the outputs."""
    found = {}
    for path in paths:
        matches = [path] if path.exists() else sorted(map(Path, glob.glob(str(path), recursive=True))) or [path]
        for match in matches:
            inside = sorted(item for item in match.rglob("*") if item.suffix.lower() in IMAGES + VIDEOS)
            inside = [item for item in inside if save_dir.resolve() not in item.resolve().parents]
            if match.is_dir() and not inside:
                raise UserError(f"{match}: no image in this folder")
            found |= {item: str(item.relative_to(match).with_suffix("")) for item in inside} or {match: match.stem}
    return found


def frames(path: Path) -> Iterator[np.ndarray]:
    """The image, or the frames of a video one after the other, (H, W, 3) uint8 RGB."""
    if path.suffix.lower() not in VIDEOS:
        yield read_image(path)
        return
    capture = cv2.VideoCapture(str(path)) if path.is_file() else None
    if capture is None or not capture.grab():
        raise UserError(f"{path}: not a video that OpenCV can read")
    yield cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB)
    while capture.grab():
        yield cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB)


def write_video(path: Path, target: Path, draw: Callable[[np.ndarray], np.ndarray]) -> None:
    """Writes the overlay of each frame; memory does not grow with the length."""
    capture, writer = cv2.VideoCapture(str(path)), None
    rate, count = capture.get(cv2.CAP_PROP_FPS) or 25, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=TEMPORARY) as temporary:
        unfinished = os.path.join(temporary, target.name)
        for frame in tqdm(frames(path), str(path), count if count > 0 else None, disable=None):
            size = frame.shape[1::-1]
            writer = writer or cv2.VideoWriter(unfinished, cv2.VideoWriter_fourcc(*"mp4v"), rate, size)
            writer.write(cv2.cvtColor(draw(frame), cv2.COLOR_RGB2BGR))
        writer.release()
        os.replace(unfinished, target)


def readable(images: dict[Path, str], skip_bad: bool) -> dict[Path, tuple[int, int]]:
    """Height and width of the images; leaves out those that cannot be read, or raises UserError."""
    sizes = {}
    for path in images:
        try:
            sizes[path] = next(frames(path)).shape[:2]
        except UserError as error:
            if not skip_bad:
                raise
            print(f"skipped: {error}", file=sys.stderr)
    if not sizes:
        raise UserError("no image is left")
    return sizes


def main(arguments: list[str] | None = None) -> int:
    """Segments the images of the command line; looks at all of them before the first output."""
    options = parse_arguments(arguments)
    words = [listed_names(text) for text in (options.classes, options.seen, options.others)]
    names, texts, *_ = check_class_names(*words, options.threshold)
    if not 0 <= options.opacity <= 1:
        raise UserError(f"--opacity {options.opacity:g}: must be 0..1")
    templates, parts = tuple(options.template or VOC_TEMPLATES), options.save.split(",")
    images = find_images(options.images, options.save_dir)
    sizes, outputs = readable(images, options.skip_bad), {}
    each = [part for part in parts if part != "json"]
    coco_path, coco = options.save_dir / "coco.json", {"images": [], "annotations": []}  # one for all images
    for path in sizes:
        outputs[path] = saved_paths(options.save_dir, images[path], names, each)
        if path.suffix.lower() in VIDEOS:
            outputs[path] = [options.save_dir / f"{images[path]}_overlay.mp4"]
    written = [output for files in outputs.values() for output in files] + [coco_path] * ("json" in parts)
    inputs = [*images, options.weights, options.clip, options.config_file]
    check_outputs(written, inputs, options.save_dir, options.overwrite)
    check_outputs([options.summary] if options.summary else [], inputs, overwrite=options.overwrite)
    config = read_config(options.config_file) if options.config_file else None
    segmenter = load_segmenter(options.weights, options.device, options.clip, config, options.precision,
                               options.training_free)  # fmt: skip
    print("\n".join(segmenter.notes), flush=True)
    for path, size in sizes.items():
        check_cost(size, segmenter.config.test, str(path))
    segmenter.embeddings(texts, templates)  # their errors come before the folder is made
    check_writable(options.save_dir)
    segment = partial(segmenter, class_names=words[0], templates=templates, seen=words[1], others=words[2],
                      threshold=options.threshold, with_scores="scores" in parts)  # fmt: skip
    style, rows, palette = (options.opacity, options.outline), [], class_palette(names)

    def draw(frame: np.ndarray) -> np.ndarray:
        return overlay(frame, segment(frame).labels, palette, *style, names)

    for path in tqdm(outputs, "images", disable=None if len(outputs) > 1 else True):
        shown = "overlay of each frame"
        if path.suffix.lower() in VIDEOS:
            write_video(path, outputs[path][0], draw)
        else:
            result = segment(read_image(path))
            result.save(options.save_dir, images[path], each, options.overwrite, *style)
            rows.append({"image": path} | {name: f"{share:.4f}" for name, share in result.shares.items()})
            shown = str(result).partition(": ")[2][:-1]
            if "json" in parts:
                entries = result.to_coco(len(coco["images"]) + 1, str(path), len(coco["annotations"]) + 1)
                coco |= {key: coco.get(key, []) * (key != "categories") + entries[key] for key in entries}
        tqdm.write(f"{path}: {shown} -> {', '.join(map(str, outputs[path]))}")
    if "json" in parts:
        write_json(coco_path, coco)
    if options.summary:
        table = io.StringIO()
        writer = csv.DictWriter(table, ["image", *names, "none of these"], restval=0)
        writer.writeheader()
        writer.writerows(rows)
        write_whole(options.summary, table.getvalue().encode())
    return 0


if __name__ == "__main__":
    run(main)
