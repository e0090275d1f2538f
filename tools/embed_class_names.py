"""Embeds class names with CLIP's text tower and writes a file that says what it is, for `text.embeddings`.

    python tools/embed_class_names.py --dataset voc12 --weights pretrained/ViT-B-16.pt --output voc12.safetensors
    python tools/embed_class_names.py --names "cat, dog, tree" --weights pretrained/ViT-B-16.pt --output own.safetensors
    python tools/embed_class_names.py --dataset voc12 --npy voc12_single.npy --output voc12.safetensors

The file holds names, templates, the checksum of the weights and the matrix; a run whose class list or templates differ
refuses it. `--npy` takes the rows of a plain file, such as the released ones, instead of computing them.
"""

from jseg.runtime.command_line import ArgumentParser, add_device_options, run

from pathlib import Path

from jseg.clip.class_embeddings import COCO_TEMPLATES, VOC_TEMPLATES, read_embeddings, text_model_of, write_embeddings
from jseg.clip.weights import read_clip_weights
from jseg.config import TextConfig
from jseg.data.class_names import class_list
from jseg.errors import UserError
from jseg.outputs import check_outputs
from jseg.weights.reader import read_weight_file

TEMPLATES = {"voc": VOC_TEMPLATES, "coco": COCO_TEMPLATES}


def main(arguments: list[str] | None = None) -> None:
    """Runs the tool."""
    parser = ArgumentParser(__doc__)
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--dataset", help="class list of a data set: voc12, coco_stuff, context, ade20k, shapes")
    chosen.add_argument("--names", help="class names, separated by commas")
    parser.add_argument("--split", default="", help="of the data set, where it has several")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--weights", type=Path, help="CLIP weights, or CLIP-RC weights that hold the text tower")
    source.add_argument("--npy", type=Path, help="rows to take as they are (with --dataset)")
    prompts = parser.add_mutually_exclusive_group()
    prompts.add_argument("--templates", choices=TEMPLATES, help="the paper's (default: by the data set)")
    prompts.add_argument("--template", action="append", help="a template of your own with {} in it; may be repeated")
    parser.add_argument("--vocabulary", default="", help="byte-pair vocabulary, where the weights need another")
    parser.add_argument("--output", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    add_device_options(parser)
    options = parser.parse_args(arguments)
    if options.output.suffix != ".safetensors":
        raise UserError(f"--output {options.output}: its name must end in .safetensors")
    inputs = options.weights, options.npy, options.vocabulary
    check_outputs([options.output], inputs, overwrite=options.overwrite)
    classes = class_list(options.dataset, options.split) if options.dataset else None
    names = classes.names if classes else [name.strip() for name in options.names.split(",") if name.strip()]
    if not names or len(set(names)) < len(names):
        raise UserError(f"--names {options.names!r}: expected class names, each one once")
    usual = "coco" if options.dataset in ("coco_stuff", "context", "ade20k") else "voc"
    templates = tuple(options.template or TEMPLATES[options.templates or usual])
    if options.npy:
        if classes is None:
            raise UserError("--npy goes with --dataset: the file does not say which classes its rows are")
        matrix, origin, weights_sha256 = read_embeddings(options.npy, classes, templates), options.npy, ""
    else:
        text = TextConfig(vocabulary=options.vocabulary)
        file = read_weight_file(options.weights)
        model = text_model_of(file, text) or text_model_of(read_clip_weights(options.weights), text)

        from jseg.runtime.start import start

        start(options.device)
        matrix, origin, weights_sha256 = model.embed(names, templates), options.weights, file.sha256
    write_embeddings(options.output, matrix, names, templates, weights_sha256)
    title = classes.title if classes else "your own names"
    print(f"{len(names)} classes ({title}), {len(templates)} templates, rows of length {matrix.shape[1]}")
    print(f"from {origin} {weights_sha256}")
    print(f"written: {options.output}; use it by text.embeddings={options.output}")


if __name__ == "__main__":
    run(main)
