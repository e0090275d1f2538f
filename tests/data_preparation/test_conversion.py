"""Converting many files: parallel equals serial, whole files are kept, bad ones are named."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jseg.data_preparation.conversion import Job, convert_all, unfinished
from jseg.errors import UserError
from jseg.files import write_whole
from tests.replicas import save_palette_png


def copy(refused: str, source: Path, target: Path) -> None:
    """Copies a file unless it is the refused one."""
    if source.stem == refused:
        raise UserError(f"{source}: refused")
    write_whole(target, source.read_bytes())


def die(source: Path, target: Path) -> None:
    """Ends its process the hard way."""
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt_at(stop: str, source: Path, target: Path) -> None:
    """Copies until Ctrl-C."""
    if source.stem == stop:
        raise KeyboardInterrupt
    copy("", source, target)


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    """40 label PNGs to copy: more than one task for two workers."""
    found = []
    for number in range(40):
        source = tmp_path / "source" / f"{number:02}.png"
        save_palette_png(source, np.full((4, 5), number % 20))
        found.append(Job(source, tmp_path / "target" / source.name))
    return found


@pytest.mark.parametrize("workers", [0, 2])
def test_all_files_are_converted_and_the_bad_one_is_named(jobs: list[Job], workers: int) -> None:
    problems = convert_all(jobs, partial(copy, "17"), workers, "test")
    assert problems == [f"{jobs[17].source}: refused"]
    for job in jobs[:17] + jobs[18:]:
        assert job.target.read_bytes() == job.source.read_bytes()
    assert not jobs[17].target.exists()


def test_only_whole_files_are_kept(jobs: list[Job]) -> None:
    assert unfinished(jobs) == jobs
    convert_all(jobs, partial(copy, ""), 0, "test")
    assert unfinished(jobs) == [] and unfinished(jobs, force=True) == jobs
    jobs[3].target.write_bytes(jobs[3].source.read_bytes()[:-20])
    jobs[4].target.write_bytes(b"")
    Image.new("RGB", (5, 4)).save(jobs[5].target)
    jobs[6].target.unlink()
    assert unfinished(jobs) == jobs[3:7]


def test_an_interrupted_run_goes_on_where_it_was(jobs: list[Job]) -> None:
    with pytest.raises(KeyboardInterrupt):
        convert_all(jobs, partial(interrupt_at, "25"), 0, "test")
    left = unfinished(jobs)
    assert left == jobs[25:] and len(list(jobs[0].target.parent.iterdir())) == 25
    stamps = {job.target: job.target.stat().st_mtime_ns for job in jobs[:25]}
    assert convert_all(left, partial(copy, ""), 0, "test") == [] and unfinished(jobs) == []
    assert stamps == {job.target: job.target.stat().st_mtime_ns for job in jobs[:25]}


def test_a_worker_that_dies_is_a_user_error(jobs: list[Job]) -> None:
    with pytest.raises(UserError, match="fewer --workers"):
        convert_all(jobs, die, 2, "test")
