"""CLIP weights of any origin under OpenAI's names, as float32 arrays, without PyTorch.

Names: https://github.com/openai/CLIP (ours too), https://github.com/mlfoundations/open_clip (the same, or with `text.`
before those of the text tower), and Hugging Face's CLIPModel (https://huggingface.co/docs/transformers/model_doc/clip).

Weight files do not say which activation they were trained with. Ours is QuickGELU, as in OpenAI's weights and those
that open_clip lists as "quickgelu"; others would run, but give wrong features.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jseg.errors import UserError
from jseg.weights.reader import WeightFile, named_list, read_weight_file

FORMAT = "jseg-clip"  # `format` in the metadata of our own CLIP weight files
HEAD_WIDTH = 64  # channels per attention head in all published CLIP models
MLP_FACTOR = 4
BUFFERS = ("input_resolution", "context_length", "vocab_size", "attn_mask", "text.attn_mask")  # no weights

Tensors = dict[str, np.ndarray]
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class ClipWeights:
    """CLIP's two towers.

    Attributes:
        tensors: float32 arrays under OpenAI's names.
        config: sizes: image_size, patch_size, image_width, image_layers, image_heads, context_length, vocab_size,
            text_width, text_layers, text_heads, output_dim. Heads are 0 where neither file nor convention tells.
        sha256: of the file read.
        names: whose names the file uses: OpenAI, open_clip or Hugging Face.
        source: the file as read.
    """

    tensors: Tensors
    config: dict[str, int]
    sha256: str
    names: str
    source: WeightFile


def _block_shapes(prefix: str, width: int, layers: int) -> Shapes:
    """Shapes of `layers` transformer blocks."""
    hidden = MLP_FACTOR * width
    block = {
        "ln_1.weight": (width,),
        "ln_1.bias": (width,),
        "attn.in_proj_weight": (3 * width, width),
        "attn.in_proj_bias": (3 * width,),
        "attn.out_proj.weight": (width, width),
        "attn.out_proj.bias": (width,),
        "ln_2.weight": (width,),
        "ln_2.bias": (width,),
        "mlp.c_fc.weight": (hidden, width),
        "mlp.c_fc.bias": (hidden,),
        "mlp.c_proj.weight": (width, hidden),
        "mlp.c_proj.bias": (width,),
    }
    return {f"{prefix}resblocks.{layer}.{name}": shape for layer in range(layers) for name, shape in block.items()}


def clip_shapes(config: dict[str, int]) -> Shapes:
    """Names and shapes of a whole CLIP of these sizes, image tower first."""
    width, patch, output = config["image_width"], config["patch_size"], config["output_dim"]
    grid = config["image_size"] // patch
    shapes: Shapes = {
        "visual.class_embedding": (width,),
        "visual.positional_embedding": (1 + grid * grid, width),
        "visual.proj": (width, output),
        "visual.conv1.weight": (width, 3, patch, patch),
        "visual.ln_pre.weight": (width,),
        "visual.ln_pre.bias": (width,),
        **_block_shapes("visual.transformer.", width, config["image_layers"]),
        "visual.ln_post.weight": (width,),
        "visual.ln_post.bias": (width,),
    }
    width = config["text_width"]
    return shapes | {
        "token_embedding.weight": (config["vocab_size"], width),
        "positional_embedding": (config["context_length"], width),
        **_block_shapes("transformer.", width, config["text_layers"]),
        "ln_final.weight": (width,),
        "ln_final.bias": (width,),
        "text_projection": (width, output),
        "logit_scale": (),
    }


def _layers(tensors: Tensors, prefix: str) -> int:
    """Number of different layers named in the file; a missing one shows later as missing names."""
    pattern = re.compile(re.escape(prefix) + r"resblocks\.(\d{1,4})\.")
    return len({match[1] for name in tensors if (match := pattern.match(name))})


def _require(tensors: Tensors, dimensions: dict[str, int]) -> None:
    """UserError when an array that tells a size is missing or has another number of dimensions."""
    wrong = [name for name, count in dimensions.items() if name not in tensors or tensors[name].ndim != count]
    if wrong:
        raise UserError(f"no whole CLIP with a vision transformer: missing or misshapen are {named_list(wrong)}")


def text_config_of(tensors: Tensors) -> dict[str, int]:
    """Sizes of a text tower (context_length, vocab_size, text_*, output_dim), read off its arrays.

    Raises:
        UserError: an array that tells a size is missing.
    """
    _require(tensors, {"token_embedding.weight": 2, "positional_embedding": 2, "text_projection": 2})
    vocabulary, width = tensors["token_embedding.weight"].shape
    return {
        "context_length": tensors["positional_embedding"].shape[0],
        "vocab_size": vocabulary,
        "text_width": width,
        "text_layers": _layers(tensors, "transformer."),
        "text_heads": usual_heads(width),
        "output_dim": tensors["text_projection"].shape[1],
    }


def image_config_of(tensors: Tensors) -> dict[str, int]:
    """Sizes of an image tower (image_*, patch_size, output_dim), read off its arrays, named `visual.*`.

    Raises:
        UserError: an array that tells a size is missing, or the positional grid is no square.
    """
    _require(tensors, {"visual.conv1.weight": 4, "visual.positional_embedding": 2, "visual.proj": 2})
    width, _, patch, _ = tensors["visual.conv1.weight"].shape
    positions = tensors["visual.positional_embedding"].shape[0]
    grid = round(max(positions - 1, 0) ** 0.5)
    if grid < 1 or grid * grid + 1 != positions or patch < 1:
        raise UserError(f"{positions} positions for patches of {patch} pixels: expected 1 + a square number")
    return {
        "image_size": grid * patch,
        "patch_size": patch,
        "image_width": width,
        "image_layers": _layers(tensors, "visual.transformer."),
        "image_heads": usual_heads(width),
        "output_dim": tensors["visual.proj"].shape[1],
    }


def clip_config_of(tensors: Tensors) -> dict[str, int]:
    """Sizes of a whole CLIP, read off its arrays.

    Args:
        tensors: arrays under OpenAI's names.

    Returns:
        What `ClipWeights.config` lists; heads by the convention of 64 channels each, 0 where the width does not fit.

    Raises:
        UserError: an array that tells a size is missing.
    """
    return image_config_of(tensors) | text_config_of(tensors)


def usual_heads(width: int) -> int:
    """Attention heads of 64 channels each, as in all published CLIP models; 0 where the width does not fit."""
    return 0 if width % HEAD_WIDTH else width // HEAD_WIDTH


def _from_openai_or_open_clip(tensors: Tensors) -> Tensors:
    """Without buffers; open_clip keeps the text tower in a module of its own when it was given one."""
    return {name.removeprefix("text."): array for name, array in tensors.items() if name not in BUFFERS}


# Hugging Face's name -> OpenAI's, without tower prefix and layer number; those in TRANSPOSED are Linear weights there.
HUGGING_FACE_TOP = {
    "logit_scale": "logit_scale",
    "text_projection.weight": "text_projection",
    "visual_projection.weight": "visual.proj",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
}
TRANSPOSED = ("text_projection", "visual.proj")
HUGGING_FACE_BLOCK = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
HUGGING_FACE_LAYER = re.compile(r"(vision|text)_model\.encoder\.layers\.(\d{1,4})\.(.+)\.(weight|bias)")
HUGGING_FACE_BUFFERS = ("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")
QUERY_KEY_VALUE = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


def _from_hugging_face(tensors: Tensors) -> Tensors:
    """Renames; joins the separate query, key and value weights; unknown names stay as they are."""
    result: Tensors = {}
    parts: dict[str, Tensors] = {}
    for name, array in tensors.items():
        layer = HUGGING_FACE_LAYER.fullmatch(name)
        if name in HUGGING_FACE_TOP:
            ours = HUGGING_FACE_TOP[name]
            result[ours] = array.T if ours in TRANSPOSED else array
        elif layer:
            tower, number, part, kind = layer.groups()
            prefix = f"{'visual.' if tower == 'vision' else ''}transformer.resblocks.{number}."
            if part in QUERY_KEY_VALUE:
                parts.setdefault(f"{prefix}attn.in_proj_{kind}", {})[part] = array
            else:
                result[f"{prefix}{HUGGING_FACE_BLOCK.get(part, part)}.{kind}"] = array
        elif name not in HUGGING_FACE_BUFFERS:
            result[name] = array
    for name, found in parts.items():
        missing = [part for part in QUERY_KEY_VALUE if part not in found]
        if missing:
            raise UserError(f"no whole CLIP: for {name} the file lacks {', '.join(missing)}")
        if len({array.shape for array in found.values()}) > 1 or 0 in {array.ndim for array in found.values()}:
            raise UserError(f"no whole CLIP: the parts of {name} have different shapes")
        result[name] = np.concatenate([found[part] for part in QUERY_KEY_VALUE])
    return result


def _convention(tensors: Tensors) -> tuple[str, Callable[[Tensors], Tensors]]:
    """Whose names these are, and how to make them OpenAI's."""
    if any(name.startswith(("vision_model.", "text_model.")) for name in tensors):
        return "Hugging Face", _from_hugging_face
    if any(name.startswith("text.") or name == "attn_mask" for name in tensors):
        return "open_clip", _from_openai_or_open_clip
    return "OpenAI", _from_openai_or_open_clip


def read_clip_weights(path: str | Path) -> ClipWeights:
    """Reads a whole CLIP with a vision transformer from any known weight file.

    Args:
        path: OpenAI's TorchScript archive, or a state_dict in any container with OpenAI's, open_clip's or Hugging
            Face's names.

    Raises:
        UserError: the file cannot be read, or holds less, more or other tensors than a CLIP, with their names.
    """
    file = read_weight_file(path)
    names, rename = _convention(file.tensors)
    try:
        tensors = rename(file.tensors)
        config = clip_config_of(tensors)
    except UserError as error:
        raise UserError(f"{file.path}: {error} ({_hint(file.tensors)})") from error
    _check_complete(tensors, clip_shapes(config), file.path)
    if file.meta.get("format") == FORMAT and isinstance(file.meta.get("clip"), dict):
        stored = file.meta["clip"]
        config |= {key: stored[key] for key in ("image_heads", "text_heads") if type(stored.get(key)) is int}
    tensors = {name: np.asarray(tensors[name], np.float32, order="C") for name in clip_shapes(config)}
    return ClipWeights(tensors, config, file.sha256, names, file)


def _hint(tensors: Tensors) -> str:
    if any(name.startswith("backbone.") for name in tensors):
        return "this is a CLIP-RC checkpoint: pass it as --weights"
    if any(name.startswith("visual.layer1.") for name in tensors):
        return "this CLIP has a ResNet: choose one with a vision transformer, as ViT-B/16"
    return f"the file holds {len(tensors)} tensors: {named_list(sorted(tensors), 3)}"


def _check_complete(tensors: Tensors, shapes: Shapes, path: Path) -> None:
    """UserError when the names or shapes are not exactly those of a CLIP."""
    both = [name for name in shapes if name in tensors]
    wrong = [name for name in both if tensors[name].shape != shapes[name]]
    problems = {
        "missing": [name for name in shapes if name not in tensors],
        "unknown": [name for name in tensors if name not in shapes],
        "of another shape": [f"{name} {tensors[name].shape} instead of {shapes[name]}" for name in wrong],
        "no floats": [name for name in both if tensors[name].dtype.kind != "f"],
    }
    if any(problems.values()):
        lists = "; ".join(f"{what}: {named_list(names)}" for what, names in problems.items() if names)
        raise UserError(f"{path} is no whole CLIP; {lists}")
