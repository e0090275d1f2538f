"""clip_towers*, convert/*, init_from_clip*, posembed_resize*: CLIP's towers, its weight files, what we take over."""

from __future__ import annotations

import math
import re

import jittor as jt
import numpy as np

from jseg.clip.image_tower import ImageTower, resize_positions
from jseg.clip.weights import read_clip_weights
from jseg.config import ModelConfig
from jseg.model.clip_rc import build_clip_rc
from jseg.model.initial_weights import load_clip_image_weights
from jseg.parity.golden_file import GoldenFile, NotRun
from jseg.parity.text import text_tower
from jseg.weights.state import strict_load

TOWERS_EXCLUDED = {
    "fp32_vs_fp64_json": "rounding noise of the reference",
    "transformers_version": "what computed the reference",
    "weight.logit_scale": "used in training CLIP only",
}
GRID = re.compile(r"_(\d+)x(\d+)$")


def _sizes(config: dict[str, int]) -> dict[str, int]:
    """Sizes of a clip_towers file by the names of `ClipWeights.config`; heads cannot be told from weights."""
    return {
        "image_size": config["img"],
        "patch_size": config["patch"],
        "image_width": config["vw"],
        "image_layers": config["vl"],
        "output_dim": config["proj"],
        "context_length": config["ctx"],
        "vocab_size": config["vocab"],
        "text_width": config["tw"],
        "text_layers": config["tl"],
    }


def check_towers(file: GoldenFile) -> dict[str, np.ndarray]:
    """Embeddings and last hidden states of plain CLIP."""
    config = file.json("config_json")
    weights = file.starting_with("weight.")
    image_tower = ImageTower(
        config["img"], config["patch"], config["vw"], config["vl"], config["vh"], config["proj"]
    )  # fmt: skip
    visual = {name.removeprefix("visual."): value for name, value in weights.items() if name.startswith("visual.")}
    strict_load(image_tower, visual, "golden weights")
    tower = text_tower(
        {name: value for name, value in weights.items() if not name.startswith("visual.") and name != "logit_scale"},
        width=config["tw"],
        layers=config["tl"],
        heads=config["th"],
        output_dim=config["proj"],
        context_length=config["ctx"],
        vocab_size=config["vocab"],
    )
    images, trace = jt.array(file["images"]), {}
    with jt.no_grad():
        return {
            "image_embeds": image_tower(images).numpy(),
            "visual_dense": image_tower(images, dense=True, trace=trace).numpy(),
            "visual_last_hidden_before_ln_post": trace[f"tokens_block{config['vl'] - 1}"].numpy(),
            "text_embeds": tower(file["token_ids"], trace).numpy(),
            "text_last_hidden": trace["text_last_hidden"].numpy(),
        }


def check_conversion(file: GoldenFile) -> dict[str, np.ndarray]:
    """A CLIP weight file of any container and naming, against the weights that it was made from."""
    source = file.path.parent.with_name("clip_towers.npz")
    if not source.is_file():
        raise NotRun(f"{source.name} is missing")
    towers, ours = GoldenFile(source), read_clip_weights(file.path)
    sizes = _sizes(towers.json("config_json"))
    file.expect("extra.sizes", np.array(list(sizes.values())))
    for name, value in towers.starting_with("weight.").items():
        file.expect(name, value)
    for name in ours.tensors.keys() - file.arrays.keys():
        file.expect(name, np.array("no such weight"))
    return {**ours.tensors, "extra.sizes": np.array([ours.config[name] for name in sizes])}


def check_taken_over(file: GoldenFile) -> dict[str, np.ndarray]:
    """What a fresh CLIP-RC takes from CLIP: positions resized to its grid, region tokens like the class token."""
    positions, class_embedding = file["clip_positional_embedding"], file["clip_class_embedding"]
    (name,) = (key for key in file.arrays if GRID.search(key))
    rows, columns = (int(side) for side in GRID.search(name).groups())
    regions = math.isqrt(len(file.arrays["region_level_bridge"]))
    config = ModelConfig(
        image_size=16 * rows, width=positions.shape[1], heads=1, layers=2, output_dim=8, prompts=1,
        region_grid=regions, decoder_layers=1, decoder_heads=1,
    )  # fmt: skip
    model = build_clip_rc(config)
    own = model.backbone.state_dict()
    clip = {key: np.zeros(tuple(own[key].shape), np.float32) for key in own if "prompt" not in key}
    del clip["region_level_bridge"]
    clip |= {"positional_embedding": positions, "class_embedding": class_embedding}
    load_clip_image_weights(model, {f"visual.{key}": value for key, value in clip.items()})
    square = rows == columns
    return {
        name: model.backbone.positional_embedding.numpy() if square else resize_positions(positions, (rows, columns)),
        "region_level_bridge": model.backbone.region_level_bridge.numpy(),
    }


def check_resized_positions(file: GoldenFile) -> dict[str, np.ndarray]:
    """Positions resized to the square grid of each output."""
    (source,) = file.starting_with("in/").values()
    computed = {}
    for name, reference in file.arrays.items():
        if name.startswith("out/"):
            side = math.isqrt(len(reference) - 1)
            computed[name] = resize_positions(source, (side, side))
    return computed
