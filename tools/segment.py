"""Segments images and videos into classes given by name.

    python tools/segment.py photo.jpg --classes "cat|kitten,dog,grass" --weights weights.safetensors --threshold 0.3
    python tools/segment.py holiday/ clip.mp4 --classes @names.txt --others "wall,sky" --weights weights.safetensors

Prints the share of each class and writes into the folder --save-dir, whichever of these --save names:

    photo.png            labels: the class of each pixel, 0 = the first one, 255 = none of them, in colours
    photo_overlay.png    overlay: the image in these colours, with a legend
    photo_mask_cat.png   masks: white where the class is, a file for each class
    photo_scores.npz     scores: class names, and scores as float16 (classes, height, width)
    coco.json            json: run lengths, polygons, boxes and scores of all images in COCO's format
    label_studio.json    label_studio: polygons of all images, to correct in Label Studio
    clip_overlay.mp4     of a video nothing but this, whatever --save says: the overlay of each frame
"""

from __future__ import annotations

from jseg.runtime.command_line import ArgumentParser, add_weights_options, run

import argparse
import csv
import glob
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from jseg.clip.class_embeddings import VOC_TEMPLATES
from jseg.data.class_names import class_palette
from jseg.data.image_files import read_image
from jseg.data.loader import check_cost
from jseg.drawing import overlay
from jseg.errors import CheckFailed, UserError
from jseg.files import TEMPORARY, check_writable, read_lines, write_json, write_whole
from jseg.outputs import check_outputs
from jseg.segmentation import PARTS, Segmentation, check_class_names, saved_paths
from jseg.segmenter import load_segmenter

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")  # what is taken from a folder
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")


def listed_names(text: str) -> str | Sequence[str]:
    """Class names of an option: as they are, or the lines of the file behind an @."""
    return read_lines(Path(text[1:]), text) if text.startswith("@") else text


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Options of the command line."""
    parser = ArgumentParser(__doc__)
    add, names = parser.add_argument, {"type": listed_names, "metavar": "NAMES"}
    add("images", nargs="+", type=Path, metavar="IMAGE", help="images, videos, folders and their subfolders, 'a/*.png'")
    add("--classes", required=True, **names, help='"cat|kitten,dog" (a kitten is a cat), or @FILE, one a line')
    add("--others", default="", **names, help='"wall,sky": what else is there; pixels more like these get label 255')
    add("--threshold", type=float, help="0.3: pixels whose best score (0..1) is lower get label 255")
    add("--template", action="append", help=f'text around a name: "{VOC_TEMPLATES[0]}" (default); repeat to average')
    add("--seen", default="", **names, help='"cat,dog": which were in training; gamma lowers their scores')
    add_weights_options(parser, required=True)
    add("--save-dir", type=Path, default=Path("segmented"), help="folder for all files; default: segmented")
    add("--save", default="labels,overlay", help=f"some of {','.join(PARTS)}, see above; default: labels,overlay")
    add("--summary", type=Path, metavar="FILE", help="write a table with the shares of each image, too: shares.csv")
    add("--opacity", type=float, default=0.55, help="0..1, of the colours in overlays; default: 0.55")
    add("--outline", action="store_true", help="draw nothing but the borders of classes in overlays")
    add("--skip-bad", action="store_true", help="leave out files that cannot be read, and say which")
    add("--overwrite", action="store_true", help="also replace files that jseg did not write")
    options = parser.parse_args(arguments)
    if not 0 <= options.opacity <= 1:
        raise UserError(f"--opacity {options.opacity:g}: must be 0..1")
    options.parts = options.save.replace(" ", "").split(",")
    shared = {"json": options.save_dir / "coco.json", "label_studio": options.save_dir / "label_studio.json"}
    options.shared = {part: path for part, path in shared.items() if part in options.parts}  # one for all images
    options.parts = [part for part in options.parts if part not in shared]
    return options


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
    capture = cv2.VideoCapture(str(path))
    while (read := capture.read())[0]:
        yield cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB)


def write_video(path: Path, target: Path, draw: Callable[[np.ndarray], np.ndarray]) -> str:
    """Writes the overlay of each frame, memory does not grow with the length; returns what is wrong with the video."""
    capture, writer = cv2.VideoCapture(str(path)), None
    rate, count = capture.get(cv2.CAP_PROP_FPS) or 25, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=TEMPORARY) as temporary:
        unfinished = os.path.join(temporary, target.name)
        for number, frame in enumerate(tqdm(frames(path), str(path), max(count, 0) or None, disable=None), start=1):  # noqa: B007
            writer = writer or cv2.VideoWriter(unfinished, cv2.VideoWriter_fourcc(*"mp4v"), rate, frame.shape[1::-1])
            writer.write(cv2.cvtColor(draw(frame), cv2.COLOR_RGB2BGR))
        writer.release()
        os.replace(unfinished, target)
    text = f"{path} breaks off: only {number} of {count} frames could be read"
    return text if count - number > min(rate, count / 10) else ""  # some files tell their length only roughly


def readable(images: dict[Path, str], skip_bad: bool) -> dict[Path, tuple[int, int]]:
    """Height and width of the images; leaves out those that cannot be read, or raises UserError."""
    sizes = {}
    for path in images:
        try:
            if (frame := next(frames(path), None)) is None:
                raise UserError(f"{path}: {'not a video that OpenCV can read' if path.exists() else 'does not exist'}")
            sizes[path] = frame.shape[:2]
        except UserError as error:
            if not skip_bad:
                raise
            print(f"skipped: {error}", file=sys.stderr)
    if not sizes:
        raise UserError("no image is left")
    return sizes


def plan_outputs(
    options: argparse.Namespace, images: dict[Path, str], kept: Iterable[Path], names: Sequence[str]
) -> dict[Path, list[Path]]:
    """The files that each kept image leads to; UserError unless these and those of all images may be written."""
    outputs, inputs = {}, [*images, options.weights, options.clip, options.config_file]
    for path in kept:
        outputs[path] = saved_paths(options.save_dir, images[path], names, options.parts)
        if path.suffix.lower() in VIDEOS:
            outputs[path] = [options.save_dir / f"{images[path]}_overlay.mp4"]
    check_outputs(chain(*outputs.values(), options.shared.values()), inputs, options.save_dir, options.overwrite)
    check_outputs(filter(None, [options.summary]), inputs, overwrite=options.overwrite)
    return outputs


def segment_all(
    segment: Callable[[np.ndarray], Segmentation], options: argparse.Namespace, images: dict[Path, str],
    outputs: dict[Path, list[Path]], names: Sequence[str],
) -> None:  # fmt: skip
    """Writes the files of every image, prints a line for it, and writes what is about all of them."""
    style, columns, broken = (options.opacity, options.outline), [*names, "none of these"], []
    table, coco, tasks, palette = [["image", *columns]], {"images": [], "annotations": []}, [], class_palette(names)
    for path, files in tqdm(outputs.items(), "images", disable=None if len(outputs) > 1 else True):
        result: object = "overlay of each frame"
        if path.suffix.lower() in VIDEOS:
            broken += [write_video(path, files[0], lambda x: overlay(x, segment(x).labels, palette, *style, names))]
        else:
            result = segment(read_image(path))
            result.save(options.save_dir, images[path], options.parts, options.overwrite, *style)
            table.append([path, *(f"{result.shares.get(name, 0):.4f}" for name in columns)])
            tasks += [result.to_label_studio(str(path))] if "label_studio" in options.shared else []
            if "json" in options.shared:
                entries = result.to_coco(len(coco["images"]) + 1, str(path), len(coco["annotations"]) + 1)
                coco |= {key: coco.get(key, []) * (key != "categories") + entries[key] for key in entries}
        tqdm.write(f"{path}: {result}" + f" -> {', '.join(map(str, files))}" * bool(files))
    for part, path in options.shared.items():
        write_json(path, {"json": coco, "label_studio": tasks}[part])
        print(f"annotations: {path}")
    if options.summary:
        csv.writer(text := io.StringIO()).writerows(table)
        write_whole(options.summary, text.getvalue().encode())
        print(f"shares of the classes: {options.summary}")
    if any(broken):
        raise CheckFailed("; ".join(filter(None, broken)))


def main(arguments: list[str] | None = None) -> int:
    """Segments the images of the command line; looks at all of them before the first output."""
    options = parse_arguments(arguments)
    names, texts, *_ = check_class_names(options.classes, options.seen, options.others, options.threshold)
    images = find_images(options.images, options.save_dir)
    sizes = readable(images, options.skip_bad)
    outputs = plan_outputs(options, images, sizes, names)
    segmenter = load_segmenter(options.weights, options.device, options.clip, options.config_file, options.precision,
                               options.training_free)  # fmt: skip
    print("\n".join(segmenter.notes), flush=True)
    for path, size in sizes.items():
        check_cost(size, segmenter.config.test, str(path))
    words = {"class_names": options.classes, "seen": options.seen, "others": options.others}
    words["templates"] = options.template or VOC_TEMPLATES
    segmenter.embeddings(texts, words["templates"])  # their errors come before the folder is made
    check_writable(options.save_dir)
    segment = partial(segmenter, **words, threshold=options.threshold, with_scores="scores" in options.parts)
    segment_all(segment, options, images, outputs, names)
    return 0


if __name__ == "__main__":
    run(main)
