"""Initial weights of a CLIP-RC model: CLIP's image weights (or random ones) and fresh prompts and head.

`head_init="released"` is as the published runs started (https://github.com/uyzhang/CLIP-RC): PyTorch's defaults
for decoder and projections, with the layers of each decoder side copies of one, and a normal distribution for the
recovery decoder. `head_init="declared"` is as the released code declares but never calls: a normal distribution
throughout, and 0 for the second MLP layer of the pixel side. `head_init="aligned"` is for short runs: as
`released`, but (1) mask logits start low and close together, as most pixels are of no given class (Lin et al., "Focal
Loss for Dense Object Detection", ICCV 2017, section 3.3), and (2) text and patch features, of one space, are
passed on as they are at first, so that classes and pixels differ from the first step.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from jseg.clip.blocks import normal, uniform
from jseg.clip.image_tower import random_image_weights, resize_positions, side_of_grid
from jseg.config import ModelConfig
from jseg.errors import UserError
from jseg.model.clip_rc import ClipRC
from jseg.model.image_encoder import random_prompt_weights
from jseg.weights.state import strict_load

DECLARED_STD = 0.02
PRIOR = 0.02  # `aligned`: the probability that a mask logit gives a pixel at the start
PRIOR_SPREAD = 2.0  # standard deviation of the mask logits at the start, about


def initialise(model: ClipRC, config: ModelConfig, seed: int) -> None:
    """Sets every weight: prompts and head freshly drawn, the frozen image tower random as CLIP initialises its own.

    The tower's share is meant to be replaced by `load_clip_image_weights`, unless the config says `init="random"`; the
    draws of prompts and head do not depend on whether it is.

    Args:
        seed: of the draws, independent of the global generators.
    """
    prompts_and_head = np.random.default_rng([seed, 0])
    tower = random_image_weights(model.backbone, np.random.default_rng([seed, 1]))
    prompts = random_prompt_weights(config.layers, config.prompts, config.width, config.patch_size, prompts_and_head)
    shapes = {name: tuple(var.shape) for name, var in model.decode_head.state_dict().items()}
    draw = {"released": released_head, "declared": declared_head, "aligned": aligned_head}[config.head_init]
    head = draw(shapes, prompts_and_head)
    strict_load(model.backbone, tower | initial_bridge(tower, config.region_grid) | prompts, "initial weights")
    strict_load(model.decode_head, head, "initial weights")


def load_clip_image_weights(model: ClipRC, tensors: Mapping[str, np.ndarray]) -> None:
    """Takes CLIP's image tower over; prompts and head stay as they are.

    Positions are resized to the model's grid, and each region token starts as the class token with its position.

    Args:
        tensors: arrays under OpenAI's names; those that do not begin with `visual.` are left alone.

    Raises:
        UserError: missing, unknown or differently shaped arrays, with their names.
    """
    backbone = model.backbone
    tower = {name.removeprefix("visual."): value for name, value in tensors.items() if name.startswith("visual.")}
    if not tower:
        raise UserError("CLIP weights hold no image tower (no names that begin with visual.)")
    if "positional_embedding" in tower:
        side = side_of_grid(backbone.positional_embedding)
        positions = np.asarray(tower["positional_embedding"], np.float32)
        tower["positional_embedding"] = resize_positions(positions, (side, side))
    own = {name: var.numpy() for name, var in backbone.state_dict().items() if "prompt" in name}
    if {"class_embedding", "positional_embedding"} <= tower.keys():
        tower |= initial_bridge(tower, backbone.region_grid[0])
    strict_load(backbone, tower | own, "CLIP image weights")


def initial_bridge(tower: Mapping[str, np.ndarray], region_grid: int) -> dict[str, np.ndarray]:
    """Region tokens (M, width) by state name, M = region_grid**2 times class token with position; none where M = 0."""
    token = np.asarray(tower["class_embedding"], np.float32) + np.asarray(tower["positional_embedding"][0], np.float32)
    return {"region_level_bridge": np.tile(token, (region_grid**2, 1))} if region_grid else {}


def _constant(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """1 for the weight of a LayerNorm, 0 for a bias."""
    return np.full(shape, 1.0 if name.endswith(".weight") else 0.0, np.float32)


def released_head(shapes: Mapping[str, tuple[int, ...]], generator: np.random.Generator) -> dict[str, np.ndarray]:
    """The head as the published runs started, by state name."""
    weights: dict[str, np.ndarray] = {}
    for name, shape in shapes.items():
        first = re.sub(r"^(decoder_[qv]\.layers)\.\d+", r"\1.0", name)
        if first != name:
            weights[name] = weights[first].copy()
        elif ".norm" in name:
            weights[name] = _constant(name, shape)
        elif name.startswith("recovery_decoder."):
            is_bias = name.endswith(".bias")
            weights[name] = np.zeros(shape, np.float32) if is_bias else normal(generator, shape, DECLARED_STD)
        else:
            fan_in = shapes[re.sub(r"\.bias$", ".weight", name)][1]
            weights[name] = uniform(generator, shape, fan_in**-0.5)
    return weights


def aligned_head(shapes: Mapping[str, tuple[int, ...]], generator: np.random.Generator) -> dict[str, np.ndarray]:
    """The head for short runs (module docstring), by state name."""
    weights = released_head(shapes, generator)
    last = max(int(found[1]) for name in shapes if (found := re.match(r"decoder_q\.layers\.(\d+)", name)))
    for side, sign in (("q", 1), ("v", -1)):
        scale, shift = (f"decoder_{side}.layers.{last}.norm3.{part}" for part in ("weight", "bias"))
        depth = len(weights[scale])
        # a logit is the product of two vectors of unit variance: sqrt(depth) is its spread, depth * shift^2 its mean
        weights[scale] *= np.float32((PRIOR_SPREAD / depth**0.5) ** 0.5)
        weights[shift] += np.float32(sign * (np.log((1 - PRIOR) / PRIOR) / depth) ** 0.5)
    for name in ("q_proj", "lateral_proj"):  # T and I come last in their inputs; unit length becomes unit variance
        weight = weights[f"{name}.weight"]
        weight[:, -len(weight) :] = np.eye(len(weight), dtype=np.float32) * len(weight) ** 0.5
    return weights


def declared_head(shapes: Mapping[str, tuple[int, ...]], generator: np.random.Generator) -> dict[str, np.ndarray]:
    """The head as the released code declares it, by state name."""
    weights: dict[str, np.ndarray] = {}
    for name, shape in shapes.items():
        if ".norm" in name:
            weights[name] = _constant(name, shape)
        elif name.endswith(".bias") or re.match(r"decoder_v\.layers\.\d+\.linear2", name):
            weights[name] = np.zeros(shape, np.float32)
        else:
            weights[name] = normal(generator, shape, DECLARED_STD)
    return weights
