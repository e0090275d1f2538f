"""What a run has to remember besides weights and optimiser to go on as if nothing had happened."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from jseg.config import Config
from jseg.errors import UserError

_KEY = "progress"  # in a checkpoint's metadata


@dataclass
class Progress:
    """Counters of a run; every checkpoint holds them."""

    iteration: int = 0  # finished steps, skipped ones among them
    evaluated: int = 0  # after which iteration the last evaluation was
    best: float | None = None  # highest value of train.best_metric in percent, whose weights were kept
    best_iteration: int = 0
    without_gain: int = 0  # evaluations in a row that were not better
    bad_steps: int = 0  # skipped because the loss or the gradient was not finite
    bad_in_a_row: int = 0
    log: dict[str, Any] = field(default_factory=dict)  # see RunLog.open_means

    def meta(self) -> dict[str, Any]:
        """For a checkpoint's metadata."""
        return {"iteration": self.iteration, _KEY: dataclasses.asdict(self)}

    def take(self, value: float | None) -> bool:
        """Counts an evaluation in; whether it is the best so far. None = undefined, which is never the best."""
        better = value is not None and math.isfinite(value) and (self.best is None or value > self.best)
        self.without_gain = 0 if better else self.without_gain + 1
        if better:
            self.best, self.best_iteration = value, self.iteration
        return better


def progress_of(meta: dict[str, Any], path: object) -> Progress:
    """The progress that a checkpoint's metadata hold.

    Raises:
        UserError: they hold none, or no such values; names `path`.
    """
    values, known = meta.get(_KEY), dataclasses.asdict(Progress())
    if not isinstance(values, dict) or values.keys() != known.keys() or values["iteration"] != meta.get("iteration"):
        raise UserError(f"{path} does not record how far its run was: use --weights {path} to start a new one")
    for key, value in values.items():
        number = value is None or type(value) in (int, float)
        fits = number if key == "best" else isinstance(value, dict) if key == "log" else type(value) is int
        if not fits or (type(value) is int and value < 0):
            raise UserError(f"{path} records {key}={value!r} as how far its run was: use another checkpoint")
    return Progress(**values)


def best_metric(config: Config) -> str:
    """The metric that decides which weights are best."""
    supervised = config.data.setting == "supervised" or config.cross_dataset
    return config.train.best_metric or ("mIoU(S)" if supervised else "hIoU")
