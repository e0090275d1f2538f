"""What a run reports in its work folder: `log.jsonl`, console lines, TensorBoard events, the record of its starts."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import platform
import resource
import shlex
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import jseg
from jseg.config import Config, to_dict
from jseg.errors import UserError
from jseg.files import remedy, write_json, write_whole
from jseg.runtime.prepare import prepare
from jseg.runtime.report import findings
from jseg.weights.reader import WeightFile

LOG_NAME = "log.jsonl"
CONFIG_NAME = "config.json"
RECORD_NAME = "record.json"
EVENTS_NAME = "tensorboard"


def say(line: str) -> None:
    """Prints a line (nothing for ""); a full disk or a reader that has gone does not end the run."""
    try:
        if line:
            print(line, flush=True)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # nobody reads any more
    except OSError:
        pass


def duration(seconds: float) -> str:
    """`3725.2` -> `1:02:05`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def memory_gb() -> tuple[float, float | None]:
    """Peak of main memory, and GPU memory that Jittor holds (close to its peak; None on a CPU), in GB = 10**9 bytes."""
    import jittor as jt

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # Linux counts in KiB
    return peak, jt.get_mem_info().total_cuda_used / 1e9 if jt.flags.use_cuda else None


class RunLog:
    """Writes one run's log.

    Every line of `log.jsonl` is a dictionary with `event` (start, train, evaluation, saved, bad step, …) and
    `iteration`, the number of finished steps. A line that cannot be written (disk full) is kept and written later.

    Args:
        work_dir: the run's folder; None = nothing is written, as by other ranks than the first.
        iterations: length of the run, for the console lines.
        start_iteration: finished steps of the run that is resumed; lines past them, and a line that a crash cut
            short, are dropped.
        open_means: of the run that is resumed: what a checkpoint kept of `open_means`.
        evaluated: iteration of that run's last whole evaluation; a logged one past it is made again.
        tensorboard: whether to write TensorBoard events; None = if tensorboardX is installed.

    Raises:
        UserError: events are demanded without tensorboardX.
    """

    def __init__(
        self,
        work_dir: Path | None,
        iterations: int,
        start_iteration: int = 0,
        open_means: dict[str, Any] | None = None,
        evaluated: int | None = None,
        tensorboard: bool | None = False,
    ) -> None:
        self.path = work_dir / LOG_NAME if work_dir is not None else None
        self.iterations = iterations
        self._unwritten = ""
        self._means = {"sums": {}, "norms": [], "steps": 0, **(open_means or {})}
        self.restart_clock(start_iteration)
        if self.path is None:
            self._events = None
            return
        last = {"evaluation": start_iteration if evaluated is None else evaluated}
        lines = read_log(self.path) if start_iteration else []
        kept = [line for line in lines if line["iteration"] <= last.get(line.get("event"), start_iteration)]
        write_whole(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._events = open_events(tensorboard, work_dir / EVENTS_NAME, start_iteration)

    def write(self, event: str, iteration: int, **values: Any) -> None:
        """Appends one line to `log.jsonl`."""
        if self.path is None:
            return
        line = json.dumps({"event": event, "iteration": iteration, **values}, allow_nan=False)
        self._unwritten += line + "\n"
        try:
            append_whole(self.path, self._unwritten.encode())
            self._unwritten = ""
        except OSError as error:
            say(f"warning: cannot write {self.path} ({error.strerror}): {remedy(error)}; it is tried again later")
        if self._events is not None:
            try:
                for name, number in flat_numbers(event, values).items():
                    self._events.add_scalar(name, number, iteration)
                self._events.flush()
            except OSError as error:
                self._events = None
                say(f"warning: no TensorBoard events from iteration {iteration} on ({error.strerror}): {remedy(error)}")

    def add(self, losses: dict[str, float], waited: float, gradient_norm: float | None = None) -> None:
        """Adds one step to the means of the next report.

        Args:
            losses: its loss terms and `total`.
            waited: seconds that it waited for data.
            gradient_norm: over all trained weights, before clipping.
        """
        self._waited += waited
        self._means["steps"] += 1
        sums = self._means["sums"]
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + value
        if gradient_norm is not None:
            self._means["norms"].append(gradient_norm)

    def open_means(self) -> dict[str, Any]:
        """Sums since the last report, JSON-ready: a checkpoint keeps them."""
        return json.loads(json.dumps(self._means))

    def report(self, iteration: int, lr: float) -> None:
        """Prints and writes the means of the steps since the last report, and begins new ones."""
        steps = max(iteration - self._last_iteration, 1)
        seconds, waited = (time.perf_counter() - self._last_time) / steps, self._waited / steps
        sums, norms, count = (self._means[name] for name in ("sums", "norms", "steps"))
        losses = {name: value / count for name, value in sums.items()}
        norm = {"gradient_norm": sum(norms) / len(norms)} if norms else {}
        memory, gpu = memory_gb()
        terms = " ".join(f"{name} {value:.4g}" for name, value in losses.items() if name != "total")
        loss = f"{losses['total']:.4f} ({terms})" if losses else "of no step was finite"
        norm_text = f"  norm {norm['gradient_norm']:.3g}" if norm else ""
        left, gpu_text = duration(seconds * (self.iterations - iteration)), f" gpu {gpu:.2f} GB" if gpu else ""
        say(
            f"iteration {iteration}/{self.iterations}  loss {loss}{norm_text}  lr {lr:.2e}  "
            f"{seconds:.3f} s/it (data {waited:.3f})  left {left}  memory {memory:.2f} GB{gpu_text}"
        )
        self.write(
            "train", iteration, losses=losses, **norm, lr=lr, seconds=round(seconds, 4), waited=round(waited, 4),
            memory_gb=round(memory, 3), gpu_memory_gb=gpu,
        )  # fmt: skip
        self._means = {"sums": {}, "norms": [], "steps": 0}
        self.restart_clock(iteration)

    def restart_clock(self, iteration: int) -> None:
        """Leaves the time that has passed since the last report out of the next one's."""
        self._last_time, self._last_iteration, self._waited = time.perf_counter(), iteration, 0.0


def append_whole(path: Path, data: bytes) -> None:
    """Appends `data`, or nothing of it.

    Raises:
        OSError: the disk is full, or the file cannot be written.
    """
    with path.open("ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            raise


def read_log(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a log; [] when there is none. A line that a crash cut short is left out."""
    lines = []
    for text in path.read_text("utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("iteration"), int):
            lines.append(line)
    return lines


def open_events(wanted: bool | None, folder: Path, start_iteration: int) -> Any:
    """A tensorboardX.SummaryWriter; None where no events are wanted (`train.tensorboard`) or possible.

    Raises:
        UserError: wanted, but tensorboardX is not installed.
    """
    if wanted is False:
        return None
    if importlib.util.find_spec("tensorboardX") is None:
        if wanted:
            raise UserError('train.tensorboard=True needs tensorboardX: pip install "jseg[log]"')
        return None
    from tensorboardX import SummaryWriter

    try:  # its queue must hold all events of a line: its thread may have died on a full disk
        return SummaryWriter(str(folder), purge_step=start_iteration + 1, max_queue=10_000)
    except OSError as error:
        say(f"warning: no TensorBoard events ({error.strerror}): {remedy(error)}")
        return None


def flat_numbers(name: str, values: dict[str, Any]) -> dict[str, float]:
    """The numbers of nested dictionaries as one dictionary, keys joined by `/`."""
    found: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= flat_numbers(f"{name}/{key}", value)
        elif type(value) in (int, float):
            found[f"{name}/{key}"] = float(value)
    return found


def command_line() -> str:
    """The command of this process, ready to be pasted."""
    return shlex.join([Path(sys.executable).name, *sys.argv])


def environment(device: str) -> dict[str, Any]:
    """Versions and machine, JSON-ready: what has to be known to repeat a run."""
    git = ["git", "-C", str(Path(jseg.__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() or None
    except OSError:  # no git
        commit = None
    return {
        "jseg": jseg.__version__,
        "git": commit,
        "jittor": metadata.version("jittor"),
        "numpy": metadata.version("numpy"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "device": device,
    }


def write_record(
    work_dir: Path, config: Config, device: str, iteration: int, file: WeightFile | None, ranks: int = 1
) -> dict[str, Any]:
    """Writes `config.json` (a config file again) and adds this start to those in `record.json`; returns its entry.

    Args:
        iteration: finished steps; 0 begins a new record.
        file: the weights that the run starts from.
        ranks: how many processes train.
    """
    entry = {
        "command": command_line(),
        "ranks": ranks,
        "environment": environment(device),
        "seed": config.train.seed,  # every other seed follows from this one, the iteration and the stream position
        "weights": None if file is None else {"path": str(file.path), "sha256": file.sha256},
    }
    report = {finding.name: finding.found or "no" for finding in findings(prepare())}
    try:
        starts = json.loads((work_dir / RECORD_NAME).read_text("utf-8"))["starts"] if iteration else []
    except (OSError, ValueError, KeyError, TypeError):  # no earlier record that can be read
        starts = []
    now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    starts = [*starts, {"time": now, "iteration": iteration, **entry, "report": report}]
    write_json(work_dir / CONFIG_NAME, to_dict(config))
    write_json(work_dir / RECORD_NAME, {"starts": starts})
    return entry
