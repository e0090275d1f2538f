"""Batches of captioned pictures, drawn ahead by worker processes. No Jittor: workers must stay free of it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import count, islice
from multiprocessing import connection

import cv2

from jseg.clip.tokenizer import Tokenizer
from jseg.errors import UserError
from jseg.pretraining.pictures import PictureBatch, picture_batch
from jseg.pretraining.settings import Settings

_AHEAD = 4  # batches per worker that are being drawn or ready
_work: tuple[Settings, Tokenizer] | None = None  # of a worker process


def _start_worker(settings: Settings, tokenizer: Tokenizer) -> None:
    global _work
    _work = (settings, tokenizer)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business: it ends its workers politely
    cv2.setNumThreads(1)
    parent = multiprocessing.parent_process()
    if parent is not None:  # without this, a killed parent would leave its workers waiting for ever
        threading.Thread(target=_leave_with, args=(parent.sentinel,), daemon=True).start()


def _leave_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(0)


def _work_on(iteration: int) -> PictureBatch:
    return picture_batch(*_work, iteration)


def picture_batches(settings: Settings, tokenizer: Tokenizer, start_iteration: int = 0) -> Iterator[PictureBatch]:
    """Batches without end from `start_iteration` on, the same for any number of workers.

    Close the iterator to end the workers.

    Raises:
        UserError: while iterating, when a worker was killed.
    """
    if not settings.workers:
        yield from (picture_batch(settings, tokenizer, iteration) for iteration in count(start_iteration))
    context = multiprocessing.get_context(
        "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    )
    executor = ProcessPoolExecutor(settings.workers, context, initializer=_start_worker, initargs=(settings, tokenizer))
    iterations, pending = count(start_iteration), deque()
    try:
        while True:
            wanted = _AHEAD * settings.workers - len(pending)
            pending.extend(executor.submit(_work_on, iteration) for iteration in islice(iterations, wanted))
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise UserError("a process that draws pictures ended unexpectedly (out of memory?): try --workers 0") from error
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
