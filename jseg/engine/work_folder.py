"""The folder of a run: one process trains in it at a time, and what a killed one left half-written is removed."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jseg.errors import UserError


@contextmanager
def held(work_dir: Path) -> Iterator[None]:
    """Keeps other processes from training in `work_dir`; the system lets go of it however this process ends.

    Raises:
        UserError: another process trains there.
    """
    descriptor = os.open(work_dir, os.O_RDONLY)  # the folder itself is locked: no file is left behind
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise UserError(f"a process is training in {work_dir}: wait for it, or choose another --work-dir") from error
    except OSError:
        pass  # a network file system without locks: as if there were none
    try:
        _remove_unfinished(work_dir)
        yield
    finally:
        os.close(descriptor)


def _remove_unfinished(work_dir: Path) -> None:
    """Removes temporary files of jseg/files.py: nobody else writes here now."""
    for path in work_dir.glob(".*.tmp"):
        path.unlink(missing_ok=True)
