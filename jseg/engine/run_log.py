"""What a run says: console lines, `log.jsonl` and the record of command and environment, all in the work folder."""

from __future__ import annotations

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
from jseg.errors import UserError
from jseg.whole_file import write_whole

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

    Every line of `log.jsonl` is a dictionary with `event` (start, train, evaluation, saved, end) and `iteration`, the
    number of finished steps.

    Args:
        work_dir: the run's folder.
        iterations: length of the run, for the console lines.
        start_iteration: finished steps of the run that is continued; lines past them, and a line that a crash cut
            short, are dropped.
    """

    def __init__(self, work_dir: Path, iterations: int, start_iteration: int = 0) -> None:
        self.path = work_dir / LOG_NAME
        self.iterations = iterations
        self._last_time, self._last_iteration = time.perf_counter(), start_iteration
        self._waited = 0.0
        self._sums: dict[str, float] = {}
        kept = [line for line in read_log(self.path) if line["iteration"] <= start_iteration] if start_iteration else []
        write_whole(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def write(self, event: str, iteration: int, **values: Any) -> None:
        """Appends one line to `log.jsonl`."""
        line = json.dumps({"event": event, "iteration": iteration, **values}, allow_nan=False)
        try:
            with self.path.open("a") as file:
                file.write(line + "\n")
        except OSError as error:
            raise UserError(f"cannot write {self.path} ({error.strerror}): free the disk or choose a folder") from error

    def add(self, losses: dict[str, float], waited: float) -> None:
        """Counts one step in.

        Args:
            losses: its loss terms and `total`.
            waited: seconds that it waited for data.
        """
        self._waited += waited
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def report(self, iteration: int, lr: float) -> None:
        """Prints and writes the mean of the steps since the last report, and starts afresh."""
        steps = iteration - self._last_iteration
        seconds = (time.perf_counter() - self._last_time) / steps
        losses = {name: value / steps for name, value in self._sums.items()}
        waited, memory, gpu = self._waited / steps, peak_memory_gb(), gpu_memory_gb()
        left = duration(seconds * (self.iterations - iteration))
        terms = " ".join(f"{name} {value:.4g}" for name, value in losses.items() if name != "total")
        gpu_text = f" gpu {gpu:.2f} GB" if gpu is not None else ""
        print(
            f"iteration {iteration}/{self.iterations}  loss {losses['total']:.4f} ({terms})  lr {lr:.2e}  "
            f"{seconds:.3f} s/it (data {waited:.3f})  left {left}  memory {memory:.2f} GB{gpu_text}",
            flush=True,
        )
        self.write(
            "train", iteration, losses=losses, lr=lr, seconds=round(seconds, 4), waited=round(waited, 4),
            memory_gb=round(memory, 3), gpu_memory_gb=gpu,
        )  # fmt: skip
        self.restart_clock(iteration)

    def restart_clock(self, iteration: int) -> None:
        """Leaves what has passed since the last report out of the next one's time."""
        self._last_time, self._last_iteration = time.perf_counter(), iteration
        self._waited, self._sums = 0.0, {}


def read_log(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a log; [] when there is none. A line that a crash cut short is left out."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("iteration"), int):
            lines.append(line)
    return lines
