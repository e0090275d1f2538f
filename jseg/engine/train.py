"""Training: one loop from the next batch to the next checkpoint (Zhang et al., CVPR 2024, section 4.1).

A run that was killed goes on as if nothing had happened: each iteration starts from a seed of its own, data are seeded
by stream position, and a checkpoint is written after everything else that belongs to its iteration.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext, suppress
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import jittor as jt
import numpy as np

from jseg.clip.class_embeddings import class_embeddings
from jseg.config import Config, config_changes, from_dict, to_dict
from jseg.data.class_names import training_classes
from jseg.data.loader import Batch, training_batches
from jseg.engine import checkpoint
from jseg.engine.checkpoint import BEST_METRICS_NAME, BEST_NAME, METRICS_NAME, WEIGHTS_NAME, Progress, lock_work_dir
from jseg.engine.evaluate import evaluate
from jseg.engine.load import NEWEST, Run, load_model
from jseg.engine.log import RunLog, say, write_record
from jseg.engine.optimizer import AdamW, LossScale, clip_factor, gradient_norm, square_sums
from jseg.engine.ranks import ALONE, Ranks
from jseg.engine.signals import Interrupted, StopRequest
from jseg.errors import CannotWrite, CheckFailed, UserError
from jseg.files import as_json, whole_files, write_json
from jseg.model.clip_rc import ClipRC, set_training, trainable
from jseg.model.losses import LossSums, SegmentationLoss, count_masks
from jseg.model.precision import note, set_precision
from jseg.ops.function import releasing
from jseg.outputs import check_outputs
from jseg.weights.reader import WeightFile, named_list
from jseg.weights.record import tensors_sha256
from jseg.weights.state import state_arrays


def train(run: Run) -> None:
    """Trains, and leaves `weights.safetensors` in the run's folder unless a signal or a problem stops it."""
    config, ranks, classes = run.config, run.ranks, run.dataset.class_list
    with StopRequest() as stop, lock_work_dir(run.work_dir) if ranks.first else nullcontext():
        if ranks.first and run.resumes:
            checkpoint.clear_later(run.work_dir, run.file.meta["iteration"], damaged=run.resume == NEWEST)
        say(ranks.connect_gpus(run.device))
        text = class_embeddings(config, run.classes, run.file, run.clip, run.other_classes)
        model, notes = load_model(config, run.file, run.clip, "fp32")
        say("\n".join([*notes, note(config.precision)]).strip())
        unseen = classes.unseen if config.data.setting == "transductive" else ()
        shown = text.matrix[list(training_classes(classes, config.data.setting))]
        trainer = Trainer(model, shown, unseen, config, ranks)
        progress = resume(trainer, run.file, config) if run.resumes else Progress()
        begun, folder = progress.iteration, run.work_dir if ranks.first else None
        log = RunLog(folder, config.train.iterations, begun, progress.log, progress.evaluated, config.train.tensorboard)
        if ranks.first:
            log.write("start", begun, **write_record(folder, config, run.device, begun, run.file, ranks.world))
        metrics = partial(evaluate, model, run.val_dataset, text.matrix, config, ranks=ranks)
        meta, arrays = checkpoint.describe(config, classes, text), checkpoint.text_arrays(text)
        training = Training(trainer, log, run.work_dir, progress, stop, meta, arrays, metrics)
        with closing(training_batches(run.dataset, config, begun, ranks.rank, ranks.world)) as batches:
            ending = training.loop(batches)
        if ending == "finished" and ranks.first:
            training.save_last(lambda: training.save_weights(run.work_dir / WEIGHTS_NAME))
            say(f"weights: {run.work_dir / WEIGHTS_NAME}")
    if progress.best is not None:
        say(f"best {best_metric(config)}: {progress.best:.2f} after iteration {progress.best_iteration} ({BEST_NAME})")
    if progress.bad_steps:
        say(f"warning: {progress.bad_steps} steps were skipped: see 'bad step' in log.jsonl")
    if ending == "stopped":
        saved = f"saved after iteration {progress.iteration} of {config.train.iterations}; go on with"
        where = saved if progress.iteration else "stopped before the first iteration; start again with"
        say(f"{stop.signal_name or 'stopped'}: {where}\n  {run.command(progress.iteration > 0)}")
    if training.problem:
        raise training.problem


@dataclass
class StepReport:
    """What one optimiser step reports."""

    losses: dict[str, float]  # mask, dice, recovery_q, recovery_v (weighted) and total, before the update
    lr: float
    gradient_norm: float  # over all trained weights, before clipping
    problem: str = ""  # why nothing was updated; "" = the step is fine
    overflow: bool = False  # the problem was the loss scale of float16 alone, and it is lower now


class Trainer:
    """Model, loss and optimiser of a run; the model is made to compute in `config.precision`, and updated in place.

    `text` are (C, D) float32 embeddings in the order of the training targets, `unseen` the ids whose pixels are -1.
    """

    def __init__(
        self, model: ClipRC, text: np.ndarray, unseen: tuple[int, ...], config: Config, ranks: Ranks = ALONE
    ) -> None:
        self.model, self.config, self.ranks = model, config, ranks
        self.text = jt.array(text).stop_grad()
        self.loss = SegmentationLoss(config.loss, unseen)
        self.frozen = set_precision(model, config.precision)  # float32 values of weights that the model holds in half
        self.loss_scale = LossScale() if config.precision == "fp16" else None
        self.optimizer = AdamW(trainable(model), config.optimizer)

    def step(self, images: np.ndarray, labels: np.ndarray, iteration: int) -> StepReport:
        """One optimiser step on this rank's share of a batch, as in `Training.loop`; arguments as of its parts."""
        return self.update(*self.gradients(images, labels)[:2], iteration)

    def gradients(self, images: np.ndarray, labels: np.ndarray) -> tuple[list[jt.Var], dict[str, float], float]:
        """Gradients in the order of `optimizer.names`, loss terms and number of masks of the batch of all ranks.

        Args: this rank's share, (B, 3, H, W) float32 images and (B, H, W) int32 training targets. Forward and backward
        run over micro-batches of `train.micro_batch` images, which add up to exactly the batch.
        """
        loss, ranks = self.loss, self.ranks
        micro_batch = self.config.train.micro_batch or len(images)
        parts = len(images) // micro_batch * ranks.world
        # With pseudo labels the number of masks is known only after the last forward pass. Until then the gradients of
        # the terms that are divided by it are kept apart from the others.
        apart = bool(loss.unseen) and micro_batch < len(images)
        num_masks = None if loss.unseen else int(ranks.sum(count_masks(labels)))
        scale = self.loss_scale.scale if self.loss_scale is not None else None
        kept: list[list[jt.Var]] = []  # per loss (one, or two apart): gradients of the micro-batches so far, added up
        sums: list[np.ndarray] = []
        for first in range(0, len(images), micro_batch):
            batch, targets = images[first : first + micro_batch], labels[first : first + micro_batch]
            with releasing() as release:
                part = loss.sums(self.model.training_outputs(jt.array(batch), self.text), targets, targets.shape[1:])
            if apart:
                losses = [loss.mask_part(part), loss.recovery_part(part, 1 / parts)]
            else:
                masks = num_masks
                if masks is None:  # this part is the whole share of this rank
                    masks = part.num_masks if ranks.world == 1 else float(ranks.sum(part.num_masks.numpy())[0])
                losses = [loss.total(part, masks, 1 / parts)]
            if scale is not None:
                losses = [value * scale for value in losses]
            added = [jt.grad(value, self.optimizer.parameters) for value in losses]
            release()
            if kept:
                added = [[a + b for a, b in zip(*pair, strict=True)] for pair in zip(kept, added, strict=True)]
            kept = [[gradient.stop_grad() for gradient in of_loss] for of_loss in added]
            numbers = jt.concat([part.focal, part.dice, part.recovery_q, part.recovery_v, part.num_masks])
            jt.sync([numbers] + [gradient for of_loss in kept for gradient in of_loss])
            sums.append(numbers.numpy().astype(np.float64))
            del part, losses, added  # the graph of this micro-batch: memory stays that of one
        total = np.sum(sums, axis=0)
        if apart:
            num_masks = float(ranks.sum(total[4]))
            kept = [[mask / max(num_masks, 1) + recovery for mask, recovery in zip(*kept, strict=True)]]
        gradients, total = ranks.sum_gradients(kept[0], total)
        num_masks = float(total[4] if num_masks is None else num_masks)
        if scale is not None:
            gradients = [gradient * (1 / scale) for gradient in gradients]
        focal, dice, recovery_q, recovery_v = total[:4].tolist()
        terms = loss.terms(LossSums(focal, dice, recovery_q / parts, recovery_v / parts, num_masks, None), num_masks)
        return gradients, {**terms, "total": sum(terms.values())}, num_masks

    def update(self, gradients: list[jt.Var], losses: dict[str, float], iteration: int) -> StepReport:
        """Updates the weights in step `iteration` (0-based), unless loss or gradient is not finite: see `problem`."""
        self.optimizer.set_learning_rate(iteration, self.config.train.iterations, self.config.optimizer)
        norm = self.ranks.broadcast(gradient_norm(gradients))  # its last bits decide, so all must have the same
        report, scale = StepReport(losses, self.optimizer.lr, norm), self.loss_scale
        if not math.isfinite(losses["total"]):
            report.problem = f"the loss is {losses['total']}"
        elif not math.isfinite(norm):
            squares = zip(self.optimizer.names, square_sums(gradients).numpy(), strict=True)
            names = [name for name, value in squares if not math.isfinite(value)]
            where = f" of {named_list(names[:3])} ({len(names)} in all)" if names else ""
            report.problem = f"the gradient{where} is not finite"
            report.overflow = scale is not None and scale.lower()  # the loss scale can be to blame
        else:
            self.optimizer.step(gradients, clip_factor(norm, self.config.optimizer.clip_norm))
            if scale is not None:
                scale.step()
        return report


class Training:
    """A run that is under way: changes `progress` in place, puts `meta` and `arrays` into its weight files.

    `metrics(breaks=...)` evaluates the model for `train.eval_every`; it raises Interrupted if a signal ends it early.
    """

    def __init__(
        self, trainer: Trainer, log: RunLog, work_dir: Path, progress: Progress, stop: StopRequest,
        meta: dict[str, Any], arrays: dict[str, np.ndarray], metrics: Callable[..., dict[str, Any]] | None = None,
    ) -> None:  # fmt: skip
        self.trainer, self.log, self.work_dir, self.progress = trainer, log, work_dir, progress
        self.stop, self.meta, self.metrics = stop, meta, metrics
        self.config, self.ranks = trainer.config.train, trainer.ranks
        self.constant = trainer.frozen | arrays
        self.problem: Exception | None = None  # why the run ends, once all is saved
        self.saved = progress.iteration  # a run starts from a checkpoint, or has nothing to save

    def loop(self, batches: Iterator[Batch]) -> str:
        """Trains on `batches` to the end; returns "finished", or "stopped" after a signal or a `problem`."""
        config, trainer, progress = self.config, self.trainer, self.progress
        set_training(trainer.model, True)
        self.check_ranks()
        if self.evaluation_is_due():  # a signal had ended it early
            self.evaluate()
        while progress.iteration < config.iterations:
            asked = time.perf_counter()
            try:
                batch = next(batches)
            except Exception as error:  # an image has vanished, or a worker was killed
                self.problem = self.problem or error
            if self.ranks.any(bool(self.stop.signal_name or self.problem)):
                break
            waited = time.perf_counter() - asked
            # each iteration starts from a seed of its own: Jittor gives no random state to save
            entropy = np.random.SeedSequence([config.seed, 0, batch.iteration, self.ranks.rank]).generate_state(1)
            jt.set_global_seed(int(entropy[0]) & 0x7FFFFFFF, different_seed_for_mpi=False)

            gradients, losses, _ = trainer.gradients(batch.images, batch.labels)  # forward, loss, backward
            report = trainer.update(gradients, losses, batch.iteration)  # AdamW, unless something is not finite
            del gradients  # their memory is for the next forward pass
            progress.iteration += 1

            if report.problem:
                self.skip_step(batch, report)
            else:
                progress.bad_in_a_row = 0
                self.log.add(losses, waited, report.gradient_norm)
            if progress.iteration % config.log_every == 0 or progress.iteration == config.iterations:
                self.log.report(progress.iteration, report.lr)
            if self.evaluation_is_due():
                self.evaluate()
            due = progress.iteration % config.save_every == 0 or progress.iteration in config.milestones
            if due and progress.iteration < config.iterations:
                self.check_ranks()
                self.write(self.save)
        self.check_ranks()
        if progress.iteration != self.saved and self.ranks.first:
            self.save_last(self.save)
        stopped = self.ranks.any(bool(self.problem)) or progress.iteration < config.iterations  # all wait for the first
        ending = "stopped" if stopped or self.evaluation_is_due() else "finished"
        self.log.write(ending, progress.iteration)
        if not stopped and not trainer.optimizer.steps:
            raise CheckFailed("no step had finite numbers, so nothing was trained: see 'bad step' in log.jsonl")
        return ending

    def skip_step(self, batch: Batch, report: StepReport) -> None:
        """Logs a step without an update with the names of its images; gives up after too many in a row."""
        done, progress, scale = self.progress.iteration, self.progress, self.trainer.loss_scale
        if report.overflow:  # says nothing of data or model: a part of float16 training
            say(f"iteration {done}: float16 overflowed, loss scale is {scale.scale:g} now")
            self.log.write("overflow", done, problem=report.problem, loss_scale=scale.scale, overflows=scale.overflows)
            return
        names = [name for names in zip(*self.ranks.all_gather(batch.names), strict=True) for name in names]
        progress.bad_steps += 1
        progress.bad_in_a_row += 1
        say(f"warning: iteration {done} is skipped ({', '.join(names)}): {report.problem}")
        losses = {name: value if math.isfinite(value) else str(value) for name, value in report.losses.items()}
        self.log.write("bad step", done, problem=report.problem, names=names, losses=losses)
        if progress.bad_in_a_row >= self.config.max_bad_steps:
            self.problem = CheckFailed(
                f"{progress.bad_in_a_row} steps in a row were not finite, the last one at iteration {done} "
                f"({', '.join(names)}): {report.problem}; lower optimizer.lr, or look at these images"
            )

    def evaluation_is_due(self) -> bool:
        """Whether the model is to be evaluated after this iteration and was not yet."""
        done, every = self.progress.iteration, self.config.eval_every
        return bool(every and done and done % every == 0 and self.progress.evaluated != done)

    def evaluate(self) -> None:
        """Evaluates the model and keeps its weights if it is the best so far; a signal may end this early."""
        done, progress = self.progress.iteration, self.progress
        set_training(self.trainer.model, False)
        try:
            metrics = self.metrics(breaks=self.stop.breaks)
        except Interrupted:
            return
        except Exception as error:  # an image has vanished
            self.problem = error
            self.ranks.any(True)  # the others' evaluation waits for this one's, and ends as by a signal
            return
        finally:
            set_training(self.trainer.model, True)
        progress.evaluated, self.saved = done, -1
        self.log.write("evaluation", done, metrics=metrics)
        self.write(lambda: write_json(self.work_dir / METRICS_NAME, metrics))
        value = metrics[best_metric(self.trainer.config)]  # None = undefined, which is never the best
        if value is not None and (progress.best is None or value > progress.best):
            written = self.write(lambda: self.save_best(metrics))
            if self.ranks.broadcast(written):  # else the next better ones are to be kept
                progress.best, progress.best_iteration = value, done
        self.log.restart_clock(done)

    def save(self) -> None:
        """Writes a checkpoint and removes the oldest ones (CannotWrite, as of all that writes)."""
        trainer, progress = self.trainer, self.progress
        progress.log = self.log.means
        path = checkpoint.checkpoint_path(self.work_dir, progress.iteration)
        meta = {"progress": asdict(progress), "optimizer_steps": trainer.optimizer.steps}
        if trainer.loss_scale is not None:
            meta["loss_scale"] = asdict(trainer.loss_scale)
        self.save_weights(path, trainer.optimizer.state(), **meta)
        checkpoint.prune(self.work_dir, self.config.keep_checkpoints, self.config.milestones)
        self.saved = progress.iteration
        self.log.write("saved", progress.iteration, file=path.name)

    def save_last(self, save: Callable[[], None]) -> None:
        """Saves at the end; if the disk is full, the weights alone, in the work folder or beside it (CannotWrite)."""
        try:
            save()
        except CannotWrite as error:
            folder, name = self.work_dir.absolute(), f"weights_{self.progress.iteration:07d}.safetensors"
            for path in (folder / name, folder.parent / f"{folder.name}_{name}"):
                with suppress(UserError):
                    check_outputs([path])
                    self.save_weights(path)
                    error = CannotWrite(f"{error}; the weights alone are in {path}")
                    break
            raise error

    def save_weights(self, path: Path, moments: dict[str, np.ndarray] | None = None, **meta: Any) -> None:
        """Writes weights, and what a checkpoint holds besides; CheckFailed if they are not finite."""
        tensors = state_arrays(self.trainer.model) | self.constant | (moments or {})
        if broken := [name for name, array in tensors.items() if not np.isfinite(array).all()]:
            where = f"after iteration {self.progress.iteration} ({named_list(broken, 3)})"
            raise CheckFailed(f"the weights are not finite {where}: go on from a checkpoint with a lower optimizer.lr")
        checkpoint.save(path, tensors, {**self.meta, "iteration": self.progress.iteration, **meta})

    def save_best(self, metrics: dict[str, Any]) -> None:
        """Writes the best weights so far, then puts their metrics, already on disk, in place."""
        with whole_files(self.work_dir / BEST_METRICS_NAME) as (file,):
            file.write(as_json({"iteration": self.progress.iteration, **metrics}))
            file.flush()
            os.fsync(file.fileno())
            self.save_weights(self.work_dir / BEST_NAME)

    def write(self, write_files: Callable[[], Any]) -> bool:
        """Lets the first rank write files that the run can go on without; returns whether it has written them."""
        try:
            if self.ranks.first:
                write_files()
            return self.ranks.first
        except CannotWrite as error:
            say(f"warning: {error}; training goes on and tries again when it next saves")
            self.log.write("not saved", self.progress.iteration, reason=str(error))
            return False

    def check_ranks(self) -> None:
        """Checks that all ranks have the same configuration and weights: else they would train nothing of use."""
        if self.ranks.world > 1:
            digest = tensors_sha256(state_arrays(self.trainer.model) | self.constant)
            state = json.dumps([self.progress.iteration, digest, to_dict(self.trainer.config)])
            self.ranks.check_same("configuration and weights", state)


def resume(trainer: Trainer, file: WeightFile, config: Config) -> Progress:
    """Puts the optimiser where the checkpoint left it; returns how far the run was."""
    trainer.optimizer.load_state(file.tensors, file.meta["optimizer_steps"])
    if trainer.loss_scale is not None:
        trainer.loss_scale = LossScale(**file.meta.get("loss_scale", {}))  # none: it had another precision until then
    for line in config_changes(from_dict(file.meta.get("config", {}), file.path), config):
        say(f"warning: the config has changed since: {line}")
    known, recorded = {item.name for item in fields(Progress)}, file.meta["progress"]
    progress = Progress(**{key: value for key, value in recorded.items() if key in known})
    say(f"resuming after iteration {progress.iteration} of {config.train.iterations}")
    return progress


def best_metric(config: Config) -> str:
    """The metric that decides which weights are best."""
    supervised = config.data.setting == "supervised" or config.cross_dataset
    return config.train.best_metric or ("mIoU(S)" if supervised else "hIoU")
