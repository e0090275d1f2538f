"""What every worker process needs."""

from __future__ import annotations

import multiprocessing
import os
import threading
from multiprocessing import connection


def leave_with_parent() -> None:
    """Ends this process when its parent does; without this a killed parent leaves its workers waiting for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_wait_and_leave, args=(parent.sentinel,), daemon=True).start()


def _wait_and_leave(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(0)
