"""What the preparation tools share: conversion in parallel, which goes on where it was interrupted."""

from functools import partial
from pathlib import Path

import pytest

from jseg.data.preparation import convert_all
from jseg.errors import UserError
from jseg.files import write_whole


def copy(refused: str, source: Path, target: Path) -> None:
    """Copies a file unless it is the refused one, at which the user interrupts if it is called `stop`."""
    if source.stem == refused:
        raise UserError(f"{source}: refused")
    if refused == "stop" and source.stem == "25":
        raise KeyboardInterrupt
    write_whole(target, source.read_bytes())


@pytest.mark.parametrize("workers", [0, 2])
def test_interrupted_run_and_bad_file(tmp_path: Path, workers: int, capsys: pytest.CaptureFixture) -> None:
    jobs = [(tmp_path / f"{number:02}.png", tmp_path / "target" / f"{number:02}.png") for number in range(40)]
    for source, _ in jobs:
        source.write_bytes(source.name.encode())
    with pytest.raises(KeyboardInterrupt):
        convert_all(jobs, partial(copy, "stop"), workers=0)
    stamps = {target: target.stat().st_mtime_ns for _, target in jobs[:25]}
    assert convert_all(jobs, partial(copy, "30"), workers) == 1
    shown = capsys.readouterr().out
    assert f"found: {jobs[30][0]}: refused\n1 could not be made" in shown
    assert "25 label maps are there, 15 to make" in shown and not jobs[30][1].exists()
    assert stamps == {target: target.stat().st_mtime_ns for _, target in jobs[:25]}
    assert all(target.read_bytes() == source.read_bytes() for source, target in jobs[:30] + jobs[31:])
