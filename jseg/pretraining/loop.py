"""The pre-training loop: next batch, one step of AdamW, log, checkpoint.

python tools/pretrain_clip.py --output pretrained/shapes_clip.safetensors
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jittor as jt

from jseg.clip.tokenizer import Tokenizer, generate_vocabulary
from jseg.config import OptimizerConfig
from jseg.engine import checkpoint
from jseg.engine.log import RunLog
from jseg.engine.optimizer import AdamW
from jseg.errors import UserError
from jseg.pretraining.contrastive import contrastive_loss
from jseg.pretraining.pictures import PictureBatch, sample_captions
from jseg.pretraining.settings import Round, Settings
from jseg.pretraining.small_clip import SmallClip
from jseg.weights import record
from jseg.weights.reader import WeightFile

_KEPT = 2  # checkpoints


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
        self.optimizer = self._fresh_optimizer()

    def _round(self) -> tuple[Round, OptimizerConfig]:
        """The round that the next step belongs to, and what its optimiser is made of."""
        current = self.settings.round(min(self.iteration, self.settings.iterations - 1))
        config = dataclasses.replace(self.settings.optimizer, lr=current.lr, warmup_iterations=current.warmup)
        return current, config

    def _fresh_optimizer(self) -> AdamW:
        return AdamW(self.clip.parameters(), self._round()[1])

    def step(self, batch: PictureBatch) -> tuple[float, float]:
        """One optimiser step; returns the loss before it and the learning rate.

        Raises:
            UserError: the loss is not finite.
        """
        start = self.settings.round_start(self.iteration)
        if start == self.iteration:
            self.optimizer = self._fresh_optimizer()
        current, config = self._round()
        lr = self.optimizer.set_learning_rate(self.iteration - start, current.arc or current.iterations, config)
        pictures, captions = self.clip.embed_pictures(batch.normalised), self.clip.text(batch.tokens)
        loss = contrastive_loss(pictures, captions, self.clip.scale(), batch.true)
        gradients = jt.grad(loss, self.optimizer.parameters)
        self.optimizer.step(gradients)
        value = float(loss.item())
        if not math.isfinite(value):
            raise UserError(f"the loss of iteration {self.iteration} is {value}: lower the learning rate")
        self.iteration += 1
        return value, lr

    def save(self, work_dir: Path) -> Path:
        """Writes a checkpoint and removes old ones."""
        path = checkpoint.checkpoint_path(work_dir, self.iteration)
        meta = {
            "format": record.FORMAT,
            "purpose": "pre-training",
            "iteration": self.iteration,
            "settings": self.settings.described(),
        }
        checkpoint.save(path, self.clip.tensors(), meta, self.optimizer.state())
        checkpoint.prune(work_dir, _KEPT)
        return path

    def resume(self, file: WeightFile) -> None:
        """Goes on from a checkpoint.

        Raises:
            UserError: it is none of pre-training, or was made with other settings.
        """
        if file.meta.get("purpose") != "pre-training":
            raise UserError(f"{file.path} is no checkpoint of pre-training")
        self.settings.check_same(file.meta["settings"])
        prefixes = tuple(record.MOMENT_PREFIXES.values())
        weights = {name: array for name, array in file.tensors.items() if not name.startswith(prefixes)}
        self.clip.load(weights, str(file.path))
        self.iteration = int(file.meta["iteration"])
        self.optimizer = self._fresh_optimizer()
        self.optimizer.load_state(checkpoint.moments_of(file))
        jt.sync_all(True)  # values that still wait to be copied would be fused into the first step, which rounds apart


def train(
    run: Pretraining, batches: Iterator[PictureBatch], log: RunLog, work_dir: Path, stop: int,
    evaluate: Callable[[], dict] | None = None, evaluate_every: int = 0,
) -> None:  # fmt: skip
    """Trains up to `stop` finished steps.

    Args:
        batches: from the run's iteration on.
        work_dir: where checkpoints go.
        evaluate: figures of the towers as they are, logged after every `evaluate_every` steps (0 = never).

    Raises:
        UserError: a loss that is not finite, a disk that cannot be written.
    """
    settings, asked = run.settings, time.perf_counter()
    while run.iteration < stop:
        batch = next(batches)
        waited = time.perf_counter() - asked
        loss, lr = run.step(batch)
        done = run.iteration
        log.add({"total": loss, "scale": float(run.clip.scale().item())}, waited)
        if done % settings.log_every == 0 or done == stop:
            log.report(done, lr)
        if done % settings.save_every == 0 or done == stop:
            log.write("saved", done, file=run.save(work_dir).name)
        if evaluate is not None and evaluate_every and done % evaluate_every == 0 and done < stop:
            figures = evaluate()
            log.write("evaluation", done, metrics=figures)
            print(f"iteration {done}: {figures}", flush=True)
            log.restart_clock(done)
        asked = time.perf_counter()
