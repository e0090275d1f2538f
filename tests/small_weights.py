"""Small weight files of the kinds that inference meets, with random weights."""

from pathlib import Path

import numpy as np
import torch

from jseg.clip.class_embeddings import class_embeddings
from jseg.clip.image_tower import ImageTower
from jseg.clip.text_tower import TextTower
from jseg.clip.tokenizer import Tokenizer, generate_vocabulary
from jseg.clip.weights import FORMAT
from jseg.config import Config, ModelConfig
from jseg.data.class_names import class_list
from jseg.engine import checkpoint
from jseg.model.clip_rc import ClipRC, build_clip_rc
from jseg.model.initial_weights import initialise
from jseg.weights.reader import write_safetensors
from jseg.weights.state import state_arrays

OUTPUT_DIM = 16


def small_config() -> Config:
    """A model of 64 px; its sizes follow the released models' head sizes."""
    config = Config()
    config.model = ModelConfig(
        image_size=64, width=64, layers=2, heads=1, output_dim=OUTPUT_DIM, prompts=3, region_grid=2, decoder_layers=2,
        decoder_heads=8, ffn_factor=2, init="random",
    )  # fmt: skip
    config.text.vocabulary = "generated"
    config.text.width, config.text.layers, config.text.heads, config.text.context_length = 32, 1, 2, 24
    config.test.short_side, config.test.crop_size, config.test.stride = 64, (64, 64), (53, 53)
    return config


def small_model(config: Config) -> ClipRC:
    model = build_clip_rc(config.model)
    initialise(model, config.model, 3)
    return model


def write_ours(path: Path) -> Config:
    """A weight file as the trainer leaves it: model, text tower with its vocabulary, embeddings, configuration."""
    config, classes = small_config(), class_list("shapes")
    text = class_embeddings(config, classes)
    tensors = state_arrays(small_model(config)) | checkpoint.text_arrays(text)
    checkpoint.save(path, tensors, {**checkpoint.describe(config, classes, text), "iteration": 1})
    return config


def write_released(path: Path) -> None:
    """A PyTorch checkpoint like the released ones: no configuration, dead weights, here without a text tower."""
    tensors = {name: torch.from_numpy(array) for name, array in state_arrays(small_model(small_config())).items()}
    for side in "qv":
        tensors[f"decode_head.decoder_{side}.layers.0.norm1.weight"] = torch.ones(OUTPUT_DIM)
    torch.save({"meta": {"iter": 1, "CLASSES": ("cat", "dog")}, "state_dict": tensors}, path)


def clip_tensors(sizes: dict[str, int]) -> dict[str, np.ndarray]:
    """A CLIP of random numbers under OpenAI's names."""
    image = ("image_size", "patch_size", "image_width", "image_layers", "image_heads", "output_dim")
    text = ("text_width", "text_layers", "text_heads", "output_dim", "context_length", "vocab_size")
    towers = ImageTower(*(sizes[key] for key in image)), TextTower(*(sizes[key] for key in text))
    state = {f"visual.{name}": tuple(var.shape) for name, var in towers[0].state_dict().items()}
    state |= {name: tuple(var.shape) for name, var in towers[1].state_dict().items()} | {"logit_scale": ()}
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in state.items()}


def write_clip(path: Path, output_dim: int = OUTPUT_DIM) -> None:
    """CLIP weights with both towers and a vocabulary of their own."""
    merges = generate_vocabulary(["a photo of a cat", "a photo of a dog"], 20)
    sizes = {
        "image_size": 32, "patch_size": 16, "image_width": 64, "image_layers": 1, "image_heads": 1,
        "context_length": 24, "vocab_size": Tokenizer(merges).vocab_size, "text_width": 64, "text_layers": 1,
        "text_heads": 1, "output_dim": output_dim,
    }  # fmt: skip
    meta = {"format": FORMAT, "clip": sizes, "vocabulary": [list(pair) for pair in merges]}
    write_safetensors(path, clip_tensors(sizes), meta)
