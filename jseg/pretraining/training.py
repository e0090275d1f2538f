"""Contrastive pre-training of a small CLIP: towers, loss (Radford et al., 2021, figure 3), training loop, figures."""

import math
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jittor as jt
import numpy as np
from jittor import nn

from jseg.baselines import before_last_block
from jseg.clip.class_embeddings import embed_class_names, unit_rows
from jseg.clip.image_tower import ImageTower, random_image_weights
from jseg.clip.text_tower import TextTower, random_text_weights
from jseg.clip.tokenizer import Tokenizer
from jseg.clip.weights import FORMAT
from jseg.config import DataConfig
from jseg.data.class_names import SHAPES_NAMES
from jseg.engine.optimizer import AdamW, learning_rate
from jseg.errors import CheckFailed
from jseg.ops.attention import cross_attention, qkv_of
from jseg.ops.device import normalise
from jseg.ops.layers import unit_length
from jseg.pretraining.images import (
    HELD_OUT_STREAM,
    OPTIMIZER,
    ImageBatch,
    Settings,
    Stage,
    cut,
    draw,
    make_tokenizer,
)  # fmt: skip
from jseg.weights.reader import write_safetensors
from jseg.weights.state import strict_load

FIRST_SCALE, LARGEST_SCALE = 1 / 0.07, 100.0  # of cosines: at the start, and what it may grow to (CLIP's values)
TEMPLATES = (
    "a photo of a {}.", "a {}.", "there is a {} in the picture.", "this is a {}.", "a picture of a {}.",
    "a {} in the scene.",
)  # fmt: skip
CROPS = Stage(0, 0, 64, (1, 1), (1.0, 1.0))  # single-object crops: 64 of the 96 pixels of a scene a side
WHOLE_SCENES = Stage(0, 0, 96, (1, 1), None)


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
        generator = np.random.default_rng([settings.seed, 3])
        strict_load(self.image, random_image_weights(self.image, generator))
        strict_load(self.text, random_text_weights(self.text, generator))

    def parameters(self) -> list[tuple[str, jt.Var]]:
        """Everything that trains, under OpenAI's names."""
        image = [(f"visual.{name}", var) for name, var in self.image.state_dict().items()]
        return [*image, *self.text.state_dict().items(), ("logit_scale", self.logit_scale)]

    def embed_images(self, images: np.ndarray) -> jt.Var:
        """(B, H, W, 3) uint8 RGB -> (B, D); only the class token goes through the last block."""
        tokens = before_last_block(self.image, normalise(images.transpose(0, 3, 1, 2), DataConfig()))
        block = self.image.transformer.resblocks[-1]

        def attend_from_first(projected: jt.Var, heads: int) -> jt.Var:
            queries, keys, values = qkv_of(projected)
            return cross_attention(queries[:, :1], keys, values, heads)

        first = block.attn(block.ln_1(tokens), attend_from_first, residual=tokens[:, :1])
        first = block.mlp(block.ln_2(first), residual=first)
        return jt.matmul(self.image.ln_post(first[:, 0]), self.image.proj)

    def tensors(self) -> dict[str, np.ndarray]:
        """A copy of all weights, float32, under OpenAI's names."""
        result = {name: var.numpy() for name, var in self.parameters()}
        return result | {"logit_scale": result["logit_scale"].reshape(())}


def contrastive_loss(images: jt.Var, captions: jt.Var, scale: jt.Var, true: np.ndarray) -> jt.Var:
    """(1,) mean symmetric cross-entropy of finding the own caption, and the own image, among all of the batch.

    `images`, `captions`: (B, D), not normalised, in the same order; `scale` (1,) is a factor on cosines; pairs off the
    diagonal of which `true` (B, B: image, caption) is set take no part.
    """
    left_out = np.where(true & ~np.eye(len(true), dtype=bool), -1e4, 0).astype(np.float32)
    images, captions = unit_length(images), unit_length(captions)
    own = (images * captions).sum(-1) * scale
    logits = nn.matmul_transpose(images, captions) * scale + jt.array(left_out)

    def log_sum_exp(dim: int) -> jt.Var:
        highest = logits.max(dim, keepdims=True).stop_grad()
        return ((logits - highest).exp().sum(dim, keepdims=True).log() + highest).reshape(-1)

    return ((log_sum_exp(1) + log_sum_exp(0)) / 2 - own).mean()


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
        self.optimizer.lr = learning_rate(self.iteration - start, current.arc, config)
        images, tokens, true = batch
        images, captions = self.clip.embed_images(images), self.clip.text(tokens)
        scale = self.clip.logit_scale.exp().minimum(LARGEST_SCALE)
        loss = contrastive_loss(images, captions, scale, true)
        self.optimizer.step(jt.grad(loss, self.optimizer.parameters))
        value = float(loss.item())
        if not math.isfinite(value):
            raise CheckFailed(f"the loss of iteration {self.iteration} is {value}")
        self.iteration += 1
        return value, self.optimizer.lr


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
    tensors = {name: array.astype(np.float16) for name, array in clip.tensors().items()}
    if not all(np.isfinite(array).all() for array in tensors.values()):
        raise CheckFailed("the weights are not finite as float16")
    write_safetensors(path, tensors, meta)


def zero_shot_accuracy(clip: SmallClip, text: np.ndarray, stage: Stage, count: int) -> tuple[float, list[float | None]]:
    """Percent of unseen single-object images whose class name is the nearest of 20; over all, and per class."""
    drawn = (draw(stage.objects, HELD_OUT_STREAM, 0, stage.pixels, index) for index in range(count))
    items, rows = [cut(scene, stage, rng) for scene, rng in drawn], []
    with jt.no_grad():
        for start in range(0, count, 50):
            images = np.stack([item.image for item in items[start : start + 50]])
            rows.append(clip.embed_images(images).numpy())
    classes = np.array([item.class_index for item in items])
    right = (unit_rows(np.concatenate(rows)) @ text.T).argmax(axis=1) == classes
    groups = [right[classes == index] for index in range(len(SHAPES_NAMES))]
    return float(100 * right.mean()), [float(100 * group.mean()) if group.size else None for group in groups]


def evaluate(clip: SmallClip, tokenizer: Tokenizer, count: int = 1000) -> dict[str, Any]:
    """All figures in percent, on `count` single-object images."""
    text = embed_class_names(SHAPES_NAMES, TEMPLATES, tokenizer, clip.text, "")
    accuracy, per_class = zero_shot_accuracy(clip, text, CROPS, count)
    return {
        "zero-shot accuracy": accuracy,
        "zero-shot accuracy, whole scenes": zero_shot_accuracy(clip, text, WHOLE_SCENES, count)[0],
        "per class": dict(zip(SHAPES_NAMES, per_class, strict=True)),
    }
