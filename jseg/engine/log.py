"""What a run reports in its work folder: `log.jsonl`, console lines, TensorBoard events, the record of its starts."""

from jseg.runtime.command_line import command_line

import importlib.util
import json
import os
import resource
import statistics
import time
from collections import deque
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from jseg.config import Config, flatten, to_dict
from jseg.errors import UserError
from jseg.files import remedy, write_json, write_whole
from jseg.outputs import is_ours
from jseg.runtime.prepare import environment
from jseg.weights.reader import WeightFile

LOG_NAME = "log.jsonl"


def say(line: str) -> None:
    """Prints a line at once; nothing for ""."""
    if line:
        print(line, flush=True)


class RunLog:
    """Writes one run's log; with `work_dir` None it only prints, as on other ranks than the first.

    Every line of `log.jsonl` is a dictionary with `event` (start, train, evaluation, saved, bad step, …) and
    `iteration`, the number of finished steps. A resumed run gives what its checkpoint kept: finished steps, `means`,
    the iteration `evaluated` last; later lines are dropped. `tensorboard` None = if tensorboardX is installed.
    """

    def __init__(
        self, work_dir: Path | None, iterations: int, start_iteration: int = 0, means: dict[str, Any] | None = None,
        evaluated: int | None = None, tensorboard: bool | None = False,
    ) -> None:  # fmt: skip
        self.path = work_dir / LOG_NAME if work_dir is not None else None
        self.iterations, self._unwritten, self._events = iterations, "", None
        self.means = {"sums": {}, "norms": [], "steps": 0, **(means or {})}  # sums since the last report, JSON-ready
        self._durations: deque[float] = deque(maxlen=100)  # seconds of recent steps
        self.restart_clock(start_iteration)
        if self.path is None:
            return
        lines = read_log(self.path) if start_iteration else []
        last = {"evaluation": start_iteration if evaluated is None else evaluated}
        kept = [line for line in lines if line["iteration"] <= last.get(line.get("event"), start_iteration)]
        write_whole(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        installed = importlib.util.find_spec("tensorboardX") is not None
        if tensorboard and not installed:
            raise UserError("train.tensorboard=True needs tensorboardX: pip install tensorboardX")
        if installed and tensorboard is not False:
            from tensorboardX.event_file_writer import EventsWriter  # SummaryWriter's thread dies on a full disk
            from tensorboardX.proto.event_pb2 import Event, SessionLog

            (work_dir / "tensorboard").mkdir(exist_ok=True)
            self._events = EventsWriter(str(work_dir / "tensorboard" / "events"))
            start = SessionLog(status=SessionLog.START)  # later steps of an earlier start are hidden
            self._events.write_event(Event(wall_time=time.time(), step=start_iteration + 1, session_log=start))

    def write(self, event: str, iteration: int, **values: Any) -> None:
        """Appends one line to `log.jsonl`."""
        if self.path is None:
            return
        self._unwritten += json.dumps({"event": event, "iteration": iteration, **values}, allow_nan=False) + "\n"
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            with self.path.open("ab") as file:
                file.write(self._unwritten.encode())
                file.flush()
                os.fsync(file.fileno())
            self._unwritten = ""
        except OSError as error:
            with suppress(OSError):
                os.truncate(self.path, size)  # no half lines
            say(f"warning: cannot write the log ({error.strerror}): {remedy(error)}; it is tried again later")
        if self._events is not None:
            from tensorboardX.writer import Event, scalar

            try:
                for tag, x in flatten({event: values}, "/").items():
                    if type(x) in (int, float):
                        self._events.write_event(Event(wall_time=time.time(), step=iteration, summary=scalar(tag, x)))
                self._events.flush()
            except OSError as error:
                self._events = None
                say(f"warning: no TensorBoard events from iteration {iteration} on ({error.strerror}): {remedy(error)}")

    def add(self, losses: dict[str, float], waited: float, gradient_norm: float | None = None) -> None:
        """Adds one step to the means of the next report: loss terms, seconds that it waited for data, norm."""
        self._waited += waited
        now = time.perf_counter()
        self._durations.append(now - self._last_step)
        self._last_step = now
        self.means["steps"] += 1
        for name, value in losses.items():
            self.means["sums"][name] = self.means["sums"].get(name, 0.0) + value
        self.means["norms"] += [] if gradient_norm is None else [gradient_norm]

    def report(self, iteration: int, lr: float) -> None:
        """Prints and writes the means of the steps since the last report, and begins new ones."""
        import jittor as jt  # here: run_net prints before Jittor starts

        steps = max(iteration - self._last_iteration, 1)
        seconds, waited = (time.perf_counter() - self._last_time) / steps, self._waited / steps
        losses, norms = {k: value / self.means["steps"] for k, value in self.means["sums"].items()}, self.means["norms"]
        norm = {"gradient_norm": sum(norms) / len(norms)} if norms else {}
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # its peak; Linux counts in KiB
        gpu = jt.get_mem_info().total_cuda_used / 1e9 if jt.flags.use_cuda else None  # what Jittor holds
        terms = " ".join(f"{name} {value:.4g}" for name, value in losses.items() if name != "total")
        loss = f"{losses['total']:.4f} ({terms})" if losses else "of no step was finite"
        norm_text = f"  norm {norm['gradient_norm']:.3g}" if norm else ""
        step = statistics.median(self._durations) if self._durations else seconds  # not those that compile
        left = timedelta(seconds=round(step * (self.iterations - iteration))) if len(self._durations) != 1 else "?"
        say(
            f"iteration {iteration}/{self.iterations}  loss {loss}{norm_text}  lr {lr:.2e}  {seconds:.3f} s/it "
            f"(data {waited:.3f})  left {left}  memory {memory:.2f} GB{f' gpu {gpu:.2f} GB' if gpu else ''}"
        )
        self.write(
            "train", iteration, losses=losses, **norm, lr=lr, seconds=round(seconds, 4), waited=round(waited, 4),
            memory_gb=round(memory, 3), gpu_memory_gb=gpu, step=round(step, 6),
        )  # fmt: skip
        self.means = {"sums": {}, "norms": [], "steps": 0}
        self.restart_clock(iteration)

    def restart_clock(self, iteration: int) -> None:
        """Leaves the time that has passed since the last report out of the next one's."""
        self._last_time, self._last_iteration, self._waited = time.perf_counter(), iteration, 0.0
        self._last_step = self._last_time


def read_log(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a log; [] when there is none. A line that a crash cut short is left out."""
    lines = []
    for text in path.read_text("utf-8", errors="replace").splitlines() if path.exists() else []:
        with suppress(ValueError):
            lines.append(json.loads(text))
    return [line for line in lines if isinstance(line, dict) and isinstance(line.get("iteration"), int)]


def write_record(
    work_dir: Path, config: Config, device: str, iteration: int, file: WeightFile | None, ranks: int = 1
) -> dict[str, Any]:
    """Writes `config.json`, adds a start after `iteration` steps from `file` to `record.json`; returns its entry."""
    # every other seed follows from this one, the iteration and the stream position
    entry = {"command": command_line(), "ranks": ranks, "environment": environment(device), "seed": config.train.seed}
    entry["weights"] = None if file is None else {"path": str(file.path), "sha256": file.sha256}
    path = work_dir / "record.json"
    starts = json.loads(path.read_text("utf-8"))["starts"] if iteration and path.exists() and is_ours(path) else []
    starts.append({"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "iteration": iteration, **entry})
    write_json(work_dir / "config.json", to_dict(config))
    write_json(path, {"starts": starts})
    return entry
