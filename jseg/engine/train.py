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
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jittor as jt
import numpy as np

from jseg.clip.class_embeddings import class_embeddings
from jseg.config import Config, to_dict
from jseg.data.class_names import training_classes
from jseg.data.loader import Batch, training_batches
from jseg.engine import checkpoint
from jseg.engine.checkpoint import BEST_METRICS_NAME, BEST_NAME, METRICS_NAME, WEIGHTS_NAME, Progress, lock_work_dir
from jseg.engine.evaluate import evaluate
from jseg.engine.load import NEWEST, Run, load_model, resume
from jseg.engine.log import RunLog, say, write_record
from jseg.engine.optimizer import AdamW, LossScale, learning_rate, square_sums, step_factor
from jseg.engine.signals import Interrupted, StopRequest
from jseg.errors import CannotWrite, CheckFailed, UserError, listed
from jseg.files import as_json, whole_files, write_json
from jseg.metrics import about
from jseg.model.clip_rc import ClipRC, set_training, trainable
from jseg.model.losses import SegmentationLoss, count_masks
from jseg.model.precision import note, round_trained, set_precision
from jseg.ops.device import constant, normalise, wait_for
from jseg.ops.function import releasing
from jseg.ops.half import widen
from jseg.outputs import check_outputs
from jseg.runtime.ranks import ALONE, Ranks
from jseg.weights.record import tensors_sha256
from jseg.weights.state import size_line, state_arrays


def train(run: Run) -> bool:
    """Trains, and leaves `weights.safetensors` in the run's folder; False if a signal or a problem stops it before."""
    config, ranks, classes = run.config, run.ranks, run.dataset.class_list
    with StopRequest() as stop, lock_work_dir(run.work_dir, run.used) if ranks.first else nullcontext():
        if ranks.first and run.resumes:
            checkpoint.clear_later(run.work_dir, run.file.meta["iteration"], damaged=run.resume == NEWEST)
        say(ranks.connect_gpus(run.device))
        text = class_embeddings(config, run.classes, run.file, run.clip, run.other_classes)
        model, notes = load_model(config, run.file, run.clip, "fp32")
        say("\n".join([*notes, note(config.precision)]).strip())
        unseen = classes.unseen if config.data.setting == "transductive" else ()
        shown = text.matrix[list(training_classes(classes, config.data.setting))]
        trainer = Trainer(model, shown, unseen, config, ranks)
        progress = resume(trainer.optimizer, trainer.loss_scale, run.file, config) if run.resumes else Progress()
        say(size_line(state_arrays(model), trainer.optimizer.names))
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
        say(f"best {config.best_metric()}: {progress.best:.2f} after iteration {progress.best_iteration} ({BEST_NAME})")
    if progress.bad_steps:
        say(f"warning: {progress.bad_steps} steps were skipped: see 'bad step' in log.jsonl")
    if ending == "stopped":
        saved = f"saved after iteration {progress.iteration} of {config.train.iterations}; go on with"
        where = saved if progress.iteration else "stopped before the first iteration; start again with"
        say(f"{stop.signal_name or 'stopped'}: {where}\n  {run.command(progress.iteration > 0)}")
    if training.problem:
        raise training.problem
    return ending == "finished"


@dataclass
class StepReport:
    """What one optimiser step reports."""

    losses: dict[str, float]  # mask, dice, recovery_q, recovery_v (weighted) and total, before the update
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
        self.loss_scale = LossScale() if config.precision == "fp16" else None  # as of the last report
        self.unread: tuple[jt.Var, jt.Var] | None = None  # sums and squares of the last step until its report is read
        self.optimizer = AdamW(trainable(model), config.optimizer, round_trained(model, config.precision))

    def step(self, images: np.ndarray, labels: np.ndarray, iteration: int) -> StepReport:
        """One optimiser step on this rank's share of a batch, as in `Training.loop`: see `gradients` and `update`."""
        return self.update(*self.gradients(images, labels), iteration)()

    def gradients(
        self, images: np.ndarray, labels: np.ndarray, sizes: np.ndarray | None = None
    ) -> tuple[list[jt.Var], jt.Var]:
        """Gradients of the batch of all ranks in the order of `optimizer.names`, and its sums: see `LossSums.joined`.

        Args: this rank's share, as in `Batch`; images may be float32, normalised already. Forward and backward run over
        micro-batches of `train.micro_batch` images, which add up to exactly the batch.
        """
        loss, ranks = self.loss, self.ranks
        micro_batch = self.config.train.micro_batch or len(images)
        parts = len(images) // micro_batch * ranks.world
        # With pseudo labels the number of masks is known only after the last forward pass. Until then the gradients of
        # the terms that are divided by it are kept apart from the others.
        apart = bool(loss.unseen) and micro_batch < len(images)
        one_part, masks, sums = micro_batch == len(images), None, None
        if not one_part and not apart:
            masks = ranks.total(count_masks(jt.array(labels), len(self.text)))
        scale, unscale = self.scales()
        kept: list[list[jt.Var]] = []  # per loss (one, or two apart): gradients of the micro-batches so far, added up
        for first in range(0, len(images), micro_batch):
            micro = slice(first, first + micro_batch)
            pixels = normalise(images[micro], self.config.data, None if sizes is None else sizes[micro])
            with releasing() as release:
                part = loss.sums(self.model.training_outputs(pixels, self.text), labels[micro])
            if apart:
                losses = loss.apart(part, 1 / parts)
            else:
                masks = ranks.total(part.num_masks) if one_part else masks
                losses = [loss.total(part, masks, 1 / parts)]
            added = [jt.grad(x if scale is None else x * scale, self.optimizer.leaves) for x in losses]
            release()
            if kept:  # sums are float32, so that many can be added up
                pairs = (zip(*both, strict=True) for both in zip(kept, added, strict=True))
                added = [[widen(a) + widen(b) for a, b in of_loss] for of_loss in pairs]
            kept = [[gradient.stop_grad() for gradient in of_loss] for of_loss in added]
            sums = part.joined(1 / parts) if sums is None else sums + part.joined(1 / parts)
            jt.sync([sums] + [gradient for of_loss in kept for gradient in of_loss])
            del part, losses, added  # the graph of this micro-batch: memory stays that of one
        if apart:
            masks = jt.maximum(ranks.total(sums[4:].float32()), constant(np.float32, (1,)))
            kept = [[mask / masks + recovery for mask, recovery in zip(*kept, strict=True)]]
        gradients, sums = ranks.sum_gradients(kept[0], sums)
        if scale is not None:
            gradients = [widen(gradient) * unscale for gradient in gradients]
        return gradients, sums

    def scales(self) -> tuple[jt.Var | None, jt.Var | None]:
        """float16's loss scale and its inverse, on the device, which knows first how the last step has ended."""
        if (last := self.loss_scale) is None:
            return None, None
        after_good, after_overflow = replace(last), replace(last)
        after_good.step()
        after_overflow.lower()
        known, good, lower = (constant(np.float32, (x.scale, 1 / x.scale)) for x in (last, after_good, after_overflow))
        if self.unread is not None:  # as `report` will find it, unless finite squares have an infinite sum
            loss, norm = (jt.isfinite(x.float64().sum()).broadcast(known.shape) for x in self.unread)
            known = jt.ternary(loss, jt.ternary(norm, good, lower), known).stop_grad()
        return known[:1], known[1:]

    def update(self, gradients: list[jt.Var], sums: jt.Var, iteration: int) -> Callable[[], StepReport]:
        """Updates the weights in step `iteration` (0-based), unless loss or gradient is not finite: see `problem`.

        The device is still at work when this returns. The result waits for this step's numbers, not for later steps'.
        """
        self.optimizer.lr = learning_rate(iteration, self.config.train.iterations, self.config.optimizer)
        squares = self.ranks.first_of(square_sums(gradients))  # their last bits decide, so all ranks have the same
        self.unread = sums, squares
        arrived: list[np.ndarray] = []
        jt.fetch(sums, squares, lambda *arrays: arrived.extend(array.copy() for array in arrays))
        self.optimizer.step(gradients, step_factor(squares, sums, self.config.optimizer.clip_norm))
        return partial(self.report, arrived, self.unread)

    def report(self, arrived: list[np.ndarray], sent: tuple[jt.Var, jt.Var]) -> StepReport:
        """Reports a step when a copy of `sent`, its sums and squares, has been put into `arrived`."""
        wait_for(arrived)
        self.unread = None if self.unread is sent else self.unread
        sums, squares = arrived
        norm = math.sqrt(squares.astype(np.float64).sum())
        report, scale = StepReport(self.loss.values(sums), norm), self.loss_scale
        if not math.isfinite(report.losses["total"]):
            report.problem = f"the loss is {report.losses['total']}"
        elif not math.isfinite(norm):
            names = [name for name, x in zip(self.optimizer.names, squares, strict=True) if not math.isfinite(x)]
            where = f" of {listed(names, 3)}" if names else ""
            report.problem = f"the gradient{where} is not finite"
            report.overflow = scale is not None and scale.lower()  # the loss scale can be to blame
        elif scale is not None:
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
        self.pending: tuple[Batch, float, Callable[[], StepReport]] | None = None  # see `settle`

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
            # each iteration starts from a seed of its own: all random numbers come from NumPy's generator
            entropy = np.random.SeedSequence([config.seed, 0, batch.iteration, self.ranks.rank]).generate_state(1)
            np.random.seed(int(entropy[0]) & 0x7FFFFFFF)

            gradients, sums = trainer.gradients(batch.images, batch.labels, batch.sizes)  # forward, loss, backward
            read_report = trainer.update(gradients, sums, batch.iteration)  # AdamW, unless something is not finite
            del gradients  # their memory is for the next forward pass
            self.settle()  # the step before, now that the device has work again
            self.pending = batch, waited, read_report
            progress.iteration = done = progress.iteration + 1
            log_is_due = done % config.log_every == 0 or done in (1, config.iterations)
            save_is_due = done % config.save_every == 0 or done in config.milestones
            last_chance = progress.bad_in_a_row + 1 >= config.max_bad_steps
            if log_is_due or save_is_due or self.evaluation_is_due() or last_chance:
                self.settle()  # this step, too: what comes now depends on it
            if log_is_due:
                self.log.report(done, trainer.optimizer.lr)
            if self.evaluation_is_due():
                self.evaluate()
            if save_is_due and done < config.iterations:
                self.check_ranks()
                self.write(self.save)
        self.settle()
        self.check_ranks()
        if progress.iteration != self.saved and self.ranks.first:
            self.save_last(self.save)
        stopped = self.ranks.any(bool(self.problem)) or progress.iteration < config.iterations  # all wait for the first
        ending = "stopped" if stopped or self.evaluation_is_due() else "finished"
        self.log.write(ending, progress.iteration)
        if not stopped and not trainer.optimizer.steps:
            raise CheckFailed("no step had finite numbers, so nothing was trained: see 'bad step' in log.jsonl")
        return ending

    def settle(self) -> None:
        """Waits for the numbers of the pending step and accounts for it; nothing is pending then."""
        if self.pending is not None:
            (batch, waited, read_report), self.pending = self.pending, None
            report = read_report()
            if report.problem:
                self.skip_step(batch, report)
            else:
                self.progress.bad_in_a_row = 0
                self.log.add(report.losses, waited, report.gradient_norm)

    def skip_step(self, batch: Batch, report: StepReport) -> None:
        """Logs a step without an update with the names of its images; gives up after too many in a row."""
        done, progress, scale = batch.iteration + 1, self.progress, self.trainer.loss_scale
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
        progress.evaluated, self.saved, made = done, -1, about(self.trainer.config, f"iteration {done}")
        self.log.write("evaluation", done, metrics=metrics)
        self.write(lambda: write_json(self.work_dir / METRICS_NAME, metrics | made))
        value = metrics[self.trainer.config.best_metric()]  # None = undefined, which is never the best
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
            raise CannotWrite(f"{self.problem}; {error}" if self.problem else str(error)) from error

    def save_weights(self, path: Path, moments: dict[str, np.ndarray] | None = None, **meta: Any) -> None:
        """Writes weights, and what a checkpoint holds besides; CheckFailed if they are not finite."""
        tensors = state_arrays(self.trainer.model) | self.constant | (moments or {})
        if broken := [name for name, array in tensors.items() if not np.isfinite(array).all()]:
            where = f"after iteration {self.progress.iteration} ({listed(broken, 3)})"
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
