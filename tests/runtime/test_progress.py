"""Tests of the progress of compilations, with a folder that fills and a terminal of the test's own."""

import os
import pty
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from jseg.runtime import progress


def test_kernels_are_shown_while_a_folder_fills_and_not_when_nothing_is_compiled(tmp_path: Path) -> None:
    folder, ended, (reader, writer) = tmp_path / "jit", threading.Event(), os.pipe()
    folder.mkdir()
    for number in range(7):  # compiled earlier
        (folder / f"old{number}.so").touch()
    progress.show(progress.kernels(folder), ended, wait=0, every=0.05, stream=writer)
    time.sleep(0.2)
    for number in range(progress.FEW - 1):
        (folder / f"new{number}.so").touch()
    (folder / "source.cc").touch()
    time.sleep(0.2)
    os.set_blocking(reader, False)
    with pytest.raises(BlockingIOError):
        os.read(reader, 1)  # so few are compiled in silence
    os.set_blocking(reader, True)
    for expected in (progress.FEW, progress.FEW + 1):
        (folder / f"more{expected}.so").touch()
        assert os.read(reader, 1000) == f"jseg: kernels: {expected} compiled\n".encode()
    ended.set()


def test_the_core_on_a_terminal_is_one_line_with_a_bar_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    core, ended, (reader, writer) = progress.Core(), threading.Event(), pty.openpty()
    assert core.text() == "core: getting ready, 0:00"
    assert core("Compiling jittor_core", 158) is core
    core.update(0)
    assert core.text() == f"[{'.' * 24}] core: 1 of 158 files"
    for index in range(79):
        core.update(index)
    begin = core.begin
    monkeypatch.setattr(progress.time, "monotonic", lambda: begin + 70.2)
    text = f"[{'#' * 12}{'.' * 12}] core: 79 of 158 files, about 1:10 left"
    assert core.text() == text
    progress.show(core.text, ended, wait=0, every=0.05, stream=writer)
    assert os.read(reader, 1000) == f"\x1b[2K{text}\r".encode()
    ended.set()
    assert os.read(reader, 1000) == b"\x1b[2K"  # nothing of it stays


@pytest.mark.slow
def test_a_cold_start_is_never_silent(tmp_path: Path) -> None:
    """Jittor's own class is replaced: its core begins to compile in an empty cache; Ctrl-C after the first file."""
    program = (
        "from jseg.runtime import progress; show = progress.show\n"
        "progress.show = lambda text, ended: show(text, ended, 0, 0.2)\n"
        "from jseg.runtime.start import start; start('cpu')"
    )
    environment = {**os.environ, "JSEG_CACHE": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    environment.pop("JITTOR_HOME", None)
    process = subprocess.Popen([sys.executable, "-c", program], env=environment, stderr=subprocess.PIPE, text=True)
    lines = []
    for line in process.stderr:
        lines.append(line)
        if " files" in line:
            break
    process.send_signal(2)
    process.stderr.read()
    assert process.wait(60) == 130
    assert lines[0].startswith("jseg: compiling Jittor kernels for this machine, once")
    assert lines[1].startswith("jseg: core: getting ready, 0:0")
    assert re.fullmatch(r"jseg: core: \d+ of \d\d files.*\n", lines[-1])
