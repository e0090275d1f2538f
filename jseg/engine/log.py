"""What a run says: console lines, `log.jsonl` and the record of command and environment, all in the work folder.

The record of a run in its work folder: what is needed to repeat it, and under which circumstances it ran.

TensorBoard events of a run, through the package tensorboardX (extra `log`).

Written by this process at once: tensorboardX's own writer thread would wait for ever once the disk is full.
"""

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


def peak_memory_gb() -> float:
    """The most main memory that this process has held so far, in GB (10**9 bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # Linux counts in KiB


def gpu_memory_gb() -> float | None:
    """GPU memory that Jittor holds, in GB; it keeps what it once took, so this is close to the peak. None on a CPU."""
    import jittor as jt

    return jt.get_mem_info().total_cuda_used / 1e9 if jt.flags.use_cuda else None


def _git_state() -> str | None:
    """Commit of the source tree, with `-dirty` when it was changed; None outside a repository or without git."""
    command = ["git", "-C", str(Path(jseg.__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        found = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return None
    return found.stdout.strip() or None


def environment(device: str) -> dict[str, Any]:
    """Versions and machine, JSON-ready: what has to be known to repeat a run."""
    return {
        "jseg": jseg.__version__,
        "git": _git_state(),
        "jittor": metadata.version("jittor"),
        "numpy": metadata.version("numpy"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "device": device,
    }


def command_line() -> str:
    """The command of this process, ready to be pasted."""
    return shlex.join([Path(sys.executable).name, *sys.argv])


def duration(seconds: float) -> str:
    """`3725.2` -> `1:02:05`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


class RunLog:
    """Writes one run's log.

    Every line of `log.jsonl` is a dictionary with `event` (start, train, evaluation, saved, bad step, …) and
    `iteration`, the number of finished steps. A line that cannot be written (disk full) is kept and written later.

    Args:
        work_dir: the run's folder; None = nothing is written, as by other ranks than the first.
        iterations: length of the run, for the console lines.
        start_iteration: finished steps of the run that is continued; lines past them, and a line that a crash cut
            short, are dropped.
        open_means: of the run that is continued: see `open_means`.
        evaluated: after which iteration that run's last evaluation was: one on record for a later one is made again.
    """

    def __init__(
        self,
        work_dir: Path | None,
        iterations: int,
        start_iteration: int = 0,
        open_means: dict[str, Any] | None = None,
        evaluated: int | None = None,
    ) -> None:
        self.path = work_dir / LOG_NAME if work_dir is not None else None
        self.iterations = iterations
        self.events: Events | None = None  # TensorBoard gets the same numbers
        self._kept = ""  # lines that could not be written
        self._start_afresh()
        self.restart_clock(start_iteration)
        if open_means:
            self._sums, self._norms, self._steps = read_open_means(open_means)
        if self.path is None:
            return
        latest = {"evaluation": start_iteration if evaluated is None else evaluated}
        lines = read_log(self.path) if start_iteration else []
        kept = [line for line in lines if line["iteration"] <= latest.get(line.get("event"), start_iteration)]
        write_whole(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def write(self, event: str, iteration: int, **values: Any) -> None:
        """Appends one line to `log.jsonl`."""
        if self.path is None:
            return
        line = json.dumps({"event": event, "iteration": iteration, **values}, allow_nan=False)
        text, self._kept = self._kept + line + "\n", ""
        try:
            append_whole(self.path, text.encode())
        except OSError as error:
            self._kept = text
            print(f"warning: cannot write {self.path} ({error.strerror}): {remedy(error)}; it is tried again later")
        if self.events is not None:
            self.events.write(event, iteration, values)

    def add(self, losses: dict[str, float], waited: float, gradient_norm: float | None = None) -> None:
        """Counts one step in.

        Args:
            losses: its loss terms and `total`.
            waited: seconds that it waited for data.
            gradient_norm: over all trained weights, before clipping.
        """
        self._waited += waited
        self._steps += 1
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        if gradient_norm is not None:
            self._norms.append(gradient_norm)

    def open_means(self) -> dict[str, Any]:
        """What has been added since the last report, JSON-ready: a checkpoint keeps it."""
        return {"sums": dict(self._sums), "norms": list(self._norms), "steps": self._steps}

    def report(self, iteration: int, lr: float) -> None:
        """Prints and writes the mean of the steps since the last report, and starts afresh."""
        steps = max(iteration - self._last_iteration, 1)
        seconds, waited = (time.perf_counter() - self._last_time) / steps, self._waited / steps
        losses = {name: value / self._steps for name, value in self._sums.items()}
        norm = {"gradient_norm": sum(self._norms) / len(self._norms)} if self._norms else {}
        memory, gpu = peak_memory_gb(), gpu_memory_gb()
        left = duration(seconds * (self.iterations - iteration))
        terms = " ".join(f"{name} {value:.4g}" for name, value in losses.items() if name != "total")
        norm_text = f"norm {norm['gradient_norm']:.3g}  " if norm else ""
        gpu_text = f" gpu {gpu:.2f} GB" if gpu is not None else ""
        loss_text = f"{losses['total']:.4f} ({terms})" if losses else "of no step was finite"
        print(
            f"iteration {iteration}/{self.iterations}  loss {loss_text}  {norm_text}lr {lr:.2e}  "
            f"{seconds:.3f} s/it (data {waited:.3f})  left {left}  memory {memory:.2f} GB{gpu_text}",
            flush=True,
        )
        self.write(
            "train", iteration, losses=losses, **norm, lr=lr, seconds=round(seconds, 4), waited=round(waited, 4),
            memory_gb=round(memory, 3), gpu_memory_gb=gpu,
        )  # fmt: skip
        self._start_afresh()
        self.restart_clock(iteration)

    def restart_clock(self, iteration: int) -> None:
        """Leaves the time that has passed since the last report out of the next one's."""
        self._last_time, self._last_iteration, self._waited = time.perf_counter(), iteration, 0.0

    def _start_afresh(self) -> None:
        self._sums: dict[str, float] = {}
        self._norms: list[float] = []
        self._steps = 0


def read_open_means(means: dict[str, Any]) -> tuple[dict[str, float], list[float], int]:
    """The three parts of `RunLog.open_means`.

    Raises:
        UserError: they are no such parts.
    """
    sums, norms, steps = means.get("sums"), means.get("norms"), means.get("steps")
    fits = isinstance(sums, dict) and isinstance(norms, list) and type(steps) is int
    if not fits or any(type(value) is not float for value in (*sums.values(), *norms)):
        raise UserError("the checkpoint holds no log position: use another one")
    return dict(sums), list(norms), steps


def append_whole(path: Path, data: bytes) -> None:
    """Appends `data`; when that fails half-way, what was written of it is taken back.

    Raises:
        OSError: the disk is full, or the file cannot be written.
    """
    with path.open("ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            written = file.write(data)
            if written != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            raise


def read_log(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a log; [] when there is none. A line that a crash cut short is left out.

    Raises:
        UserError: it cannot be read.
    """
    lines = []
    try:
        texts = path.read_text(errors="replace").splitlines() if path.exists() else []
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): pass a work folder or its {LOG_NAME}") from error
    for text in texts:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("iteration"), int):
            lines.append(line)
    return lines


CONFIG_NAME = "config.json"
RECORD_NAME = "record.json"


def write_record(
    work_dir: Path, config: Config, device: str, iteration: int, file: WeightFile | None, ranks: int = 1
) -> dict[str, Any]:
    """Writes `config.json` (a config file again) and adds this start to those in `record.json`; returns its entry.

    Args:
        work_dir: the run's folder.
        config: of the run, as it is used.
        device: what it computes on.
        iteration: finished steps; 0 begins a new record.
        file: the weights that it starts from.
        ranks: how many processes train.
    """
    entry = {
        "command": command_line(),
        "ranks": ranks,
        "environment": environment(device),
        # every other seed follows from this one, the iteration and the stream position (seeds.py, sampling.py)
        "seed": config.train.seed,
        "weights": None if file is None else {"path": str(file.path), "sha256": file.sha256},
    }
    report = {finding.name: finding.found or "no" for finding in findings(prepare())}
    now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    earlier = _starts(work_dir) if iteration else []
    starts = [*earlier, {"time": now, "iteration": iteration, **entry, "report": report}]
    write_json(work_dir / CONFIG_NAME, to_dict(config))
    write_json(work_dir / RECORD_NAME, {"starts": starts})
    return entry


def _starts(work_dir: Path) -> list[Any]:
    """The starts recorded so far; [] when there is no record that can be read."""
    try:
        return list(json.loads((work_dir / RECORD_NAME).read_text())["starts"])
    except (OSError, ValueError, KeyError, TypeError):
        return []


FOLDER = "tensorboard"


def make_events(wanted: bool | None, work_dir: Path, start_iteration: int) -> Events | None:
    """The event file of a run; None where none is wanted.

    Args:
        wanted: `train.tensorboard`; None = if tensorboardX is installed.
        work_dir: the run's folder; the files go into `tensorboard` in it.
        start_iteration: finished steps of the run that is continued: later events are no longer shown.

    Raises:
        UserError: wanted, but tensorboardX is not installed.
    """
    if importlib.util.find_spec("tensorboardX") is None:
        if wanted:
            raise UserError('train.tensorboard=True needs tensorboardX: pip install "jseg[log]"')
        return None
    return None if wanted is False else Events(work_dir / FOLDER, start_iteration)


class Events:
    """Scalars by iteration."""

    def __init__(self, folder: Path, start_iteration: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._broken = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._writer = EventsWriter(str(folder / "events"))
            started = SessionLog(status=SessionLog.START)
            self._writer.write_event(Event(wall_time=time.time(), step=start_iteration + 1, session_log=started))
            self._writer.flush()
        except OSError as error:
            self._stop(start_iteration, error)

    def write(self, event: str, iteration: int, values: dict[str, Any]) -> None:
        """Writes the numbers of a line of the log; TensorBoard takes no others."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        numbers = _numbers(event, values)
        if not numbers or self._broken:
            return
        try:
            for name, value in numbers.items():
                self._writer.write_event(Event(wall_time=time.time(), step=iteration, summary=scalar(name, value)))
            self._writer.flush()
        except OSError as error:
            self._stop(iteration, error)

    def _stop(self, iteration: int, error: OSError) -> None:
        self._broken = True  # half an event ends what TensorBoard can read of a file
        print(f"warning: no TensorBoard events from iteration {iteration} on ({error.strerror}): {remedy(error)}")


def _numbers(name: str, values: dict[str, Any]) -> dict[str, float]:
    """Nested dictionaries of numbers as one, keys joined by `/`."""
    found: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= _numbers(f"{name}/{key}", value)
        elif type(value) in (int, float):
            found[f"{name}/{key}"] = float(value)
    return found
