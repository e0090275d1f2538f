"""Shows on stderr how far Jittor's compilation is: one rewritten line on a terminal, else a line every ten seconds."""

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

FEW = 5  # kernels that are compiled in silence, and files after which the time left is known
BAR = 24  # characters


class Core:
    """Counts the files of Jittor's core; called as `jittor_utils.DelayProgress` is, before files are compiled."""

    def __init__(self) -> None:
        self.begin, self.done, self.total = time.monotonic(), 0, 0

    def __call__(self, text: str, number: int) -> "Core":
        """`number` files follow."""
        self.begin, self.done, self.total = time.monotonic(), 0, number
        return self

    def update(self, index: int) -> None:
        """The file `index`, from 0 on in the order of their ends, is compiled."""
        self.done = index + 1

    def text(self) -> str:
        """`core: 23 of 57 files, about 1:10 left`, behind a bar that only terminals show."""
        seconds, full = time.monotonic() - self.begin, BAR * self.done // max(self.total, 1)
        if not self.done:
            return f"core: getting ready, {_clock(seconds)}"
        known = self.done >= FEW  # the first ones say nothing: they end together
        left = f", about {_clock(seconds / self.done * (self.total - self.done))} left" if known else ""
        bar = f"[{'#' * full}{'.' * (BAR - full)}] "
        return f"{bar}core: {self.done} of {self.total} files{left}"


def kernels(folder: Path) -> Callable[[], str]:
    """Text about kernels that appear in Jittor's folder from now on: `kernels: 41 compiled`, "" for a few or none."""

    def count() -> int:
        return sum(name.endswith(".so") for name in os.listdir(folder)) if folder.is_dir() else 0

    before = count()
    return lambda: f"kernels: {count() - before} compiled" if count() - before >= FEW else ""


def show(
    text: Callable[[], str], ended: threading.Event, wait: float = 4.0, every: float = 10.0, stream: int = 2
) -> None:
    """Starts a thread that writes `text()`, when it is not "" and has changed, to a file descriptor until `ended`.

    `wait` seconds pass before the first time, and `every` (a terminal: 1) between two.
    """
    terminal, due = os.isatty(stream), time.monotonic() + wait

    def watch() -> None:
        shown, next_time, pause = "", due, min(1.0, every)
        with suppress(OSError):  # nobody reads it
            while not ended.wait(pause):
                now, line = time.monotonic(), text()
                if line and line != shown and now >= next_time:
                    shown, next_time = line, now + (pause if terminal else every)
                    plain = f"jseg: {line.rpartition('] ')[2]}\n"
                    os.write(stream, (f"\x1b[2K{line}\r" if terminal else plain).encode())  # prints go over it
            if terminal and shown:
                os.write(stream, b"\x1b[2K")

    threading.Thread(target=watch, daemon=True).start()


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
