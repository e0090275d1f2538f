"""From a configuration and a weight file to a run and its model; what needs no Jittor is checked first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

from jseg.clip.weights import ClipWeights, read_clip_weights
from jseg.config import Config, config_changes, from_dict
from jseg.data.class_names import ClassList, classes_of
from jseg.data.dataset import Dataset, open_dataset, quick_check
from jseg.data.loader import batch_lines
from jseg.engine import checkpoint
from jseg.engine.log import say
from jseg.errors import UserError
from jseg.files import check_writable
from jseg.outputs import check_outputs
from jseg.runtime.ranks import Ranks
from jseg.weights import record
from jseg.weights.reader import WeightFile

if TYPE_CHECKING:
    from jseg.baselines import PlainClip
    from jseg.engine.optimizer import AdamW, LossScale
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
    overwrite: bool = False  # whether files that jseg did not write may be replaced
    command: Callable[[bool], str] = lambda resumes: ""  # the command that starts this run again, or resumes it
    device: str = "cpu"
    # set by `open`
    used: list[Path] = field(default_factory=list)  # what an earlier run has left in the work folder
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
        """Opens data and weights, and checks everything that can be checked before Jittor starts (UserError)."""
        config, training = self.config, self.task == "train"
        if training and config.cross_dataset:
            raise UserError("cross_dataset: train with the other data set's config, then use --task val --weights PATH")
        if config.test.training_free and (training or self.weights or self.resumes):
            raise UserError("test.training_free measures CLIP as it is: nothing is trained, no other weights are read")
        self.dataset = open_dataset(config.data, self.task)
        if self.task != "test":
            quick_check(self.dataset)
        if training and config.train.eval_every:
            self.val_dataset = open_dataset(config.data, "val")
            quick_check(self.val_dataset)
        self.used = used = checkpoint.results_in(self.work_dir)
        if training and not self.resumes and used:  # no run goes on by accident, nor writes over one
            raise UserError(f"{self.work_dir} already holds {used[-1].name}: pass --resume, or another --work-dir")
        self.classes = classes_of(config.data)
        self.file = self._read_weights()
        if self.file is not None:
            record.model_tensors(self.file)  # refuses plain CLIP weights
            warning = checkpoint.check_classes(self.file, self.classes, self.other_classes or config.cross_dataset)
            say(f"warning: {warning}" if warning else "")
            if training and not self.resumes:
                check_start(self.file, config)
        init, knows_text = config.model.init, self.file and (config.text.embeddings or record.text_tensors(self.file))
        if knows_text and not config.text.embeddings and not record.is_jseg_file(self.file) and Path(init).is_file():
            knows_text = False  # a released file may hold an untrained text tower
        if not (init or self.file):
            raise UserError(
                "nothing to start from: set model.init to CLIP weights (python tools/fetch_pretrained.py ViT-B-16), "
                "pass --weights, or say model.init=random to train an untrained tower on purpose"
            )
        if init not in ("", "random") and not knows_text:
            self.clip = read_clip_weights(init)
        names = checkpoint.RUN_FILES if training else checkpoint.VAL_FILES if self.task == "val" else ()
        if used:  # what else is beside checkpoints is ours, though earlier versions did not mark it
            names = names[:2] if training else ()
        outputs = [self.work_dir / name for name in names]
        check_outputs(outputs, (self.weights, config.model.init), self.work_dir, self.overwrite)
        check_writable(self.work_dir)
        if training:
            say(batch_lines(config, self.ranks.world))
        elif self.task == "test":
            self.save_dir = check_writable(self.save_dir or self.work_dir / "images")

    def _read_weights(self) -> WeightFile | None:
        """The weight file that the run starts from; None when it names none."""
        training = self.task == "train"
        if path := self.resume or self.weights:
            return checkpoint.read_whole(Path(path), is_resumed=training and self.resumes)
        if self.resume == NEWEST:
            file, refused = checkpoint.newest_whole(self.work_dir)
            say("\n".join(f"warning: {reason}" for reason in refused))
            say(f"--resume: newest whole checkpoint is {file.path}")
            return file
        if not training and not self.config.test.training_free:
            raise UserError(f"--task {self.task} needs weights: pass --weights PATH, or --resume for the newest ones")
        if training and self.config.train.expected_weights:
            raise UserError(f"this run starts from {self.config.train.expected_weights}: pass it as --weights PATH")
        return None


def load_model(
    config: Config, file: WeightFile | None, clip: ClipWeights | None = None, precision: str = ""
) -> tuple[ClipRC | PlainClip, list[str]]:
    """The model with the weights of `file`, else initial ones (from `clip` if given), and lines about them."""
    from jseg.baselines import PlainClip
    from jseg.model.clip_rc import build_clip_rc
    from jseg.model.initial_weights import initialise, load_clip_image_weights
    from jseg.model.precision import note, set_precision
    from jseg.model.released_weights import load_released

    if clip is not None and clip.config["image_heads"] not in (0, config.model.heads):
        raise UserError(f"model.heads={config.model.heads}: this CLIP has {clip.config['image_heads']} heads, set that")
    if config.test.training_free:
        if clip is None:
            raise UserError("test.training_free measures CLIP as it is: use tools/run_net.py --task val")
        line = f"plain CLIP {clip.source.path} (SHA-256 {clip.source.sha256}), {config.test.training_free}"
        return PlainClip(config.model, clip.tensors, config.test.training_free), [f"{line}: not trained, any names"]
    model, notes = build_clip_rc(config.model), []
    if file is not None:
        notes = [f"weights {file.path} ({file.kind}, SHA-256 {file.sha256})"]
        notes += load_released(model, record.model_tensors(file))
    else:
        initialise(model, config.model, config.train.seed)
        if clip is not None:
            load_clip_image_weights(model, clip.tensors)
    set_precision(model, precision or config.precision)
    return model, [*notes, *filter(None, [note(precision or config.precision)])]


def check_start(file: WeightFile, config: Config) -> None:
    """Refuses weights that a transductive run must not start from: supervised ones, or of another iteration."""
    ours, wanted = record.is_jseg_file(file), config.train.expected_iteration
    if config.data.setting == "transductive" and ours and file.meta.get("setting") == "supervised":
        start = config.train.expected_weights or "weights of an inductive run"
        raise UserError(f"{file.path} was trained fully supervised, with labels of unseen classes: start from {start}")
    found = file.meta.get("iteration" if ours else "iter", "unknown")
    # mmcv counts from 0: iter_20000.pth of the PyTorch release says 19999
    if wanted and found != wanted and (ours or file.kind == "Jittor pickle" or found != wanted - 1):
        raise UserError(
            f"{file.path} was written after iteration {found}, this run starts from iteration {wanted}: pass "
            f"checkpoint_{wanted:07d}.safetensors of that run, or train.expected_iteration=0 to start from this file"
        )


def resume(optimizer: AdamW, scale: LossScale | None, file: WeightFile, config: Config) -> checkpoint.Progress:
    """Puts the optimiser, and float16's new loss scale, where a checkpoint left them; returns how far the run was."""
    optimizer.load_state(file.tensors, file.meta["optimizer_steps"])
    if scale is not None:
        vars(scale).update(vars(type(scale)(**file.meta.get("loss_scale", {}))))  # none: it had another precision
    for line in config_changes(from_dict(file.meta.get("config", {}), file.path), config):
        say(f"warning: the config has changed since: {line}")
    known, recorded = {item.name for item in fields(checkpoint.Progress)}, file.meta["progress"]
    progress = checkpoint.Progress(**{key: value for key, value in recorded.items() if key in known})
    say(f"resuming after iteration {progress.iteration} of {config.train.iterations}")
    return progress
