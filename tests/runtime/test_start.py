"""Tests of Jittor's start: what it prints, what it leaves of this process, which errors are told in one line."""

import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from jseg.errors import UserError
from jseg.runtime import cuda, toolchain
from jseg.runtime import start as start_module
from jseg.runtime.prepare import prepare

# Runs in a process of its own, without network and without a home folder; every line is checked below.
PROGRAM = """
import os, signal, socket, ssl, subprocess, sys, threading

def refuse(*arguments):
    raise OSError("the network must not be used")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
def current():
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGCHLD)] + [sys.excepthook]

handlers = current()
context = ssl._create_default_https_context

import jseg
assert "jittor" not in sys.modules
from jseg.runtime.start import start
child = subprocess.Popen(["sleep", "60"])
stops = [threading.Timer(0.02 * i, child.send_signal, [[signal.SIGSTOP, signal.SIGCONT][i % 2]]) for i in range(100)]
[stop.start() for stop in stops]  # as by Ctrl-Z, while Jittor is imported
print("device", start("auto"), start("cpu"))

import jittor
import numpy
x = jittor.array(numpy.array([numpy.nan, 1.0], dtype=numpy.float32))
print("nan", (x != x).numpy().tolist(), (x == x).numpy().tolist(), jittor.isfinite(x).numpy().tolist())
print("handlers", handlers == current())
print("certificates", ssl._create_default_https_context is context)
print("home", os.environ["HOME"])
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    print("interrupt caught")
child.kill()
print("child", child.wait())
try:
    jittor.code((2,), "float32", [x], cpu_src="this is no C++").sync()
except RuntimeError:
    print("bad kernel raises", flush=True)
os.kill(os.getpid(), signal.SIGSEGV)
"""


def test_start_in_a_process_of_its_own() -> None:
    if problem := toolchain.problem(toolchain.compile_cache(prepare().jittor_home)):
        pytest.fail(problem)
    environment = {
        **os.environ,
        "HOME": "/dev/null/nobody",  # cannot be made: Jittor must not touch it, not even for a kernel
        "JITTOR_HOME": str(prepare().jittor_home),  # the warm cache
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "nvcc_path": "",
    }
    command = [sys.executable, "-X", "faulthandler", "-c", PROGRAM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.stdout.splitlines() == [
        "device cpu cpu", "nan [True, False] [False, True] [False, True]", "handlers True", "certificates True",
        "home /dev/null/nobody", "interrupt caught", "child -9", "bad kernel raises",
    ], done.stderr  # fmt: skip
    assert done.returncode == -signal.SIGSEGV  # a crash ends the process at once, with no handler of Jittor's
    quiet, bad_kernel, _ = done.stderr.partition("In member function")
    assert bad_kernel  # what g++ says about a bad kernel is not hidden; no log line of Jittor's is there
    assert [line for line in quiet.splitlines() if not line.startswith(("jseg: compiling", "\x1b[01m"))] == []


def test_what_jittor_or_cuda_lack_is_said_before_the_import(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise UserError("a GPU of compute capability 7.0 needs CUDA 12 or older")

    monkeypatch.setattr(cuda, "make_ready", fail)
    monkeypatch.setattr(start_module, "_started", False)
    monkeypatch.setattr(prepare(), "cuda_note", "")
    monkeypatch.setattr(prepare(), "toolkit", cuda.Toolkit(Path("nvcc"), Path("cuda"), (13, 0)))
    monkeypatch.delitem(sys.modules, "jittor")
    with pytest.raises(UserError, match=r"device cuda is not possible: a GPU of compute capability 7\.0 needs"):
        start_module.start("cuda")
    monkeypatch.setattr(toolchain, "find_compiler", lambda: "")
    with pytest.raises(UserError, match=r"apt-get install g\+\+"):
        start_module.start()
    monkeypatch.setattr(prepare(), "problem", "cannot write the cache folder /x: set JSEG_CACHE")
    with pytest.raises(UserError, match="cannot write the cache folder /x"):
        start_module.start()


def test_jittor_not_importable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    class Hook:
        """Behaves like Jittor's import with a damaged cache."""

        def find_spec(self, name: str, *_: object) -> None:
            if name == "jittor_utils":
                print("a wall of text", file=sys.stderr)
                raise OSError("file too short")

    for name in [name for name in sys.modules if name.partition(".")[0] in ("jittor", "jittor_utils")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("nvcc_path",):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.setattr(sys, "meta_path", [Hook(), *sys.meta_path])
    monkeypatch.setattr(start_module, "_started", False)
    monkeypatch.setenv("JSEG_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="is damaged or cannot be used"):
        start_module.start("cpu")
    assert capsys.readouterr().err == ""
    (details,) = (path.read_text() for path in tmp_path.glob("error_*"))
    assert "a wall of text" in details and "file too short" in details


def test_kernel_that_is_an_empty_file(tmp_path: Path) -> None:
    """The second run loads what the first one compiled; the line names the folder and what to do."""
    mark = f"value_{uuid.uuid4().hex}"
    kernel = f"float {mark} = 1; @out(0) = {mark};"
    script = tmp_path / "tool.py"
    script.write_text(
        "from jseg.runtime.command_line import run\nfrom jseg.runtime.start import start\n"
        "def main():\n    start('cpu')\n    import jittor\n"
        f"    jittor.code((1,), 'float32', [], cpu_src={kernel!r}).sync()\nrun(main)\n"
    )
    variables = {"PYTHONPATH": str(Path(__file__).parents[2]), "JITTOR_HOME": str(prepare().jittor_home),
                 "JSEG_CACHE": str(tmp_path), "nvcc_path": ""}  # fmt: skip
    command = [sys.executable, str(script)]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    sources = [path for path in prepare().jittor_home.rglob("jit/code*.cc") if mark in path.read_text(errors="replace")]
    libraries = [path.with_suffix(".so") for path in sources]
    try:
        assert libraries
        for library in libraries:
            library.write_bytes(b"")
        done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=600)
    finally:
        for path in sources:
            for name in path.parent.glob(f"{path.stem}.*"):
                name.unlink()
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: the compile cache {prepare().jittor_home} is damaged or cannot be used: ")
    assert done.stderr.count("\n") == 1
