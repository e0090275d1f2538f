"""What every worker process needs: it ends with its parent, and not before its parent asks.

Schedulers send SIGTERM (mpirun: SIGUSR1) to every process of a job. The main process then still finishes its step and
saves, for which it needs its workers and the fork server that they come from.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing import connection, forkserver

_TO_ALL = {signal.SIGTERM, signal.SIGUSR1}


def leave_with_parent() -> None:
    """Ends this process when its parent ends or sends SIGTERM; SIGTERM from anybody else and SIGUSR1 are ignored.

    Call it at the start of a worker process. Without it a killed parent would leave its workers waiting for ever.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        signal.pthread_sigmask(signal.SIG_BLOCK, _TO_ALL)  # before threads are started: they inherit it
        threading.Thread(target=_wait_and_leave, args=(parent.sentinel,), daemon=True).start()
        threading.Thread(target=_leave_when_asked, args=(parent.pid,), daemon=True).start()


def start_fork_server() -> None:
    """Starts the fork server (once per process) so that no signal to all ends it; it ends with its parent."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _TO_ALL)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait_and_leave(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(0)


def _leave_when_asked(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
