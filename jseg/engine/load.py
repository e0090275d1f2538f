"""From a configuration and a weight file to a run and its model; what can be checked before Jittor starts comes first.

Whether a run keeps to the published recipe (Zhang et al., "Exploring Regional Clues in CLIP for Zero-Shot Semantic
Segmentation", CVPR 2024, section 4.1) is checked here too: where it starts from, and its batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jseg.clip.weights import ClipWeights, read_clip_weights
from jseg.config import Config
from jseg.data.class_names import ClassList, classes_of
from jseg.data.dataset import Dataset, open_dataset, quick_check
from jseg.engine import checkpoint
from jseg.engine.log import say
from jseg.engine.ranks import Ranks
from jseg.errors import UserError
from jseg.files import check_writable
from jseg.weights import record
from jseg.weights.reader import WeightFile

if TYPE_CHECKING:
    from jseg.baselines import PlainClip
    from jseg.model.clip_rc import ClipRC

NEWEST = ""  # `resume` without a path: from the newest whole checkpoint of the work folder


@dataclass
class Run:
    """A task of tools/run_net.py."""

    task: str  # train, val or test
    config: Config
    ranks: Ranks
    work_dir: Path
    save_dir: Path | None = None  # for drawn images; None = the task's default
    weights: Path | None = None
    resume: str | None = None  # train: a checkpoint to go on from, or NEWEST; val, test: the same as `weights`
    other_classes: bool = False  # whether weights that were made for other classes are taken
    command: Callable[[bool], str] = lambda resumes: ""  # the command that starts this run again, or resumes it
    device: str = "cpu"
    # set by `open`
    dataset: Dataset | None = None
    val_dataset: Dataset | None = None  # for evaluations during training
    classes: ClassList | None = None
    file: WeightFile | None = None  # weights to start from; None: CLIP's or untrained ones
    clip: ClipWeights | None = None

    @property
    def resumes(self) -> bool:
        """Whether training goes on from a checkpoint."""
        return self.resume is not None

    def open(self) -> None:
        """Opens data and weights, and checks everything that can be checked before Jittor starts.

        Raises:
            UserError: a mistake in configuration, data, weights or folders.
        """
        config, training = self.config, self.task == "train"
        if training and config.cross_dataset:
            raise UserError(
                "this config evaluates weights of another data set (cross_dataset): train with that one's config, then "
                "pass its weights to --task val --weights PATH"
            )
        if config.test.training_free and (training or self.weights or self.resumes):
            raise UserError(
                "this config measures CLIP as it is (test.training_free): nothing is trained and no other weights than "
                "model.init are read; use --task val or test alone"
            )
        self.dataset = open_dataset(config.data, self.task)
        if self.task != "test":
            quick_check(self.dataset)
        if training and config.train.eval_every:
            self.val_dataset = open_dataset(config.data, "val")
            quick_check(self.val_dataset)
        if training and not self.resumes:
            refuse_used_folder(self.work_dir)
        self.classes = classes_of(config.data)
        self.file = self._read_weights()
        if self.file is not None:
            record.model_tensors(self.file)  # refuses plain CLIP weights
            warnings = checkpoint.check_classes(self.file, self.classes, self.other_classes or config.cross_dataset)
            if not training:
                warnings.append(weights_batch_warning(self.file, config))
            elif not self.resumes:
                warnings += check_start(self.file, config)
            say("\n".join(f"warning: {warning}" for warning in warnings if warning))
        self.clip = clip_of(config, self.file)
        check_writable(self.work_dir)
        if training:
            check_shares(config, self.ranks.world)
        elif self.task == "test":
            self.save_dir = check_writable(self.save_dir or self.work_dir / "images")

    def _read_weights(self) -> WeightFile | None:
        """The weight file that the run starts from; None when it names none."""
        path = Path(self.resume) if self.resume else self.weights
        if path is not None:
            return (checkpoint.read_checkpoint if self.task == "train" and self.resume else checkpoint.read_whole)(path)
        if self.resume == NEWEST:
            file, refused = checkpoint.newest_whole(self.work_dir)
            say("\n".join(f"warning: {reason}" for reason in refused))
            say(f"--resume: newest whole checkpoint is {file.path}")
            return file
        if self.task != "train" and not self.config.test.training_free:
            raise UserError(
                f"--task {self.task} needs weights: pass --weights PATH, or --resume for those of the work folder"
            )
        if self.task == "train" and self.config.train.expected_weights:
            raise UserError(f"this run starts from {self.config.train.expected_weights}: pass it as --weights PATH")
        return None


def refuse_used_folder(work_dir: Path) -> None:
    """Refuses a work folder that holds checkpoints or weights: no run goes on by accident, nor writes over one."""
    finished = work_dir / checkpoint.WEIGHTS_NAME
    found = [*([finished] if finished.exists() else []), *checkpoint.checkpoints_in(work_dir)]
    if found:
        raise UserError(
            f"{work_dir} already holds {found[-1].name}: pass --resume to go on with that run, or another --work-dir "
            "to start a new one"
        )


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


def load_model(
    config: Config, file: WeightFile | None, clip: ClipWeights | None = None, precision: str = ""
) -> tuple[ClipRC | PlainClip, list[str]]:
    """The model with its weights, ready to compute, and what is to be known about them, a line each.

    Args:
        file: weights of CLIP-RC; None = initial ones.
        clip: weights of CLIP to start from; None = none, or those of `file` are enough.
        precision: what it computes in; "" = `config.precision`.

    Raises:
        UserError: weights that do not fit the model, a precision that the device does not have.
    """
    from jseg.baselines import PlainClip
    from jseg.model.clip_rc import build_clip_rc
    from jseg.model.initial_weights import initialise, load_clip_image_weights
    from jseg.model.precision import note, set_precision
    from jseg.model.released_weights import load_released

    precision = precision or config.precision
    if config.test.training_free:
        return PlainClip(config.model, clip.tensors, config.test.training_free), []
    model, notes = build_clip_rc(config.model), []
    if file is not None:
        tensors = record.model_tensors(file)
        changed = load_released(model, tensors)
        dead = [name for name in changed if name in tensors]
        notes = [
            f"weights {file.path} ({file.kind}, SHA-256 {file.sha256})",
            *(name for name in changed if name not in dead),
        ]
        if dead:
            notes.append(f"{len(dead)} weights that no computation uses were dropped ({dead[0]}, …)")
    else:
        initialise(model, config.model, config.train.seed)
        if clip is not None:
            load_clip_image_weights(model, clip.tensors)
    set_precision(model, precision)
    return model, [*notes, *filter(None, [note(precision)])]


def check_start(file: WeightFile, config: Config) -> list[str]:
    """Checks weights that a new run is to start from against what its config expects; returns warnings.

    Raises:
        UserError: written after another number of iterations than `train.expected_iteration`, or a transductive run
            from weights that have already learned the unseen classes' labels.
    """
    if config.data.setting == "transductive" and record.is_jseg_file(file) and file.meta.get("setting") == "supervised":
        raise UserError(
            f"{file.path} was trained fully supervised, so it knows the labels of the unseen classes: start from "
            f"{config.train.expected_weights or 'weights of an inductive run'}"
        )
    wanted = config.train.expected_iteration
    found = file.meta.get("iteration" if record.is_jseg_file(file) else "iter")  # of PyTorch's checkpoints
    if not wanted or found == wanted:
        return []
    if type(found) is not int or found < 0:
        return [f"{file.path} does not say at which iteration it was written: this run expects iteration {wanted}"]
    raise UserError(
        f"{file.path} was written after iteration {found}, this run starts from iteration {wanted}: pass "
        f"checkpoint_{wanted:07d}.safetensors of that run, or train.expected_iteration=0 to start from this file"
    )


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
    return f"batch: {train.batch_size} images in all{recipe}"


def batch_warning(batch: int, config: Config) -> str:
    """A line when a batch (in all) is not the recipe's, else ""."""
    recipe = config.train.recipe_batch
    if not recipe or batch == recipe:
        return ""
    return (
        f"the effective batch is {batch}, the recipe's is {recipe}: results are not comparable with the published ones "
        f"(train.batch_size={recipe} with a smaller train.micro_batch needs no more memory)"
    )


def weights_batch_warning(file: WeightFile, config: Config) -> str:
    """The same for weights of ours, which record the batch that they were trained with."""
    recorded = file.meta.get("config", {}) if record.is_jseg_file(file) else {}
    batch = recorded.get("train", {}).get("batch_size")
    warning = batch_warning(batch, config) if batch is not None else ""
    return f"{file.path} was trained with another batch: {warning}" if warning else ""
