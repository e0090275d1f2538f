"""The model of a run, with the weights that it starts from or is measured with.

Whether a run keeps to the published recipe: what it starts from, and its batch.

Zhang et al., "Exploring Regional Clues in CLIP for Zero-Shot Semantic Segmentation", CVPR 2024, section 4.1; the
self-training of the transductive runs starts from an inductive run's half-way weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jseg.clip.weights import ClipWeights, read_clip_weights
from jseg.config import Config
from jseg.errors import UserError
from jseg.weights import record
from jseg.weights.reader import WeightFile

if TYPE_CHECKING:
    from jseg.baselines import PlainClip
    from jseg.model.clip_rc import ClipRC
from typing import Any

from jseg.weights.record import is_jseg_file


def clip_of(config: Config, file: WeightFile | None) -> ClipWeights | None:
    """CLIP's weights, where the run needs them.

    Raises:
        UserError: the run has nothing to start from.
    """
    init = config.model.init
    if file is not None and (config.text.embeddings or record.text_tensors(file) or init in ("", "random")):
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
    from jseg.model.clip_rc import build_clip_rc
    from jseg.model.initial_weights import initialise, load_clip_image_weights
    from jseg.model.released_weights import load_released

    if config.test.training_free:
        from jseg.baselines import PlainClip

        return PlainClip(config.model, clip.tensors, config.test.training_free)
    model = build_clip_rc(config.model)
    if file is None:
        initialise(model, config.model, config.train.seed)
        if clip is not None:
            load_clip_image_weights(model, clip.tensors)
        return model
    changed = load_released(model, record.model_tensors(file))
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


def recorded_iteration(file: WeightFile) -> int | None:
    """After how many iterations the weights were written (ours and PyTorch checkpoints say); None = unknown."""
    iteration = file.meta.get("iteration" if is_jseg_file(file) else "iter")
    return iteration if type(iteration) is int and iteration >= 0 else None


def check_start(file: WeightFile, config: Config) -> list[str]:
    """Checks weights that a new run is to start from against what its config expects.

    Returns:
        Warnings, a line each.

    Raises:
        UserError: written after another number of iterations than `train.expected_iteration`, or a transductive run
            from weights that have already learned the unseen classes' labels.
    """
    if config.data.setting == "transductive" and is_jseg_file(file) and file.meta.get("setting") == "supervised":
        raise UserError(
            f"{file.path} was trained fully supervised, so it knows the labels of the unseen classes: start from "
            f"{config.train.expected_weights or 'weights of an inductive run'}"
        )
    wanted = config.train.expected_iteration
    if not wanted:
        return []
    found = recorded_iteration(file)
    if found is None:
        return [f"{file.path} does not say at which iteration it was written: this run expects iteration {wanted}"]
    if found != wanted:
        raise UserError(
            f"{file.path} was written after iteration {found}, this run starts from iteration {wanted}: pass "
            f"checkpoint_{wanted:07d}.safetensors of that run, or train.expected_iteration=0 to start from this file"
        )
    return []


def check_shares(config: Config, world: int) -> None:
    """Checks that the batch can be split over `world` processes.

    Raises:
        UserError: it cannot, or a process's share not into micro-batches.
    """
    batch, micro_batch = config.train.batch_size, config.train.micro_batch
    if batch % world:
        raise UserError(f"train.batch_size={batch}: must be a multiple of the number of processes, {world}")
    if micro_batch and batch // world % micro_batch:
        raise UserError(
            f"train.micro_batch={micro_batch}: must divide each process's share of the batch, {batch} / {world} = "
            f"{batch // world}"
        )


def batch_line(config: Config, world: int = 1) -> str:
    """How the batch of a training run on `world` processes is made up."""
    train, share = config.train, config.train.batch_size // world
    parts = share // (train.micro_batch or share)
    factors = [f"{world} processes"] * (world > 1) + [str(parts)] * (parts > 1) + [str(share // parts)]
    made = f" ({' x '.join(factors)}, gradients added up)" if len(factors) > 1 else ""
    recipe = f", as the recipe has it{made}" if train.batch_size == train.recipe_batch else made
    return f"batch: {train.batch_size} pictures in all{recipe}"


def batch_warning(batch: Any, config: Config) -> str | None:
    """A line when a batch (in all) is not the recipe's; None when it is, or when there is no recipe."""
    recipe = config.train.recipe_batch
    if not recipe or batch == recipe:
        return None
    return (
        f"the effective batch is {batch}, the recipe's is {recipe}: results are not comparable with the published ones "
        f"(train.batch_size={recipe} with a smaller train.micro_batch needs no more memory)"
    )


def weights_batch_warning(file: WeightFile, config: Config) -> str | None:
    """The same for weights of ours, which record the batch that they were trained with."""
    recorded = file.meta.get("config") if is_jseg_file(file) else None
    train = recorded.get("train") if isinstance(recorded, dict) else None
    batch = train.get("batch_size") if isinstance(train, dict) else None
    warning = batch_warning(batch, config) if batch is not None else None
    return f"{file.path} was trained with another batch: {warning}" if warning else None
