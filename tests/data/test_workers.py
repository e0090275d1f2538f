"""Results in order, whatever computes them; errors and early ends."""

import os
import signal
import subprocess
import time
from itertools import count, islice
from multiprocessing import connection

import pytest

from jseg.data.workers import map_in_order
from jseg.errors import UserError


def scaled(factor: int, value: int) -> int:
    if value == 13:
        raise UserError("13 is refused")
    return factor * value


def killed(value: int) -> int:
    if value == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return value


WAYS = [(0, False), (1, False), (3, False), (2, True)]


@pytest.mark.parametrize(("workers", "threads"), WAYS)
def test_results_come_in_order_from_endless_items(workers: int, threads: bool) -> None:
    results = map_in_order(scaled, ((value,) for value in count(20)), workers, shared=(3,), threads=threads)
    assert list(islice(results, 50)) == [3 * value for value in range(20, 70)]
    results.close()
    assert list(map_in_order(scaled, [(1,), (2,)], workers, shared=(2,), ahead=1, threads=threads)) == [2, 4]
    assert list(map_in_order(scaled, [], workers, shared=(2,), threads=threads)) == []


@pytest.mark.parametrize(("workers", "threads"), WAYS)
def test_an_error_comes_in_its_place(workers: int, threads: bool) -> None:
    results = map_in_order(scaled, ((value,) for value in range(10, 20)), workers, shared=(1,), threads=threads)
    assert list(islice(results, 3)) == [10, 11, 12]
    with pytest.raises(UserError, match="13 is refused"):
        next(results)


def test_a_killed_worker_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"worker process ended unexpectedly .*: close other programs; a script needs"):
        list(map_in_order(killed, ((value,) for value in range(9)), 1, remedy="close other programs"))


def cut_off(value: int) -> bytes:
    """Dies in the middle of sending its result."""

    def send(self: connection.Connection, data: bytes, write: object = None) -> None:
        os.write(self.fileno(), bytes(data)[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)

    if value == 5:
        connection.Connection._send = send
    return bytes(100_000)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_is_killed_while_it_sends_is_one_sentence(workers: int) -> None:
    """Not a wait without end."""
    with pytest.raises(UserError, match="a worker process ended unexpectedly"):
        list(map_in_order(cut_off, ((value,) for value in range(9)), workers, ahead=2))


def process_id(value: int) -> int:
    time.sleep(0.01)
    return os.getpid()


def test_workers_go_on_when_a_scheduler_sends_sigterm_to_all() -> None:
    results = map_in_order(process_id, ((value,) for value in count()), 1, ahead=2)
    worker = next(results)
    subprocess.run(["kill", str(worker)], check=True)
    assert set(islice(results, 80)) == {worker}  # for longer than a second look at the signal takes
    os.kill(worker, signal.SIGTERM)  # from its parent
    with pytest.raises(UserError, match="a worker process ended unexpectedly"):
        list(islice(results, 1000))
