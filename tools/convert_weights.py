"""Converts CLIP weights of any origin to one safetensors file of ours, and prints what is in it.

    python tools/convert_weights.py pretrained/ViT-B-16.pt pretrained/ViT-B-16.safetensors
    python tools/convert_weights.py pretrained/ViT-B-16.pt

Reads OpenAI's TorchScript archives and state dictionaries with OpenAI's, open_clip's or Hugging Face's names (.pt,
.pth, .safetensors, .pkl), without PyTorch. A file that holds less or more than a CLIP is refused with the names.
Without a target it only checks and prints.
"""

from __future__ import annotations

from jseg.runtime.command_line import ArgumentParser, run

import argparse
from pathlib import Path

import numpy as np

from jseg.clip.weights import FORMAT, ClipWeights, read_clip_weights
from jseg.errors import UserError
from jseg.weights.reader import write_safetensors


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line -> options."""
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path, help="CLIP weights")
    parser.add_argument(
        "target", type=Path, nargs="?", help="safetensors file to write (nothing: only check and print)"
    )
    parser.add_argument(
        "--dtype", choices=("float32", "float16"), default="float32", help="type of the written numbers"
    )
    parser.add_argument("--image-heads", type=int, help="attention heads of the image tower (usual: width / 64)")
    parser.add_argument("--text-heads", type=int, help="attention heads of the text tower (usual: width / 64)")
    parser.add_argument("--force", action="store_true", help="overwrite the target")
    return parser.parse_args(arguments)


def format_table(weights: ClipWeights) -> str:
    """One line per tensor: its name and shape, as they are written."""
    width = max(len(name) for name in weights.tensors)
    shapes = {name: " x ".join(map(str, array.shape)) or "scalar" for name, array in weights.tensors.items()}
    return "\n".join(f"{name:<{width}}  {shape}" for name, shape in shapes.items())


def choose_heads(weights: ClipWeights, options: argparse.Namespace) -> dict[str, int]:
    """The sizes with numbers of heads: from the options, the file or the convention.

    Raises:
        UserError: heads that neither file, convention nor option tells, or that do not divide the width.
    """
    config = dict(weights.config)
    for tower in ("image", "text"):
        count = getattr(options, f"{tower}_heads")
        config[f"{tower}_heads"] = count if count is not None else config[f"{tower}_heads"]
        if config[f"{tower}_heads"] < 1 or config[f"{tower}_width"] % config[f"{tower}_heads"]:
            raise UserError(
                f"{weights.source.path}: the {tower} tower has width {config[f'{tower}_width']}: give its number of "
                f"attention heads by --{tower}-heads"
            )
    return config


def main(arguments: list[str] | None = None) -> None:
    """Reads, prints and writes."""
    options = parse_arguments(arguments)
    if options.target is not None:
        if options.target.suffix != ".safetensors":
            raise UserError(f"target {options.target}: its name must end in .safetensors")
        if options.target.exists() and not options.force:
            raise UserError(f"target {options.target} exists: pass --force to overwrite it")
        if options.target.exists() and options.source.exists() and options.target.samefile(options.source):
            raise UserError(f"target {options.target} is the source itself: choose another name")
    weights = read_clip_weights(options.source)
    print(format_table(weights))
    numbers = sum(array.size for array in weights.tensors.values())
    types = sorted({str(array.dtype) for array in weights.source.tensors.values()})
    print(
        f"\n{options.source}: {weights.source.kind}, {weights.names} names, {len(weights.tensors)} tensors, {numbers:,}"
        f" numbers, stored as {', '.join(types)}"
    )
    print(f"sha256 {weights.sha256}")
    print(", ".join(f"{key} {value or '?'}" for key, value in weights.config.items()))
    if options.target is None:
        return
    config = choose_heads(weights, options)
    with np.errstate(over="ignore"):  # what overflows is refused on the next lines
        tensors = {name: array.astype(np.dtype(options.dtype)) for name, array in weights.tensors.items()}
    too_large = [name for name, array in tensors.items() if not np.isfinite(array).all()]
    if too_large:
        raise UserError(f"{options.source}: {too_large[0]} has numbers that are not finite as {options.dtype}")
    meta = {"format": FORMAT, "clip": config, "source": options.source.name, "source_sha256": weights.sha256}
    meta = weights.source.meta | meta  # a vocabulary of its own belongs to the tower
    write_safetensors(options.target, tensors, meta)
    print(f"written: {options.target}")


if __name__ == "__main__":
    run(main)
