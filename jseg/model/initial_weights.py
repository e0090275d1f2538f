"""What a CLIP-RC model starts from: CLIP's image weights (or none, on purpose) and fresh prompts and head.

`head_init="released"` is what the published runs started from (https://github.com/uyzhang/CLIP-RC): PyTorch's defaults
for decoder and projections, with the layers of each decoder side copies of one, and a normal distribution for the
recovery decoder. `head_init="declared"` is what the released code declares but never calls: a normal distribution
throughout, and 0 for the second MLP layer of the pixel side.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from jseg.clip.blocks import normal, uniform
from jseg.clip.image_tower import random_image_weights, resize_positions, side_of_grid
from jseg.engine.config import ModelConfig
from jseg.errors import UserError
from jseg.model.prompt_tokens import random_prompt_weights
from jseg.model.state import strict_load

if TYPE_CHECKING:
    from jseg.model.clip_rc import ClipRC

DECLARED_STD = 0.02


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
    draw = {"released": released_head, "declared": declared_head}[config.head_init]
    head = draw(shapes, prompts_and_head)
    bridge = {"region_level_bridge": initial_bridge(tower, len(model.backbone.region_level_bridge))}
    strict_load(model.backbone, tower | bridge | prompts, "initial weights")
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
        tower["region_level_bridge"] = initial_bridge(tower, len(backbone.region_level_bridge))
    strict_load(backbone, tower | own, "CLIP image weights")


def initial_bridge(tower: Mapping[str, np.ndarray], regions: int) -> np.ndarray:
    """Region tokens (M, width): class token with its position, M times."""
    token = np.asarray(tower["class_embedding"], np.float32) + np.asarray(tower["positional_embedding"][0], np.float32)
    return np.tile(token, (regions, 1))


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
