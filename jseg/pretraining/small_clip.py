"""Both towers of a small CLIP with the learned temperature: build, embed, export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jittor as jt
import numpy as np

from jseg.baselines import before_last_block
from jseg.clip.image_tower import ImageTower, random_image_weights
from jseg.clip.text_tower import TextTower, random_text_weights
from jseg.clip.tokenizer import Tokenizer
from jseg.clip.weights import FORMAT
from jseg.ops.attention import cross_attention
from jseg.pretraining.settings import Settings
from jseg.weights.reader import write_safetensors
from jseg.weights.state import strict_load

FIRST_SCALE, LARGEST_SCALE = 1 / 0.07, 100.0  # of cosines: at the start, and what it may grow to (CLIP's values)
_WEIGHTS = 3  # second word of the seed


class SmallClip:
    """The two towers and the temperature; weights start as CLIP's do."""

    def __init__(self, settings: Settings, vocab_size: int) -> None:
        self.settings = settings
        self.image = ImageTower(
            settings.image_size, settings.patch_size, settings.image_width, settings.image_layers, settings.image_heads,
            settings.output_dim,
        )  # fmt: skip
        self.text = TextTower(
            settings.text_width, settings.text_layers, settings.text_heads, settings.output_dim,
            settings.context_length, vocab_size,
        )  # fmt: skip
        self.logit_scale = jt.array(np.float32([np.log(FIRST_SCALE)]))
        generator = np.random.default_rng([settings.seed, _WEIGHTS])
        strict_load(self.image, random_image_weights(self.image, generator))
        strict_load(self.text, random_text_weights(self.text, generator))

    def parameters(self) -> list[tuple[str, jt.Var]]:
        """Everything that trains, under OpenAI's names."""
        image = [(f"visual.{name}", var) for name, var in self.image.state_dict().items()]
        return [*image, *self.text.state_dict().items(), ("logit_scale", self.logit_scale)]

    def scale(self) -> jt.Var:
        """(1,) what cosines are multiplied by."""
        return self.logit_scale.exp().minimum(LARGEST_SCALE)

    def embed_images(self, images: np.ndarray) -> jt.Var:
        """(B, 3, H, W) float32 normalised -> (B, D), the output of the image tower.

        Only the class token goes through the last block: its other outputs are not used.
        """
        tokens = before_last_block(self.image, jt.array(images))
        block = self.image.transformer.resblocks[-1]

        def attend_from_first(projected: jt.Var, heads: int) -> jt.Var:
            width = projected.shape[-1] // 3
            keys, values = projected[:, :, width : 2 * width], projected[:, :, 2 * width :]
            return cross_attention(projected[:, :1, :width], keys, values, heads)

        first = block.attn(block.ln_1(tokens), attend_from_first, residual=tokens[:, :1])
        first = block.mlp(block.ln_2(first), residual=first)
        return jt.matmul(self.image.ln_post(first[:, 0]), self.image.proj)

    def tensors(self) -> dict[str, np.ndarray]:
        """A copy of all weights, float32, under OpenAI's names."""
        result = {name: var.numpy() for name, var in self.parameters()}
        return result | {"logit_scale": result["logit_scale"].reshape(())}


def export(path: Path, clip: SmallClip, tokenizer: Tokenizer, facts: dict[str, Any]) -> None:
    """Writes the towers as a CLIP weight file of ours, float16, with the vocabulary and `facts` in its metadata."""
    names = (
        "image_size", "patch_size", "image_width", "image_layers", "image_heads", "context_length", "text_width",
        "text_layers", "text_heads", "output_dim",
    )  # fmt: skip
    sizes = {name: getattr(clip.settings, name) for name in names} | {"vocab_size": tokenizer.vocab_size}
    vocabulary = [list(merge) for merge in tokenizer.merges]
    meta = {"format": FORMAT, "clip": sizes, "vocabulary": vocabulary, **facts}
    write_safetensors(path, {name: array.astype(np.float16) for name, array in clip.tensors().items()}, meta)
