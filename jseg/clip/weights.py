"""CLIP weights of any origin under OpenAI's names, as float32 arrays, without PyTorch.

Names: https://github.com/openai/CLIP (ours too), https://github.com/mlfoundations/open_clip (the same, or with `text.`
before those of the text tower), and Hugging Face's CLIPModel (https://huggingface.co/docs/transformers/model_doc/clip).
The activation, which files do not state, must be QuickGELU: others would run, but give wrong features.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jseg.errors import UserError
from jseg.weights.reader import WeightFile, read_weight_file

FORMAT = "jseg-clip"  # `format` in the metadata of our own CLIP weight files
BUFFERS = ("input_resolution", "context_length", "vocab_size", "attn_mask")  # no weights
HUGGING_FACE = {  # part of a name there -> here
    "vision_model.": "visual.",
    "text_model.": "",
    "encoder.layers.": "transformer.resblocks.",
    "embeddings.": "",
    "patch_embedding.": "conv1.",
    "position_embedding.weight": "positional_embedding",
    "pre_layrnorm.": "ln_pre.",
    "post_layernorm.": "ln_post.",
    "final_layer_norm.": "ln_final.",
    "layer_norm1.": "ln_1.",
    "layer_norm2.": "ln_2.",
    "mlp.fc1.": "mlp.c_fc.",
    "mlp.fc2.": "mlp.c_proj.",
    "self_attn.out_proj.": "attn.out_proj.",
    "text_projection.weight": "text_projection",
    "visual_projection.weight": "visual.proj",
}
TRANSPOSED = ("text_projection", "visual.proj")  # Linear weights there

Tensors = dict[str, np.ndarray]


@dataclass(frozen=True)
class ClipWeights:
    """CLIP's two towers."""

    tensors: Tensors  # float32, under OpenAI's names
    config: dict[str, int]  # sizes of both; heads are 0 where neither file nor convention tells
    names: str  # whose names the file uses: OpenAI, open_clip or Hugging Face
    source: WeightFile


def read_clip_weights(path: str | Path) -> ClipWeights:
    """Reads a CLIP with a vision transformer from any known weight file, with any of the names above.

    UserError: the file cannot be read, or the arrays that tell the sizes are missing or misshapen. Whether the others
    are complete shows when the towers are built by `strict_load`.
    """
    file = read_weight_file(path)
    names, tensors = "OpenAI", file.tensors
    try:
        if any(name.startswith(("vision_model.", "text_model.")) for name in tensors):
            names, tensors = "Hugging Face", _from_hugging_face(tensors)
        elif any(name.startswith("text.") or name == "attn_mask" for name in tensors):
            names, tensors = "open_clip", {name.removeprefix("text."): array for name, array in tensors.items()}
        weights = ((name, x) for name, x in tensors.items() if name.rpartition(".")[2] not in BUFFERS)
        tensors = {name: np.asarray(array, np.float32, order="C") for name, array in weights}
        if np.shape(tensors.get("logit_scale")) == (1,):  # Jittor has no scalars
            tensors["logit_scale"] = tensors["logit_scale"].reshape(())
        width, _, patch, _ = tensors["visual.conv1.weight"].shape
        config = {
            "image_size": patch * round(max(tensors["visual.positional_embedding"].shape[0] - 1, 0) ** 0.5),
            "patch_size": patch,
            "image_width": width,
            "image_layers": count_layers(tensors, "visual.transformer.resblocks."),
            "image_heads": usual_heads(width),
            **text_config_of(tensors),
        }
        if file.meta.get("format") == FORMAT:
            config |= {key: file.meta["clip"][key] for key in ("image_heads", "text_heads")}
    except (KeyError, ValueError, IndexError) as error:
        is_checkpoint = any(name.startswith("backbone.") for name in file.tensors)
        hint = " (this is a CLIP-RC checkpoint: pass it as --weights, without --training-free)" if is_checkpoint else ""
        raise UserError(f"{file.path} is no whole CLIP with a ViT: {error} is missing or misshapen{hint}") from error
    return ClipWeights(tensors, config, names, file)


def text_config_of(tensors: Tensors) -> dict[str, int]:
    """Sizes of a text tower, read off its arrays; KeyError, ValueError or IndexError if they are not those of one."""
    vocabulary, width = tensors["token_embedding.weight"].shape
    return {
        "context_length": tensors["positional_embedding"].shape[0],
        "vocab_size": vocabulary,
        "text_width": width,
        "text_layers": count_layers(tensors, "transformer.resblocks."),
        "text_heads": usual_heads(width),
        "output_dim": tensors["text_projection"].shape[1],
    }


def usual_heads(width: int) -> int:
    """Attention heads of 64 channels each, as in all published CLIP models; 0 where the width does not fit."""
    return 0 if width % 64 else width // 64


def count_layers(tensors: Tensors, prefix: str) -> int:
    """Number of different layers named in the file behind `prefix`; a missing one shows later as missing names."""
    return len({name.removeprefix(prefix).split(".")[0] for name in tensors if name.startswith(prefix)})


def _from_hugging_face(tensors: Tensors) -> Tensors:
    """Renames, and joins the separate query, key and value weights; unknown names stay as they are."""
    result: Tensors = {}
    for name, array in tensors.items():
        for theirs, ours in HUGGING_FACE.items():
            name = name.replace(theirs, ours)
        if not name.endswith("position_ids"):
            result[name] = array.T if name in TRANSPOSED else array
    for name in [name for name in result if ".self_attn.q_proj." in name]:
        parts = [result.pop(name.replace("q_proj", part)) for part in ("q_proj", "k_proj", "v_proj")]
        result[name.replace("self_attn.q_proj.", "attn.in_proj_")] = np.concatenate(parts)
    return result
