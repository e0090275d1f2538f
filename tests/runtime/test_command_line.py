"""Tests of what all command-line tools share: each class of error ends in one line with its exit code."""

from jseg.runtime.command_line import run

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jseg.errors import UserError

ROOT = Path(__file__).parents[2]
# a tool that fails in the way that its argument names
TOOL = """
from jseg.runtime.command_line import run

import os, sys, time

def main():
    kind = sys.argv[1]
    if kind == "signs":
        print("é\\udcff")
    elif kind == "endless":
        while True:
            print("line")
    elif kind == "bug":
        {}["key"]
    elif kind == "missing":
        open("/missing/é")
    elif kind.startswith("start"):
        import numpy  # with threads of its own, which get Ctrl-C, too
        from jseg.runtime.start import start
        print("begun", flush=True)
        start("cpu")
        print("started")

if sys.argv[1] == "imports":
    print("importing", flush=True)
    time.sleep(60)
run(main)
"""


@pytest.fixture(scope="module")
def tool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("some") / "tools" / "tool.py"
    path.parent.mkdir()
    path.write_text(TOOL, encoding="utf-8")
    return path


def outcome(main: object, capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    """(exit code, stderr) of `run(main)`."""
    with pytest.raises(SystemExit) as exit_info:
        run(main)
    return exit_info.value.code, capsys.readouterr().err


def raising(error: BaseException, cause: BaseException | None = None) -> Callable[[], None]:
    def main() -> None:
        raise error from cause

    return main


@pytest.mark.parametrize(("main", "expected"), [
    (lambda: None, (0, "")), (lambda: 1, (1, "")),
    (raising(UserError("file x is\n   broken")), (2, "error: file x is broken\n")),
    (raising(KeyboardInterrupt()), (130, "interrupted\n")),
    (raising(BrokenPipeError()), (141, "")),
    (raising(PermissionError(13, "Permission denied", "a\nb")), (2, "error: a b: Permission denied\n")),
    (raising(ValueError("x"), OSError(36, "File name too long", "y")), (2, "error: y: File name too long\n")),
])  # fmt: skip
def test_each_kind_of_error(main: object, expected: tuple[int, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(main, capsys) == expected


def test_a_mistake_of_ours_is_one_line_with_the_traceback_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path
    monkeypatch.setenv("JSEG_CACHE", str(cache))
    monkeypatch.delenv("JSEG_DEBUG", raising=False)
    code, text = outcome(raising(ZeroDivisionError("by\nzero")), capsys)
    (file,) = cache.iterdir()
    assert (code, text) == (3, f"internal error: ZeroDivisionError: by zero; details in {file}\n")
    assert file.read_text().startswith("Traceback")
    monkeypatch.setenv("JSEG_DEBUG", "1")
    assert outcome(raising(ZeroDivisionError()), capsys)[1].startswith("Traceback")
    monkeypatch.setenv("JSEG_CACHE", "/dev/null/cache")  # cannot be written
    monkeypatch.setenv("TMPDIR", str(cache))
    assert f"details in {cache}/error_" in outcome(raising(KeyError("x")), capsys)[1]


@pytest.mark.parametrize(("command", "code", "stdout", "stderr"), [
    ("PYTHONIOENCODING=ascii $T signs", 0, "\\xe9\\udcff\n", ""),
    ("$T endless | head -1; exit ${PIPESTATUS[0]}", 141, "line\n", ""),
    ("$T endless > /dev/full", 2, "", "error: No space left on device\n"),
    ("$T bug 2>&-", 3, "", ""),
    ("$T missing", 2, "", "error: /missing/é: No such file or directory\n"),
])  # fmt: skip
def test_output_that_cannot_be_written(tool: Path, command: str, code: int, stdout: str, stderr: str) -> None:
    environment = {**os.environ, "JSEG_DEBUG": "", "T": f"{sys.executable} {tool}", "PYTHONPATH": str(ROOT)}
    environment["JSEG_CACHE"] = str(tool.parent / "cache")
    done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (code, stdout, stderr)


def test_interrupt_while_a_tool_imports_or_starts_jittor(tool: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment}
    for kind, delay in (("imports", 0), ("start", 0.1), ("start", 0.3), ("start", 0.8), ("start ignoring", 0.2)):
        ignored = "ignoring" in kind  # as by `command &` in a script
        how = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"] if ignored else []
        with subprocess.Popen([*how, sys.executable, str(tool), kind], **pipes) as process:
            assert process.stdout.readline() in (b"importing\n", b"begun\n")
            time.sleep(delay)
            process.send_signal(signal.SIGINT)
            out, text = process.communicate(timeout=120)
        if ignored:
            assert (process.returncode, out) == (0, b"started\n")
        else:
            assert (process.returncode, text) == (130, b"interrupted\n") or out == b"started\n"
