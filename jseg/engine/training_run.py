"""A whole training run: model, data sets and folder in, a folder with weights, log and record out.

python tools/run_net.py --config-file configs/shapes_demo.py --task train
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jseg.clip.class_embeddings import TextFeatures
from jseg.config import Config
from jseg.data.dataset import Dataset
from jseg.data.label_maps import training_classes
from jseg.data.loader import training_batches
from jseg.engine import checkpoint
from jseg.engine.evaluate import evaluate
from jseg.engine.load import print_if_any
from jseg.engine.log import RunLog, make_events, write_record
from jseg.engine.loop import Breaks, Loop
from jseg.engine.optimizer import loss_scale_of
from jseg.engine.progress import Progress, best_metric, progress_of
from jseg.engine.ranks import Ranks
from jseg.engine.saver import Saver
from jseg.engine.signals import StopRequest
from jseg.engine.trainer import Trainer
from jseg.model.clip_rc import ClipRC
from jseg.model.precision import note
from jseg.weights import record
from jseg.weights.reader import WeightFile
from jseg.weights.state import state_arrays


@dataclass
class RunStart:
    """How a run was started, besides its config."""

    folder: Path  # for all that it leaves
    pictures: Path | None  # folder for those that evaluations during the run draw
    device: str
    weights: WeightFile | None  # that the model has; None: CLIP's or untrained
    resumes: bool  # goes on with the run that `weights` come from
    resume_command: str  # would go on with this one once it was stopped


def train(
    model: ClipRC,
    text: TextFeatures,
    datasets: tuple[Dataset, Dataset | None],
    config: Config,
    start: RunStart,
    ranks: Ranks,
) -> None:
    """Trains, and leaves `weights.safetensors` in the run's folder unless a signal stops it.

    Args:
        datasets: for training, and for evaluations meanwhile (`train.eval_every`).
    """
    folder, classes = start.folder, datasets[0].class_list
    shown = list(training_classes(classes, config.data.setting))
    unseen = classes.unseen if config.data.setting == "transductive" else ()
    trainer = Trainer(model, text.matrix[shown], unseen, config, ranks)
    print_if_any(note(config.precision))
    if ranks.world > 1:
        frozen = state_arrays(model) | trainer.frozen | {"class embeddings": text.matrix}
        ranks.check_same("weights and class embeddings", record.tensors_sha256(frozen))
    progress = resume(trainer, start.weights, config) if start.resumes else Progress()
    first = progress.iteration
    log = RunLog(folder if ranks.first else None, config.train.iterations, first, progress.log, progress.evaluated)
    if ranks.first:
        log.events = make_events(config.train.tensorboard, folder, first)
        log.write("start", first, **write_record(folder, config, start.device, first, start.weights, ranks.world))
    saver = Saver(folder, config, classes, text, trainer)

    def evaluate_now(breaks: Breaks) -> dict[str, Any]:
        val = datasets[1]
        return evaluate(model, val, text.matrix, config, None, start.pictures, ranks, breaks, drawing_may_fail=True)

    source = training_batches(datasets[0], config, first, ranks.rank, ranks.world)
    with StopRequest() as stop, closing(source) as batches:
        loop = Loop(trainer, log, saver, progress, stop, evaluate_now if datasets[1] is not None else None)
        ending = loop.run(batches)
        if ending != "stopped" and ranks.first:
            print(f"weights: {saver.weights(progress.iteration)}")
    for line in last_words(ending, stop.signal_name, progress, config, start.resume_command):
        print(line, flush=True)


def resume(trainer: Trainer, file: WeightFile, config: Config) -> Progress:
    """Puts optimiser and averaged weights where the checkpoint left them; returns how far the run was."""
    progress = progress_of(file.meta, file.path)
    trainer.optimizer.load_state(checkpoint.moments_of(file))
    if trainer.loss_scale is not None:
        trainer.loss_scale = loss_scale_of(file.meta, file.path)
    averages = record.averages_of(file)
    if trainer.average is not None and averages:
        trainer.average.load_state(averages)
    for line in checkpoint.config_changes(file, config):
        print(f"warning: the config has changed since: {line}")
    print(f"resuming after iteration {progress.iteration} of {config.train.iterations}")
    return progress


def last_words(ending: str, signal_name: str, progress: Progress, config: Config, resume_command: str) -> list[str]:
    """What there is to say of a run that has ended."""
    lines = []
    if progress.best is not None:
        name = best_metric(config)
        lines.append(f"best {name}: {progress.best:.2f} after iteration {progress.best_iteration} (best.safetensors)")
    if progress.bad_steps:
        lines.append(f"warning: {progress.bad_steps} steps were skipped: see 'bad step' in log.jsonl")
    if ending == "no gain":
        evaluations = f"{progress.without_gain} evaluations in a row without gain"
        lines.append(f"ended after iteration {progress.iteration} of {config.train.iterations}: {evaluations}")
    if ending == "stopped":
        saved = f"saved after iteration {progress.iteration} of {config.train.iterations}"
        lines.append(f"{signal_name or 'a signal to another process'}: {saved}; go on with")
        lines.append(f"  {resume_command}")
    return lines
