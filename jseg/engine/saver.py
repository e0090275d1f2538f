"""Writes the files of a run: checkpoints, the best and the final weights, a step that can be repeated."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from jseg.clip.class_embeddings import TextFeatures
from jseg.config import Config
from jseg.data.class_names import ClassList
from jseg.data.loader import Batch
from jseg.engine import checkpoint
from jseg.engine.checkpoint import METRICS_NAME, WEIGHTS_NAME
from jseg.engine.progress import Progress
from jseg.engine.trainer import Trainer
from jseg.files import as_json, whole_file, write_json
from jseg.weights import record
from jseg.weights.state import state_arrays

BEST_NAME = "best.safetensors"
BEST_METRICS_NAME = "best_metrics.json"


class Saver:
    """Writes files of a run; every method raises CannotWrite when the disk is full, and leaves older files alone."""

    def __init__(
        self, work_dir: Path, config: Config, classes: ClassList, text: TextFeatures, trainer: Trainer
    ) -> None:
        self.work_dir, self.trainer, self.config = work_dir, trainer, config.train
        self.text = text
        self.meta = checkpoint.describe(config, classes, text)

    def _model(self) -> dict[str, np.ndarray]:
        """Model, text tower and class embeddings under their names in the file."""
        return state_arrays(self.trainer.model) | self.trainer.frozen | checkpoint.text_arrays(self.text)

    def _averages(self) -> dict[str, np.ndarray]:
        average = self.trainer.average
        return average.state() if average is not None else {}

    def _all(self) -> dict[str, np.ndarray]:
        averages = {record.AVERAGE_PREFIX + name: array for name, array in self._averages().items()}
        return self._model() | averages

    def _record(self, progress: Progress) -> dict[str, Any]:
        """The metadata of a file that a run can go on from."""
        scale = self.trainer.loss_scale
        return {**self.meta, **progress.meta(), **(scale.meta() if scale is not None else {})}

    def checkpoint(self, progress: Progress) -> Path:
        """Writes a checkpoint and removes the oldest ones."""
        path = checkpoint.checkpoint_path(self.work_dir, progress.iteration)
        checkpoint.save(path, self._all(), self._record(progress), self.trainer.optimizer.state())
        checkpoint.prune(self.work_dir, self.config.keep_checkpoints, self.config.milestones)
        return path

    def weights(self, iteration: int, name: str = WEIGHTS_NAME) -> Path:
        """Writes weights to use: the averaged ones where the run keeps them."""
        path = self.work_dir / name
        checkpoint.save(path, self._model() | self._averages(), {**self.meta, "iteration": iteration})
        return path

    def metrics(self, metrics: dict[str, Any]) -> None:
        """Writes the metrics of the last evaluation."""
        write_json(self.work_dir / METRICS_NAME, metrics)

    def best(self, iteration: int, metrics: dict[str, Any]) -> Path:
        """Writes the best weights so far, and their metrics."""
        with whole_file(self.work_dir / BEST_METRICS_NAME) as file:  # on disk before the weights, in place after them
            file.write(as_json({"iteration": iteration, **metrics}))
            file.flush()
            os.fsync(file.fileno())
            return self.weights(iteration, BEST_NAME)

    def bad_step(self, batch: Batch, progress: Progress, problem: str) -> Path:
        """Writes everything that a step depends on, for tools/repeat_step.py.

        Args:
            batch: the step's, of all ranks.
            progress: before the step.
            problem: what was wrong with it.
        """
        path = self.work_dir / f"bad_step_{batch.iteration:07d}.safetensors"
        tensors = {record.BATCH_PREFIX + "images": batch.images, record.BATCH_PREFIX + "labels": batch.labels}
        told = {"names": batch.names, "problem": problem, "seed": self.config.seed, "ranks": self.trainer.ranks.world}
        meta = {**self._record(progress), "bad_step": told}
        checkpoint.save(path, self._all() | tensors, meta, self.trainer.optimizer.state())
        return path
