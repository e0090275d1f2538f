"""What the preparation tools share: conversion in parallel, .mat files and label values."""

from __future__ import annotations

from argparse import Namespace
from functools import partial
from pathlib import Path

import pytest

from jseg.data.preparation import Job, convert_all
from jseg.errors import UserError
from jseg.files import write_whole


def copy(refused: str, source: Path, target: Path) -> None:
    """Copies a file unless it is the refused one, at which the user interrupts if it is called `stop`."""
    if source.stem == refused:
        raise UserError(f"{source}: refused")
    if refused == "stop" and source.stem == "25":
        raise KeyboardInterrupt
    write_whole(target, source.read_bytes())


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    """40 files to copy."""
    found = [(tmp_path / f"{number:02}.png", tmp_path / "target" / f"{number:02}.png") for number in range(40)]
    for source, _ in found:
        source.write_bytes(source.name.encode())
    return found


def convert(jobs: list[Job], refused: str = "", workers: int = 0, force: bool = False) -> int:
    return convert_all(jobs, partial(copy, refused), Namespace(workers=workers, force=force))


@pytest.mark.parametrize("workers", [0, 2])
def test_all_files_are_converted_and_the_bad_one_is_named(
    jobs: list[Job], workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert(jobs, "17", workers) == 1
    assert f"found: {jobs[17][0]}: refused\n1 could not be made" in capsys.readouterr().out
    for job in jobs[:17] + jobs[18:]:
        assert job[1].read_bytes() == job[0].read_bytes()
    assert not jobs[17][1].exists()


def test_an_interrupted_run_goes_on_where_it_was(jobs: list[Job], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        convert(jobs, "stop")
    stamps = {job[1]: job[1].stat().st_mtime_ns for job in jobs[:25]}
    assert convert(jobs) == 0 and "25 label maps are there, 15 to make" in capsys.readouterr().out
    assert stamps == {job[1]: job[1].stat().st_mtime_ns for job in jobs[:25]}
    assert convert(jobs, force=True) == 0 and "40 to make" in capsys.readouterr().out
