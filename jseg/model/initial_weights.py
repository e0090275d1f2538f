"""Initial weights of a CLIP-RC model: CLIP's image weights (or random ones) and fresh prompts and head.

`head_init="released"` is as the published runs started (https://github.com/uyzhang/CLIP-RC). `"aligned"` is for short
runs: mask logits start low and close together, as most pixels are of no given class (Lin et al., "Focal Loss for Dense
Object Detection", ICCV 2017, section 3.3), and text and patch features are passed on as they are at first.
"""

import re
from collections.abc import Mapping

import jittor as jt
import numpy as np

from jseg.clip.blocks import normal, uniform
from jseg.clip.image_tower import random_image_weights, resize_positions, side_of_grid
from jseg.config import ModelConfig
from jseg.model.clip_rc import ClipRC
from jseg.model.image_encoder import ImageEncoder
from jseg.weights.state import strict_load

PRIOR = 0.02  # `aligned`: the probability that a mask logit gives a pixel at the start
PRIOR_SPREAD = 2.0  # standard deviation of the mask logits at the start, about


def initialise(model: ClipRC, config: ModelConfig, seed: int) -> None:
    """Sets every weight: prompts and head freshly drawn, the frozen image tower random as CLIP initialises its own.

    `load_clip_image_weights` may replace the tower; the draws of prompts and head depend on nothing but the seed.
    """
    prompts_and_head = np.random.default_rng([seed, 0])
    tower = random_image_weights(model.backbone, np.random.default_rng([seed, 1]))
    tower |= initial_bridge(tower, config.region_grid) | initial_prompts(model.backbone, prompts_and_head)
    strict_load(model.backbone, tower, "initial weights")
    tower.clear()  # before the head is made: memory
    head = initial_head({name: tuple(x.shape) for name, x in model.decode_head.state_dict().items()}, prompts_and_head)
    if config.head_init == "aligned":
        align(head, config.decoder_layers - 1)
    strict_load(model.decode_head, head, "initial weights")


def load_clip_image_weights(model: ClipRC, tensors: Mapping[str, np.ndarray]) -> None:
    """Takes over CLIP's image tower, arrays under OpenAI's names `visual.*`; prompts and head stay as they are.

    Positions are resized to the model's grid. UserError as of `strict_load`.
    """
    backbone = model.backbone
    tower = {name.removeprefix("visual."): value for name, value in tensors.items() if name.startswith("visual.")}
    if {"class_embedding", "positional_embedding"} <= tower.keys():
        side = side_of_grid(backbone.positional_embedding)
        positions = jt.array(np.asarray(tower["positional_embedding"], np.float32))
        tower["positional_embedding"] = resize_positions(positions, (side, side)).numpy()
        tower |= initial_bridge(tower, backbone.region_grid[0])
    own = {name: var.numpy() for name, var in backbone.state_dict().items() if "prompt" in name}
    strict_load(backbone, tower | own, "CLIP image weights")


def initial_bridge(tower: Mapping[str, np.ndarray], region_grid: int) -> dict[str, np.ndarray]:
    """Region tokens (region_grid**2, width) by state name: class token with position; none where there are none."""
    token = np.asarray(tower["class_embedding"], np.float32) + np.asarray(tower["positional_embedding"][0], np.float32)
    return {"region_level_bridge": np.tile(token, (region_grid**2, 1))} if region_grid else {}


def initial_prompts(backbone: ImageEncoder, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Prompts as in the published runs, by state name of the image encoder."""
    shapes = {name: tuple(var.shape) for name, var in backbone.state_dict().items()}
    width, _, patch_size, _ = shapes["conv1.weight"]
    bound = (6 / (3 * patch_size * patch_size + width)) ** 0.5
    weights = {"prompt_norm.weight": np.ones(width, np.float32), "prompt_norm.bias": np.zeros(width, np.float32)}
    for name in ("deep_prompt_embeddings", "prompt_embeddings"):
        if name in shapes:
            weights[name] = uniform(generator, shapes[name], bound)
    weights["prompt_proj.weight"] = normal(generator, (width, width), (2 / width) ** 0.5)  # Kaiming, fan out, ReLU
    weights["prompt_proj.bias"] = uniform(generator, (width,), width**-0.5)
    return weights


def initial_head(shapes: Mapping[str, tuple[int, ...]], generator: np.random.Generator) -> dict[str, np.ndarray]:
    """The head as in the published runs, by state name: PyTorch's defaults, but normal for the recovery decoder."""
    weights: dict[str, np.ndarray] = {}
    for name, shape in shapes.items():
        first = re.sub(r"^(decoder_[qv]\.layers)\.\d+", r"\1.0", name)
        if first != name:  # the layers of each side of the decoder are copies of one
            weights[name] = weights[first].copy()
        elif ".norm" in name or (name.startswith("recovery_decoder.") and name.endswith(".bias")):
            weights[name] = np.full(shape, float(name.endswith(".weight")), np.float32)
        elif name.startswith("recovery_decoder."):
            weights[name] = normal(generator, shape, 0.02)
        else:
            fan_in = shapes[re.sub(r"\.bias$", ".weight", name)][1]
            weights[name] = uniform(generator, shape, fan_in**-0.5)
    return weights


def align(weights: dict[str, np.ndarray], last_layer: int) -> None:
    """Changes the initial head in place into that for short runs (module docstring)."""
    for side, sign in (("q", 1), ("v", -1)):
        scale, shift = (weights[f"decoder_{side}.layers.{last_layer}.norm3.{part}"] for part in ("weight", "bias"))
        # a logit is the product of two vectors of unit variance: sqrt(depth) is its spread, depth * shift^2 its mean
        scale *= np.float32((PRIOR_SPREAD / len(scale) ** 0.5) ** 0.5)
        shift += np.float32(sign * (np.log((1 - PRIOR) / PRIOR) / len(shift)) ** 0.5)
    for name in ("q_proj", "lateral_proj"):  # T and I come last in their inputs; unit length becomes unit variance
        weight = weights[f"{name}.weight"]
        weight[:, -len(weight) :] = np.eye(len(weight), dtype=np.float32) * len(weight) ** 0.5
