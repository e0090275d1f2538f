"""Converts many label files: in parallel processes, restartable, with a progress bar, naming what cannot be converted.

A target is written whole or not at all, so after an interruption the same command goes on where it was.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from jseg.data.image_files import file_problem
from jseg.data.worker_process import leave_with_parent
from jseg.errors import UserError

_PART = 16  # files per task of a worker
_DEFAULT_WORKERS = 8


@dataclass(frozen=True)
class Job:
    """One label file to make."""

    source: Path
    target: Path


def default_workers() -> int:
    """Processes to convert with: one for each core that this process may use, at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _DEFAULT_WORKERS)


def unfinished(jobs: Sequence[Job], force: bool = False) -> list[Job]:
    """The jobs whose target is not there as a whole label PNG; `force` = all of them."""
    return [job for job in jobs if force or file_problem(job.target, labels=True)]


def convert_all(jobs: Sequence[Job], convert: Callable[[Path, Path], None], workers: int, title: str) -> list[str]:
    """Runs `convert(source, target)` for every job; returns what went wrong, one line for each file.

    Args:
        convert: importable function (or a partial of one) that writes the target whole, and raises UserError for a bad
            source.
        workers: processes; 0 = in this process.

    Raises:
        UserError: a worker process died.
    """
    parts = [jobs[start : start + _PART] for start in range(0, len(jobs), _PART)]
    problems: list[str] = []
    with tqdm(total=len(jobs), desc=title, unit="file", disable=not sys.stderr.isatty()) as bar:
        if workers == 0 or len(parts) < 2:
            for part in parts:
                problems += _convert_part(convert, part)
                bar.update(len(part))
            return problems
        context = multiprocessing.get_context("spawn")
        executor = ProcessPoolExecutor(min(workers, len(parts)), context, initializer=leave_with_parent)
        try:
            with _interrupts_ignored():  # workers are started by the tasks
                futures: dict[Future, int] = {
                    executor.submit(_convert_part, convert, part): len(part) for part in parts
                }
            for future in as_completed(futures):
                problems += future.result()
                bar.update(futures[future])
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process ended unexpectedly (out of memory?): run the same command again with fewer "
                "--workers, finished files are kept"
            ) from error
        finally:
            executor.shutdown(wait=True, cancel_futures=True)
    return sorted(problems)


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Processes started here ignore Ctrl-C for good: their parent hears it, and lets them finish their part."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may change signals
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _convert_part(convert: Callable[[Path, Path], None], jobs: Sequence[Job]) -> list[str]:
    problems = []
    for job in jobs:
        try:
            convert(job.source, job.target)
        except UserError as error:
            problems.append(str(error))
    return problems
