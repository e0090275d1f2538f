"""A model, batches and a configuration so small that a step takes milliseconds; shared by tests of training."""

from typing import Any

import numpy as np

from jseg.config import Config, ModelConfig
from jseg.engine.train import Trainer
from jseg.model.clip_rc import build_clip_rc, set_training
from jseg.model.initial_weights import initialise
from jseg.runtime.ranks import ALONE, Ranks

CLASSES, UNSEEN = 5, (3, 4)


def tiny_config(**train_values: Any) -> Config:
    config = Config()
    config.model = ModelConfig(
        image_size=64, width=32, layers=2, heads=2, output_dim=16, prompts=2, region_grid=2, decoder_layers=2,
        decoder_heads=4,
    )  # fmt: skip
    config.optimizer.warmup_iterations, config.optimizer.lr = 2, 1e-4
    config.train.iterations = 10
    for key, value in train_values.items():
        setattr(config.train, key, value)
    return config


def tiny_trainer(config: Config, unseen: tuple[int, ...] = (), dropout: bool = False, ranks: Ranks = ALONE) -> Trainer:
    model = build_clip_rc(config.model)
    initialise(model, config.model, seed=1)
    set_training(model, dropout)
    text = np.random.default_rng(2).normal(size=(CLASSES, config.model.output_dim)).astype(np.float32)
    return Trainer(model, text / np.linalg.norm(text, axis=1, keepdims=True), unseen, config, ranks)


def tiny_batch(seed: int, size: int = 4, lowest: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels in blocks, so that images differ in how many classes they hold."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(lowest, CLASSES, (size, 2, 4)).astype(np.int32)
    labels[0] = lowest + 1  # one class only
    labels[-1, 0] = 255
    images = rng.normal(size=(size, 3, 64, 64)).astype(np.float32)
    return images, labels.repeat(32, axis=1).repeat(16, axis=2)


def weights(trainer: Trainer) -> dict[str, np.ndarray]:
    return {name: var.numpy() for name, var in trainer.model.state_dict().items()}
