"""state_dict_full*: names and shapes of the published models, built at full size but never computed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import numpy as np

from jseg.clip.text_tower import TextTower
from jseg.config import ModelConfig
from jseg.model.clip_rc import build_clip_rc
from jseg.model.released_weights import DEAD
from jseg.parity.golden_file import GoldenFile

Shapes = Mapping[str, tuple[int, ...]]


def _count(shapes: Shapes, prefix: str) -> int:
    """Number of layers whose names start with `prefix`, an index and a dot."""
    return len({found.group(1) for name in shapes if (found := re.match(re.escape(prefix) + r"(\d+)\.", name))})


def model_config_of(shapes: Shapes) -> ModelConfig:
    """The sizes that the shapes of a model's weights tell; those of frozen weights may be missing."""
    _, prompts, width = shapes["backbone.prompt_embeddings"]
    (output_dim,) = shapes["decode_head.q_proj.bias"]
    (hidden,) = shapes["decode_head.decoder_q.layers.0.linear1.bias"]
    config = ModelConfig(
        width=width,
        layers=shapes["backbone.deep_prompt_embeddings"][0] + 1,
        output_dim=output_dim,
        prompts=prompts,
        ffn_factor=hidden // output_dim,
        decoder_layers=_count(shapes, "decode_head.decoder_q.layers."),
        recovery_layers=_count(shapes, "decode_head.recovery_decoder.decouple_q."),
    )
    if "backbone.conv1.weight" in shapes:
        config.patch_size = shapes["backbone.conv1.weight"][2]
        config.image_size = config.patch_size * math.isqrt(shapes["backbone.positional_embedding"][0] - 1)
        config.region_grid = math.isqrt(shapes["backbone.region_level_bridge"][0])
    return config


def _text_tower_of(shapes: Shapes) -> TextTower:
    vocabulary, width = shapes["text_encoder.token_embedding.weight"]
    return TextTower(
        width=width,
        layers=_count(shapes, "text_encoder.transformer.resblocks."),
        heads=1,  # leaves no trace in shapes
        output_dim=shapes["text_encoder.text_projection"][1],
        context_length=shapes["text_encoder.positional_embedding"][0],
        vocab_size=vocabulary,
    )


NAMES_EXCLUDED = {
    "*attn_mask": "a constant that the release stores; ours follows the size of the input",
    "*/texts": "token ids of the class names, which the release stores with the model",
}


def check_state_names(file: GoldenFile) -> dict[str, np.ndarray]:
    """Names and shapes of all weights; dead ones count as read, because loading has to recognise them."""
    computed = {}
    for run in dict.fromkeys(name.split("/")[0] for name in file.arrays):
        shapes = {name.split("/")[1]: tuple(file.arrays[name].tolist()) for name in file.arrays if name.startswith(run)}
        file.read |= {f"{run}/{name}" for name in shapes if DEAD.match(name)}
        ours = build_clip_rc(model_config_of(shapes)).state_dict()
        if "text_encoder.positional_embedding" in shapes:
            ours |= {f"text_encoder.{name}": var for name, var in _text_tower_of(shapes).state_dict().items()}
        computed |= {f"{run}/{name}": np.array(var.shape) for name, var in ours.items()}
        for name in ours.keys() - shapes.keys():
            file.expect(f"{run}/{name}", np.array("no such weight"))
    return computed
