"""Contrastive pre-training of a small CLIP: towers, loss (Radford et al., 2021, figure 3) and training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jittor as jt
import numpy as np

from jseg.baselines import before_last_block
from jseg.clip.blocks import unit_length
from jseg.clip.image_tower import ImageTower, random_image_weights
from jseg.clip.text_tower import TextTower, random_text_weights
from jseg.clip.tokenizer import Tokenizer, generate_vocabulary
from jseg.clip.weights import FORMAT
from jseg.engine.optimizer import AdamW
from jseg.ops.attention import cross_attention
from jseg.pretraining.images import OPTIMIZER, ImageBatch, Settings, normalise_images, sample_captions
from jseg.weights.reader import write_safetensors
from jseg.weights.state import strict_load

FIRST_SCALE, LARGEST_SCALE = 1 / 0.07, 100.0  # of cosines: at the start, and what it may grow to (CLIP's values)
_WEIGHTS = 3  # second word of the seed
LEFT_OUT = -1e4  # added to logits that must not count; exp of it is 0


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


def contrastive_loss(images: jt.Var, captions: jt.Var, scale: jt.Var, true: np.ndarray) -> jt.Var:
    """(1,) mean symmetric cross-entropy of finding the own caption, and the own image, among all of the batch.

    Args:
        images, captions: (B, D) embeddings, not normalised; row i of both belong together.
        scale: (1,) factor on cosines.
        true: (B, B) bool, whether caption [column] is true of image [row]; off the diagonal such pairs take no part.
    """
    left_out = np.where(true & ~np.eye(len(true), dtype=bool), LEFT_OUT, 0).astype(np.float32)
    images, captions = unit_length(images), unit_length(captions)
    own = (images * captions).sum(-1) * scale
    logits = jt.matmul(images, captions.transpose(1, 0)) * scale + jt.array(left_out)

    def log_sum_exp(dim: int) -> jt.Var:
        highest = logits.max(dim, keepdims=True).stop_grad()
        return ((logits - highest).exp().sum(dim, keepdims=True).log() + highest).reshape(-1)

    return ((log_sum_exp(1) + log_sum_exp(0)) / 2 - own).mean()


def make_tokenizer(settings: Settings) -> Tokenizer:
    """The byte-pair vocabulary of the captions."""
    captions = sample_captions(settings.vocabulary_captions, settings.seed)
    return Tokenizer(generate_vocabulary(captions, settings.merges))


class Pretraining:
    """A run: towers, optimiser, vocabulary, and the number of finished steps."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.tokenizer = make_tokenizer(settings)
        self.clip = SmallClip(settings, self.tokenizer.vocab_size)
        self.iteration = 0
        self.optimizer: AdamW | None = None  # a new one for each round

    def step(self, batch: ImageBatch) -> tuple[float, float]:
        """One optimiser step; returns the loss before it and the learning rate."""
        current, start, _ = self.settings.at(self.iteration)
        config = replace(OPTIMIZER, lr=current.lr, warmup_iterations=current.warmup)
        if start == self.iteration:
            self.optimizer = AdamW(self.clip.parameters(), config)
        lr = self.optimizer.set_learning_rate(self.iteration - start, current.arc or current.iterations, config)
        images, captions = self.clip.embed_images(normalise_images(batch.images)), self.clip.text(batch.tokens)
        loss = contrastive_loss(images, captions, self.clip.scale(), batch.true)
        self.optimizer.step(jt.grad(loss, self.optimizer.parameters))
        value = float(loss.item())
        assert math.isfinite(value), f"the loss of iteration {self.iteration} is {value}"
        self.iteration += 1
        return value, lr


def train(run: Pretraining, batches: Iterable[ImageBatch], stop: int) -> list[list[float]]:
    """Trains on `batches` up to `stop` finished steps; prints and returns (step, mean loss since the last one)."""
    recorded, losses, begin = [], [], time.perf_counter()
    for batch in batches:
        loss, lr = run.step(batch)
        losses.append(loss)
        if run.iteration % run.settings.log_every == 0 or run.iteration == stop:
            mean, seconds = sum(losses) / len(losses), (time.perf_counter() - begin) / run.iteration
            place = f"iteration {run.iteration} of {run.settings.iterations}"
            print(f"{place}: loss {mean:.4f}, learning rate {lr:.3g}, {seconds:.2f} s a step", flush=True)
            recorded.append([run.iteration, round(mean, 4)])
            losses = []
    return recorded


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
