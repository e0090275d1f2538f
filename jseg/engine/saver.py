"""Writes the files of a run: checkpoints, the final weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jseg.data.class_names import ClassList
from jseg.engine import checkpoint
from jseg.engine.config import Config
from jseg.engine.text_features import TextFeatures
from jseg.engine.trainer import Trainer
from jseg.model.state import state_arrays


class Saver:
    """Writes checkpoints of a run."""

    def __init__(
        self, work_dir: Path, config: Config, classes: ClassList, text: TextFeatures, trainer: Trainer
    ) -> None:
        self.work_dir, self.trainer, self.config = work_dir, trainer, config.train
        self.text = text
        self.meta = checkpoint.describe(config, classes, text)

    def tensors(self) -> dict[str, np.ndarray]:
        """Model, text tower and class embeddings under their names in the file."""
        return state_arrays(self.trainer.model) | checkpoint.text_arrays(self.text)

    def checkpoint(self, iteration: int) -> Path:
        """Writes the checkpoint after `iteration` finished steps and removes the oldest ones."""
        path = checkpoint.checkpoint_path(self.work_dir, iteration)
        meta = {**self.meta, "iteration": iteration}
        checkpoint.save(path, self.tensors(), meta, self.trainer.optimizer.state())
        checkpoint.prune(self.work_dir, self.config.keep_checkpoints, self.config.milestones)
        return path

    def weights(self) -> Path:
        """Writes the final weights."""
        path = self.work_dir / checkpoint.WEIGHTS_NAME
        checkpoint.save(path, self.tensors(), {**self.meta, "iteration": self.trainer.config.train.iterations})
        return path
