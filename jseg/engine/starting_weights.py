"""The model of a run, with the weights that it starts from or is measured with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jseg.clip.weights import ClipWeights, read_clip_weights
from jseg.engine import checkpoint
from jseg.engine.config import Config
from jseg.errors import UserError
from jseg.weight_files import WeightFile

if TYPE_CHECKING:
    from jseg.engine.training_free import PlainClip
    from jseg.model.clip_rc import ClipRC


def clip_of(config: Config, file: WeightFile | None) -> ClipWeights | None:
    """CLIP's weights, where the run needs them.

    Raises:
        UserError: the run has nothing to start from.
    """
    init = config.model.init
    if file is not None and (config.text.embeddings or checkpoint.text_tensors(file) or init in ("", "random")):
        return None
    if not init:
        raise UserError(
            "nothing to start from: set model.init to CLIP weights (python tools/fetch_pretrained.py ViT-B-16), pass "
            "--weights, or say model.init=random to train an untrained tower on purpose"
        )
    return None if init == "random" else read_clip_weights(init)


def build_model(
    config: Config, file: WeightFile | None, clip: ClipWeights | None, averaged: bool = True
) -> ClipRC | PlainClip:
    """The model with its weights, and a line for what was not taken from the file as it is.

    Args:
        averaged: take averaged weights where the file has them (`train.ema`).
    """
    from jseg.model.clip_rc import build_clip_rc, initialise, load_clip_image_weights, load_released

    if config.test.training_free:
        from jseg.engine.training_free import PlainClip

        return PlainClip(config.model, clip.tensors, config.test.training_free)
    model = build_clip_rc(config.model)
    if file is None:
        initialise(model, config.model, config.train.seed)
        if clip is not None:
            load_clip_image_weights(model, clip.tensors)
        return model
    changed = load_released(model, checkpoint.model_tensors(file, averaged))
    print(f"weights: {file.path} ({file.kind}, SHA-256 {file.sha256})")
    dead = [name for name in changed if name in file.tensors]
    for line in [name for name in changed if name not in dead]:
        print(f"weights: {line}")
    if dead:
        print(f"weights: {len(dead)} that no computation uses were dropped ({dead[0]}, …)")
    return model


def in_precision(model: ClipRC, config: Config) -> ClipRC:
    """The model, made to compute in `config.precision`, for everything but training."""
    from jseg.model.precision import note, set_precision

    set_precision(model, config.precision)
    print_if_any(note(config.precision))
    return model


def print_if_any(line: str) -> None:
    """Prints a line, unless there is nothing to say."""
    if line:
        print(line, flush=True)
