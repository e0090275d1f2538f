"""What training and evaluation run, on a model of no size: all of it is compiled, nothing is learnt."""

import jittor as jt
import numpy as np

from jseg.config import Config
from jseg.engine.sliding_window import ImageScores
from jseg.model.clip_rc import build_clip_rc, set_training
from jseg.model.initial_weights import initialise
from jseg.ops.device import normalise
from tests.engine.tiny_training import CLASSES, tiny_batch, tiny_config, tiny_trainer

UNSEEN = {"inductive": (), "transductive": (3, 4), "supervised": ()}


def small_config() -> Config:
    """A tiny model with heads as wide as CLIP's."""
    config = tiny_config()
    config.model.width, config.model.heads, config.model.decoder_heads, config.model.output_dim = 128, 2, 2, 128
    config.test.crop_size, config.test.stride = (64, 64), (32, 32)
    return config


def train(setting: str, precision: str = "fp32") -> None:
    """One step with dropout: forward, losses, gradients, their norm, AdamW."""
    config = small_config()
    config.precision = precision
    trainer = tiny_trainer(config, UNSEEN[setting], dropout=True)
    images, labels = tiny_batch(seed=5, lowest=-1 if UNSEEN[setting] else 0)
    trainer.update(*trainer.gradients(images.astype(np.uint8), labels.astype(np.int16), np.int32([[64, 48]] * 4)), 0)


def evaluate() -> None:
    """An image of two windows: scores, their mean where windows overlap, resizing, the highest class."""
    config = small_config()
    model = build_clip_rc(config.model)
    initialise(model, config.model, seed=1)
    set_training(model, False)
    text = jt.array(np.eye(CLASSES, 128, dtype=np.float32))
    image = np.zeros((3, 64, 96), np.uint8)
    ImageScores(model, normalise(image, config.data), text, (0, 1), 0.1, config.test).labels((50, 70))
