"""Results of a function in the order of its inputs, computed ahead by worker processes or threads. No Jittor.

Worker processes come from a fork server, which starts from a fresh interpreter, so they hold neither Jittor nor CUDA.
They ignore Ctrl-C and the signals that schedulers send to every process of a job (SIGTERM; mpirun: SIGUSR1): the main
process then still finishes its step and saves, for which it needs its workers. They end when the main process ends.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import connection, forkserver, resource_tracker
from typing import Any, TypeVar

import cv2

from jseg.errors import UserError

Result = TypeVar("Result")
_TO_ALL = {signal.SIGTERM, signal.SIGUSR1}
_task: tuple[Callable, tuple] | None = None  # of a worker process: the function and the arguments that all calls share


def map_in_order(
    function: Callable[..., Result],
    items: Iterable[tuple],
    workers: int,
    shared: tuple = (),
    ahead: int | None = None,
    threads: bool = False,
    name: Callable[[tuple], str] = str,
    remedy: str = "use fewer workers",
) -> Iterator[Result]:
    """Yields `function(*shared, *item)` for each item, in order; items may be endless.

    Close the iterator (or leave it to be collected) to end the workers. With worker processes `function` must be
    importable and its arguments and results picklable; `shared` is sent once to each worker, not once per item.

    Args:
        workers: processes (or threads) that compute; 0 = computed in this process when it is asked for.
        ahead: results that are ready or being computed at a time; None = four per worker.
        threads: use threads instead of processes, for functions that release the GIL.
        name: what an error message calls an item.
        remedy: what an error message advises when a worker was killed.

    Raises:
        UserError: a worker process was killed; names the items that were being computed.
    """
    if workers == 0:
        yield from (function(*shared, *item) for item in items)
        return
    executor = ThreadPoolExecutor(workers) if threads else _worker_processes(workers, function, shared)
    call, arguments = (function, shared) if threads else (_compute, ())
    pending: deque[tuple[tuple, Future]] = deque()
    waiting = iter(items)

    def submit(count: int) -> None:
        for item in islice(waiting, count):
            pending.append((item, executor.submit(call, *arguments, *item)))

    try:
        submit(ahead or 4 * workers)
        while pending:
            result = pending[0][1].result()
            pending.popleft()
            submit(1)
            yield result
    except BrokenProcessPool as error:
        lost = [name(item) for item, future in pending if not future.done() or future.exception()][:workers]
        where = f" at {' or '.join(lost)}" if lost else ""
        raise UserError(
            f"a worker process ended unexpectedly{where} (out of memory?): {remedy}; a script needs "
            "`if __name__ == '__main__':` around its calls"
        ) from error
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _worker_processes(workers: int, function: Callable, shared: tuple) -> Executor:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("spawn")
    else:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([module for module in (__name__, function.__module__) if module != "__main__"])
        _start_fork_server()
    return ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(function, shared))


def _start_fork_server() -> None:
    """Starts the fork server (once per process) so that no signal to all ends it; it ends with its parent."""
    resource_tracker.ensure_running()  # starting it would unblock SIGTERM
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _TO_ALL)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(function: Callable, shared: tuple) -> None:
    global _task
    _task = (function, shared)
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    signal.pthread_sigmask(signal.SIG_BLOCK, _TO_ALL)  # before threads are started: they inherit it
    threading.Thread(target=_leave_with_parent, args=(parent.sentinel,), daemon=True).start()
    threading.Thread(target=_leave_when_asked, args=(parent.pid,), daemon=True).start()


def _leave_with_parent(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(0)


def _leave_when_asked(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:  # SIGTERM from anybody else is ignored
        pass
    os._exit(0)


def _compute(*item: Any) -> Any:
    function, shared = _task
    return function(*shared, *item)
