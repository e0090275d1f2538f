"""Contrastive pre-training: the loss of CLIP (Radford et al., 2021, figure 3) and the training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import replace

import jittor as jt
import numpy as np

from jseg.clip.blocks import unit_length
from jseg.clip.tokenizer import Tokenizer, generate_vocabulary
from jseg.engine.optimizer import AdamW
from jseg.pretraining.images import ImageBatch, normalise_images, sample_captions
from jseg.pretraining.settings import OPTIMIZER, Settings
from jseg.pretraining.small_clip import SmallClip

LEFT_OUT = -1e4  # added to logits that must not count; exp of it is 0


def contrastive_loss(images: jt.Var, captions: jt.Var, scale: jt.Var, true: np.ndarray) -> jt.Var:
    """Symmetric cross-entropy of finding the own caption among all captions, and the own image among all images.

    Args:
        images, captions: (B, D) embeddings, not normalised; row i of both belong together.
        scale: (1,) factor on cosines.
        true: (B, B) bool, whether caption [column] is true of image [row]. Such pairs off the diagonal are no wrong
            answers: they take no part.

    Returns:
        (1,) mean over both directions and the batch.
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
