"""Converts CLIP weights of any origin to one safetensors file of ours, and prints what is in it; halves our weights.

    python tools/convert_weights.py pretrained/ViT-B-16.pt pretrained/ViT-B-16.safetensors
    python tools/convert_weights.py pretrained/ViT-B-16.pt

Reads OpenAI's TorchScript archives and state dictionaries with OpenAI's, open_clip's or Hugging Face's names, without
PyTorch. A file that holds less or more than a CLIP is refused. Without a target it only checks and prints.

    python tools/convert_weights.py work_dirs/run/weights.safetensors half.safetensors --dtype float16

Weights of a run of ours are written without optimizer state and paths of this machine, to be passed on.
"""

from jseg.runtime.command_line import ArgumentParser, run

from pathlib import Path

import numpy as np

from jseg.clip.weights import FORMAT, ClipWeights, read_clip_weights
from jseg.config import from_dict, to_dict
from jseg.engine.checkpoint import read_whole, save
from jseg.errors import UserError
from jseg.outputs import check_outputs
from jseg.weights.reader import WeightFile, write_safetensors
from jseg.weights.record import FEATURES_NAME, TEXT_PREFIX, is_jseg_file, model_tensors

# metadata of a run's weights that stays when they are passed on
KEPT = ("format", "dataset", "split", "setting", "classes", "unseen", "templates", "text_heads", "vocabulary",
        "iteration")  # fmt: skip


def check_towers(weights: ClipWeights) -> None:
    """Loads both towers; UserError when arrays are missing, unknown, misshapen or not finite, with their names."""
    from jseg.runtime.start import start

    start("cpu")
    from jseg.clip.image_tower import ImageTower
    from jseg.clip.text_tower import TextTower
    from jseg.weights.state import strict_load

    image_names = ("image_size", "patch_size", "image_width", "image_layers")
    text_names = ("output_dim", "context_length", "vocab_size")
    config, path, tensors = weights.config, weights.source.path, dict(weights.tensors)
    if tensors.pop("logit_scale", np.zeros(1)).shape != ():
        raise UserError(f"{path} is no whole CLIP: missing: logit_scale")
    heads = 1  # shapes do not depend on it
    image = ImageTower(*(config[key] for key in image_names), heads, config["output_dim"])
    text = TextTower(config["text_width"], config["text_layers"], heads, *(config[key] for key in text_names))
    visual = {name: tensors.pop(name) for name in weights.tensors if name.startswith("visual.")}
    strict_load(image, {name.removeprefix("visual."): x for name, x in visual.items()}, f"visual.* of {path}")
    strict_load(text, tensors, f"the text tower of {path}")


def cast(tensors: dict[str, np.ndarray], dtype: str, source: Path) -> dict[str, np.ndarray]:
    """The arrays as `dtype`; UserError when one is not finite then."""
    with np.errstate(over="ignore"):  # what overflows is refused on the next lines
        tensors = {name: array.astype(np.dtype(dtype)) for name, array in tensors.items()}
    if infinite := [name for name, array in tensors.items() if not np.isfinite(array).all()]:
        raise UserError(f"{source}: {infinite[0]} has numbers that are not finite as {dtype}")
    return tensors


def convert_run(file: WeightFile, target: Path, dtype: str) -> None:
    """Writes weights of a run of ours as `dtype`; class embeddings stay as they are."""
    kept = {**model_tensors(file), **{name: x for name, x in file.tensors.items() if name.startswith(TEXT_PREFIX)}}
    embeddings = {name: x for name, x in file.tensors.items() if name == FEATURES_NAME}
    config = from_dict(file.meta.get("config"), file.path)
    config.data.root = config.model.init = config.text.embeddings = ""
    meta = {name: file.meta[name] for name in KEPT if name in file.meta} | {"config": to_dict(config)}
    save(target, cast(kept, dtype, file.path) | embeddings, meta | {"source_sha256": file.sha256})


def main(arguments: list[str] | None = None) -> None:
    """Reads, checks, prints and writes."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("source", type=Path, help="CLIP weights")
    parser.add_argument("target", type=Path, nargs="?", help="safetensors file to write (nothing: only check)")
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="of the written numbers")
    parser.add_argument("--image-heads", type=int, default=0, help="attention heads of the image tower (width / 64)")
    parser.add_argument("--text-heads", type=int, default=0, help="attention heads of the text tower (width / 64)")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    options = parser.parse_args(arguments)
    if options.target is not None and options.target.suffix != ".safetensors":
        raise UserError(f"target {options.target}: its name must end in .safetensors")
    if options.target is not None:
        check_outputs([options.target], [options.source], overwrite=options.overwrite)
    if options.target is not None and is_jseg_file(file := read_whole(options.source)):
        convert_run(file, options.target, options.dtype)
        print(f"written: {options.target}")
        return
    weights = read_clip_weights(options.source)
    check_towers(weights)
    for name, array in weights.tensors.items():
        print(f"{name:<52}  {' x '.join(map(str, array.shape)) or 'scalar'}")
    numbers = sum(array.size for array in weights.tensors.values())
    types = sorted({str(array.dtype) for array in weights.source.tensors.values()})
    print(
        f"\n{options.source}: {weights.source.kind}, {weights.names} names, {len(weights.tensors)} tensors, {numbers:,}"
        f" numbers, stored as {', '.join(types)}\nsha256 {weights.source.sha256}"
    )
    print(", ".join(f"{key} {value or '?'}" for key, value in weights.config.items()))
    if options.target is None:
        return
    config = dict(weights.config)
    for tower in ("image", "text"):
        heads, width = getattr(options, f"{tower}_heads") or config[f"{tower}_heads"], config[f"{tower}_width"]
        if heads < 1 or width % heads:
            raise UserError(f"{options.source}: give the heads of the {tower} tower of {width} by --{tower}-heads")
        config[f"{tower}_heads"] = heads
    tensors = cast(weights.tensors, options.dtype, options.source)
    meta = {"format": FORMAT, "clip": config, "source": options.source.name, "source_sha256": weights.source.sha256}
    write_safetensors(options.target, tensors, weights.source.meta | meta)  # a vocabulary of its own is kept
    print(f"written: {options.target}")


if __name__ == "__main__":
    run(main)
