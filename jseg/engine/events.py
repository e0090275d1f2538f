"""TensorBoard events of a run, through the package tensorboardX (extra `log`).

Written by this process at once: tensorboardX's own writer thread would wait for ever once the disk is full.
"""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from typing import Any

from jseg.errors import UserError
from jseg.whole_file import mend

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
        print(f"warning: no TensorBoard events from iteration {iteration} on ({error.strerror}): {mend(error)}")


def _numbers(name: str, values: dict[str, Any]) -> dict[str, float]:
    """Nested dictionaries of numbers as one, keys joined by `/`."""
    found: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= _numbers(f"{name}/{key}", value)
        elif type(value) in (int, float):
            found[f"{name}/{key}"] = float(value)
    return found
