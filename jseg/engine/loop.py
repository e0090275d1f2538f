"""The training loop: next batch, seed, step, log, evaluate, save.

    python tools/run_net.py --config-file configs/shapes_demo.py --task train

A checkpoint is written after everything else that belongs to its iteration, so what was logged before it need not be
done again. What a crash leaves undone after it (an evaluation that a signal broke off) is told by `Progress`.

Every rank runs this loop and takes the same turns, for each decides from what all of them share. The first one writes.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from jseg.config import to_dict
from jseg.data.loader import Batch
from jseg.engine.log import RunLog
from jseg.engine.progress import Progress, best_metric
from jseg.engine.saver import Saver
from jseg.engine.seeds import seed_iteration
from jseg.engine.signals import Interrupted, StopRequest
from jseg.engine.trainer import StepReport, Trainer
from jseg.errors import CannotWrite, UserError
from jseg.model.clip_rc import set_training, trainable
from jseg.weights.record import tensors_sha256

Breaks = Callable[[], AbstractContextManager]


class Loop:
    """Trains from where `progress` is until the run ends.

    Args:
        trainer: its model is in training mode except during evaluations.
        log: of the run.
        saver: of the run.
        progress: how far the run is; changed in place.
        stop: asks for an early end (signals).
        evaluate: metrics of the model as it is, for `train.eval_every`. It is given the context in which a signal
            may break it off, and raises Interrupted on all ranks then.
    """

    def __init__(
        self,
        trainer: Trainer,
        log: RunLog,
        saver: Saver,
        progress: Progress,
        stop: StopRequest,
        evaluate: Callable[[Breaks], dict[str, Any]] | None = None,
    ) -> None:
        self.trainer, self.log, self.saver, self.progress = trainer, log, saver, progress
        self.stop, self._metrics = stop, evaluate
        self.config, self.ranks = trainer.config.train, trainer.ranks
        self._saved = progress.iteration  # a run starts from a checkpoint, or has nothing to save
        self._lr = 0.0

    def run(self, batches: Iterator[Batch]) -> str:
        """Trains; returns why it ended: "finished", "no gain" (`train.patience`) or "stopped" (a signal).

        Args:
            batches: from iteration `progress.iteration` on.

        Raises:
            UserError: bad data; too many bad steps in a row; the last checkpoint cannot be written.
        """
        set_training(self.trainer.model, True)
        self._check_ranks()
        if self._evaluate_if_due():  # a signal had broken it off
            self._saved = -1
        while not (ending := self._ending()):
            asked = time.perf_counter()
            batch = next(batches)
            self._step(batch, time.perf_counter() - asked)
            self._report_if_due()
            self._evaluate_if_due()
            self._save_if_due()
        self._check_ranks()
        if self._saved != self.progress.iteration and self.ranks.first:
            self._save()
        self.log.write(ending, self.progress.iteration)
        return ending

    def _ending(self) -> str:
        """Why the run is to end now; "" = it goes on."""
        stop = self.ranks.any(self.stop.requested)
        if self.progress.iteration >= self.config.iterations:
            return "stopped" if self._evaluation_is_due() else "finished"
        if self.config.patience and self.progress.without_gain >= self.config.patience:
            return "no gain"
        return "stopped" if stop else ""

    def _step(self, batch: Batch, waited: float) -> None:
        seed_iteration(self.config.seed, batch.iteration, self.ranks.rank)
        report = self.trainer.step(batch.images, batch.labels, batch.iteration)
        self._lr = report.lr
        if report.overflow:
            self._overflowed(report)
        elif report.problem:
            self._skipped(batch, report)
        else:
            self.log.add(report.losses, waited, report.gradient_norm)
            self.progress.bad_in_a_row = 0
        self.progress.iteration += 1

    def _overflowed(self, report: StepReport) -> None:
        """Logs a step without an update that says nothing of data or model: a part of float16 training."""
        done, scale = self.progress.iteration + 1, self.trainer.loss_scale
        print(f"iteration {done}: float16 overflowed, loss scale is {scale.scale:g} now", flush=True)
        self.log.write("overflow", done, problem=report.problem, loss_scale=scale.scale, overflows=scale.overflows)

    def _skipped(self, batch: Batch, report: StepReport) -> None:
        """Counts and logs a step without an update; gives up after too many in a row."""
        names = [name for group in zip(*self.ranks.gathered(batch.names), strict=True) for name in group]
        progress = self.progress
        progress.bad_steps += 1
        progress.bad_in_a_row += 1
        print(f"warning: iteration {batch.iteration + 1} is skipped ({', '.join(names)}): {report.problem}", flush=True)
        losses = {name: value if math.isfinite(value) else str(value) for name, value in report.losses.items()}
        self.log.write(
            "bad step", batch.iteration + 1, problem=report.problem, names=names, losses=losses,
            bad_steps=progress.bad_steps, in_a_row=progress.bad_in_a_row,
        )  # fmt: skip
        if progress.bad_in_a_row >= self.config.max_bad_steps:
            path = self.ranks.of_first(
                self.saver.bad_step(batch, progress, report.problem) if self.ranks.first else None
            )
            raise UserError(
                f"{progress.bad_in_a_row} steps in a row were not finite, the last one at iteration "
                f"{batch.iteration + 1} ({names}): {report.problem}; lower optimizer.lr or set optimizer.clip_norm, or "
                f"look at these pictures; python tools/repeat_step.py {path} repeats the step"
            )

    def _report_if_due(self) -> None:
        done = self.progress.iteration
        if done % self.config.log_every == 0 or done == self.config.iterations:
            self.log.report(done, self._lr)

    def _evaluation_is_due(self) -> bool:
        done = self.progress.iteration
        due = self.config.eval_every and done and done % self.config.eval_every == 0
        return self._metrics is not None and bool(due) and self.progress.evaluated != done

    def _evaluate_if_due(self) -> bool:
        """Evaluates; whether it did so to the end."""
        done = self.progress.iteration
        if not self._evaluation_is_due():
            return False
        average = self.trainer.average
        set_training(self.trainer.model, False)
        try:
            with average.in_place() if average is not None else nullcontext():
                metrics = self._metrics(self.stop.breaks)
        except Interrupted:
            return False
        finally:
            set_training(self.trainer.model, True)
        self.progress.evaluated = done
        self.log.write("evaluation", done, metrics=metrics)
        self._tolerantly(lambda: self.saver.metrics(metrics))
        best = self.progress.best, self.progress.best_iteration
        if self.progress.take(metrics[best_metric(self.trainer.config)]):
            written = self._tolerantly(lambda: self.saver.best(done, metrics), "these best weights are not kept")
            if not self.ranks.of_first(written):  # the next better ones are to be
                self.progress.best, self.progress.best_iteration = best
        self.log.restart_clock(done)
        return True

    def _save_if_due(self) -> None:
        done = self.progress.iteration
        if done < self.config.iterations and (done % self.config.save_every == 0 or done in self.config.milestones):
            self._check_ranks()
            lost = done in self.config.milestones
            self._tolerantly(self._save, "this milestone is lost" if lost else "it tries again later")

    def _check_ranks(self) -> None:
        """Ranks that differ would train nothing of use: they must have begun alike and stay so."""
        if self.ranks.world > 1:
            weights = {name: variable.numpy() for name, variable in trainable(self.trainer.model)}
            state = [self.progress.iteration, tensors_sha256(weights), to_dict(self.trainer.config)]
            self.ranks.check_same("configuration and weights", json.dumps(state))

    def _save(self) -> None:
        self.progress.log = self.log.open_means()
        path: Path = self.saver.checkpoint(self.progress)
        self._saved = self.progress.iteration
        self.log.write("saved", self.progress.iteration, file=path.name)

    def _tolerantly(self, write: Callable[[], Any], otherwise: str = "it tries again later") -> bool:
        """Writes files that the run can go on without; whether this rank has written them."""
        if not self.ranks.first:
            return False
        try:
            write()
        except CannotWrite as error:
            print(f"warning: {error}; training goes on, {otherwise}", flush=True)
            self.log.write("not saved", self.progress.iteration, reason=str(error))
            return False
        return True
