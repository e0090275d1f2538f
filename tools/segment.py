"""Segments images into classes given by name.

    python tools/segment.py cat.jpg --classes "cat,dog,grass" --weights weights.safetensors

Writes, for each image, `<name>.png` (label map: 0 = first class, in colours) and `<name>_overlay.png` (the image
tinted, with a legend) into the folder `--save-dir`, and prints the share of each class.
"""

from __future__ import annotations

from jseg.runtime.command_line import ArgumentParser, add_device_options, run

import argparse
from pathlib import Path

from jseg.clip.class_embeddings import VOC_TEMPLATES
from jseg.config import PRECISIONS, TRAINING_FREE, read_config
from jseg.data.image_files import read_image
from jseg.data.loader import check_cost
from jseg.drawing import distinct_palette, output_paths, overlay_with_legend, write_segmentation
from jseg.files import check_writable
from jseg.outputs import check_outputs
from jseg.segmenter import check_class_names, load_segmenter


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Options of the command line."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="images")
    parser.add_argument("--classes", required=True, help="class names, separated by commas")
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
    parser.add_argument("--overwrite", action="store_true", help="replace files that jseg did not write")
    parser.add_argument("--config-file", default="", help="config of the weights, where they do not tell it")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="default: fp32")
    add_device_options(parser)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Segments the images of the command line; looks at all of them before the first output."""
    options = parse_arguments(arguments)
    names, seen = check_class_names(options.classes.split(","), options.seen.split(",") if options.seen else ())
    templates = tuple(options.template or VOC_TEMPLATES)
    sizes = {path: read_image(path).shape[:2] for path in options.images}
    outputs = {path: output_paths(options.save_dir, path.stem) for path in options.images}
    written = [output for path in options.images for output in outputs[path]]
    inputs = [*options.images, options.weights, options.clip, options.config_file]
    check_outputs(written, inputs, options.save_dir, options.overwrite)
    config = read_config(options.config_file) if options.config_file else None
    segmenter = load_segmenter(options.weights, options.device, options.clip, config, options.precision,
                               options.training_free)  # fmt: skip
    print("\n".join(segmenter.notes), flush=True)
    for path, size in sizes.items():
        check_cost(size, segmenter.config.test, str(path))
    segmenter.embeddings(names, templates)  # their errors come before the folder is made
    check_writable(options.save_dir)
    unseen = [index for index in range(len(names)) if seen and index not in seen]
    palette = distinct_palette(len(names))
    for path, (label_path, overlay_path) in outputs.items():
        image = read_image(path)
        result = segmenter(image, names, templates, [names[index] for index in seen])
        drawn = overlay_with_legend(image, result.labels, names, palette, unseen)
        write_segmentation(options.save_dir, path.stem, result.labels, palette, drawn, options.overwrite)
        shares = sorted(result.shares.items(), key=lambda item: -item[1])
        shown = ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares if share)
        print(f"{path}: {shown} -> {label_path}, {overlay_path}", flush=True)
    return 0


if __name__ == "__main__":
    run(main)
