"""Signals during training: finish the step and save, instead of ending where the run happens to be."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# of schedulers before they end a job, of mpirun, of a terminal that is closed, of Ctrl-C
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT)


class Interrupted(Exception):
    """A stop was asked for during work that is not worth finishing (see `StopRequest.breaks`)."""


class StopRequest:
    """While entered, `SIGNALS` only set `signal_name`; a second Ctrl-C ends the process as usual."""

    def __init__(self) -> None:
        self.signal_name = ""  # of the signal that came; "" = none yet
        self._breaking = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        for number in (number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN):  # nohup ignores it
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextmanager
    def breaks(self) -> Iterator[None]:
        """A signal inside the `with` block raises Interrupted at once: for long work that can be done again."""
        if self.signal_name:
            raise Interrupted
        self._breaking = True
        try:
            yield
        finally:
            self._breaking = False

    def _receive(self, number: int, _: object) -> None:
        if self.signal_name:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.signal_name = signal.Signals(number).name
        with suppress(OSError):  # not print: the signal may have come in the middle of one; the terminal may be gone
            os.write(2, f"\n{self.signal_name}: finishing this step, then saving (Ctrl-C ends at once)\n".encode())
        if self._breaking:
            raise Interrupted
