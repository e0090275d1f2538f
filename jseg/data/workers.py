"""Results of a function in the order of its inputs, computed ahead by worker processes or threads.

Worker processes hold neither Jittor nor CUDA: a fork server starts them. They end with the main process, but ignore
Ctrl-C and the signals that every process of a job gets (of schedulers SIGTERM, of mpirun SIGUSR1, of a closed terminal
SIGHUP): the main process then still finishes its step and saves, for which it needs them.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from multiprocessing import connection, forkserver, resource_tracker
from typing import Any, TypeVar

import cv2

from jseg.errors import UserError

Result = TypeVar("Result")
CHECKED_EVERY = 2  # seconds: whether the workers still run
_TO_ALL = {signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP}
_task: tuple[Callable, tuple] | None = None  # of a worker process: the function and the arguments that all calls share


def map_in_order(
    function: Callable[..., Result], items: Iterable[tuple], workers: int, shared: tuple = (), ahead: int = 0,
    threads: bool = False, remedy: str = "use fewer workers",
) -> Iterator[Result]:  # fmt: skip
    """Yields `function(*shared, *item)` for each item, in order; items may be endless.

    Close the iterator (or leave it to be collected) to end the workers, 0 = in this process. With worker processes
    `function` must be importable; `shared` is sent once to each. `ahead` results (0 = four per worker) are ready or
    being computed at a time. When a worker was killed, a UserError advises `remedy`.
    """
    if workers <= 0:
        yield from (function(*shared, *item) for item in items)
        return
    if threads:
        executor = ThreadPoolExecutor(workers)
        submit = partial(executor.submit, function, *shared)
    else:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([module for module in (__name__, function.__module__) if module != "__main__"])
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _TO_ALL)  # so that no signal to all ends the fork server
        try:
            resource_tracker.ensure_running()
            signal.pthread_sigmask(signal.SIG_BLOCK, _TO_ALL)  # that has unblocked SIGTERM
            forkserver.ensure_running()  # once per process; it ends with its parent
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        executor = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(function, shared))
        submit = partial(executor.submit, _compute)
    futures = (submit(*item) for item in items)
    try:
        pending = deque(islice(futures, ahead or 4 * workers))
        while pending:
            future = pending.popleft()
            while not wait([future], timeout=CHECKED_EVERY).done:
                _end_if_broken(executor)
            result = future.result()
            pending.extend(islice(futures, 1))
            yield result
    except BrokenProcessPool as error:
        script = "a script needs `if __name__ == '__main__':` around its calls"
        raise UserError(f"a worker process ended unexpectedly (out of memory?): {remedy}; {script}") from error
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _end_if_broken(executor: ProcessPoolExecutor | ThreadPoolExecutor) -> None:
    """Ends all workers once one was killed: if it was sending a result, the pool waits for the rest of it for ever."""
    workers = [*(getattr(executor, "_processes", None) or {}).values()]
    if not all(worker.is_alive() for worker in workers):
        for worker in workers:
            worker.kill()
        executor._result_queue._writer.close()  # the last one that is open: reading the result ends


def _start_worker(function: Callable, shared: tuple) -> None:
    global _task
    _task = (function, shared)
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, _TO_ALL)  # before the thread is started: it inherits the mask
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process when its parent is gone or sends SIGTERM; SIGTERM from anybody else is ignored."""
    parent = multiprocessing.parent_process()
    while not connection.wait([parent.sentinel], timeout=0):
        caught = signal.sigtimedwait({signal.SIGTERM}, 0.5)
        if caught and caught.si_pid == parent.pid:
            break
    os._exit(0)


def _compute(*item: Any) -> Any:
    function, shared = _task
    return function(*shared, *item)
