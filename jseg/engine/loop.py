"""The training loop: next batch, seed, step, log, save, evaluate.

python tools/run_net.py --config-file configs/shapes_demo.py --task train
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jseg.data.loader import Batch
from jseg.engine.run_log import RunLog
from jseg.engine.seeds import seed_iteration
from jseg.engine.trainer import Trainer
from jseg.errors import UserError
from jseg.model.clip_rc import set_training


def train(
    trainer: Trainer,
    batches: Iterator[Batch],
    log: RunLog,
    save: Callable[[int], Path],
    start_iteration: int = 0,
    evaluate: Callable[[], dict[str, Any]] | None = None,
) -> None:
    """Trains from iteration `start_iteration` to `train.iterations`.

    Args:
        batches: from that iteration on.
        log: of the run.
        save: writes a checkpoint after that many finished steps and returns its path.
        evaluate: metrics of the model as it is, for `train.eval_every`.

    Raises:
        UserError: bad data, a loss that is not finite, a disk that cannot be written.
    """
    config = trainer.config.train
    set_training(trainer.model, True)
    asked = time.perf_counter()
    for iteration in range(start_iteration, config.iterations):
        batch = next(batches)
        waited = time.perf_counter() - asked
        seed_iteration(config.seed, iteration)
        try:
            report = trainer.step(batch.images, batch.labels, iteration)
        except UserError as error:
            raise UserError(f"iteration {iteration} ({', '.join(batch.names)}): {error}") from error
        done = iteration + 1
        log.add(report.losses, waited)
        if done % config.log_every == 0 or done == config.iterations:
            log.report(done, report.lr)
        if done % config.save_every == 0 or done in (config.iterations, *config.milestones):
            log.write("saved", done, file=save(done).name)
        if evaluate is not None and config.eval_every and done % config.eval_every == 0:
            set_training(trainer.model, False)
            log.write("evaluation", done, metrics=evaluate())
            set_training(trainer.model, True)
            log.restart_clock(done)
        asked = time.perf_counter()
