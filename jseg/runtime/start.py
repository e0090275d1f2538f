"""Starts Jittor: imports it quietly, mends what its import changes in this process, chooses CPU or CUDA.

Facts about Jittor 1.3.11 used here. Its import replaces the SIGINT handler by one that ends the process at once (no
KeyboardInterrupt, no `finally`), and the SIGCHLD handler by one that does the same when any child process dies of a
signal other than SIGTERM, so that a killed data worker could not be reported. It switches the check of TLS certificates
off for the whole process, and leaves its pool of compile processes running. The import and each of the processes in
which it compiles kernels read `~/.cache/jittor/config.json`, and rewrite it, not atomically, when another JITTOR_HOME
stands there: two programs with different ones make each other's compiles fail. So these get a home folder of ours.
Where it finds a compiler for MPI it builds operators of its own, and under mpirun it takes MPI over; our ranks talk
through mpi4py (jseg/engine/ranks.py), so none of this is wanted.
"""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import json
import os
import shlex
import signal
import ssl
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jseg.errors import UserError
from jseg.files import write_whole
from jseg.runtime import cuda as cuda_home
from jseg.runtime import toolchain
from jseg.runtime.cuda import has_gpu_device
from jseg.runtime.prepare import CACHE_NAME, Preparation, prepare

DEVICES = ("auto", "cpu", "cuda")
FILTER_SOURCE = Path(__file__).with_name("cerr_filter.cc")

_started = False


def start(device: str = "auto") -> str:
    """Imports Jittor and chooses the device; later calls in the same process only choose the device.

    Args:
        device: "cuda", "cpu", or "auto" for CUDA where it works and the CPU elsewhere.

    Returns:
        "cuda" or "cpu": what Jittor runs on from now on.

    Raises:
        UserError: Jittor cannot run here, or CUDA is demanded and cannot work; the message says what to install.
    """
    global _started
    if device not in DEVICES:
        raise UserError(f"device {device!r}: choose from {', '.join(DEVICES)}")
    preparation = prepare()
    if not _started:
        problem = preparation.problem or toolchain.problem()
        if problem:
            raise UserError(problem)
    if device == "cuda" and not preparation.toolkit:
        raise UserError(f"device cuda is not possible: {preparation.cuda_note}")
    if not _started and "jittor" not in sys.modules:
        # for the CPU alone nothing is compiled for CUDA and no GPU memory is taken
        ready = _make_cuda_ready(preparation, device) if device != "cpu" and preparation.toolkit else None
        for note in preparation.notes:
            print(f"jseg: {note}", file=sys.stderr)
        if device == "auto" and not ready and has_gpu_device():
            print(f"jseg: the GPU is not used: {preparation.cuda_note}", file=sys.stderr)
        _import_jittor(preparation, ready)
        _started = True
    import jittor

    if device == "cuda" and not jittor.has_cuda:
        raise UserError("device cuda is not possible: Jittor runs without CUDA in this process")
    use_cuda = bool(jittor.has_cuda) and device != "cpu"
    jittor.flags.use_cuda = int(use_cuda)
    return "cuda" if use_cuda else "cpu"


def notice(jittor_home: Path) -> str:
    """The one line that is printed when kernels are compiled for the first time."""
    return f"jseg: compiling Jittor kernels for this machine, once; kept in {jittor_home}"


def _make_cuda_ready(preparation: Preparation, device: str) -> cuda_home.Ready | None:
    """The toolkit made ready, or None with the reason in `preparation` where the CPU will do instead."""
    try:
        return cuda_home.make_ready(preparation.toolkit, preparation.jittor_home / "cuda")
    except UserError as error:
        if device == "cuda":
            raise UserError(f"device cuda is not possible: {error}") from error
        preparation.toolkit, preparation.cuda_note = None, str(error)
        return None


@contextmanager
def _variables_set(ready: cuda_home.Ready | None) -> Iterator[None]:
    """The environment of Jittor's import; what child processes inherit does not depend on the device of this one."""
    before = dict(os.environ)
    if ready:
        own_cache = before.get("cache_name") == CACHE_NAME  # not one that the user has chosen
        if own_cache:
            os.environ["cache_name"] = f"{CACHE_NAME}_{ready.kind}"
        os.environ["nvcc_path"] = str(ready.nvcc)
        os.environ.setdefault("cuda_archs", ready.kind.replace("_", " "))
    if ready and ready.python_path:
        sys.path.insert(0, str(ready.python_path))
    try:
        yield
    finally:
        if ready and ready.python_path:
            sys.path.remove(str(ready.python_path))
        for name in ("cache_name", "nvcc_path", "cuda_archs"):
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]


def _import_jittor(preparation: Preparation, ready: cuda_home.Ready | None) -> None:
    os.environ["python_config_path"] = toolchain.find_python_config()
    _write_settings(preparation.jittor_home)
    with _process_state_kept(preparation.jittor_home), _variables_set(ready), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Jittor's own sources, when Python compiles them
        try:
            import jittor_utils

            pattern = "cu*/jittor_core*.so" if ready else "jittor_core*.so"
            core_is_there = any(Path(jittor_utils.cache_path).glob(pattern))
            if not core_is_there:
                print(notice(preparation.jittor_home) + " (a few minutes)", file=sys.stderr, flush=True)
            import jittor
        except SystemExit as error:  # Jittor ends the process, with code 0, after it has rebuilt a part of itself
            raise UserError("Jittor rebuilt itself for other compiler settings: run the same command again") from error
    jittor.flags.python_path = f'"{_compile_python(Path(jittor_utils.cache_path), preparation.jittor_home)}"'
    _close_compile_pool()
    _filter_cerr(Path(jittor_utils.cache_path), notice(preparation.jittor_home) if core_is_there else "")


def _write_settings(jittor_home: Path) -> None:
    """Writes the settings that Jittor would write into its home folder, so that it only ever reads them."""
    path = jittor_home / ".cache" / "jittor" / "config.json"
    settings = json.dumps({"JITTOR_HOME": str(jittor_home)})
    if not path.exists() or path.read_text() != settings:
        write_whole(path, settings.encode())


def _compile_python(folder: Path, jittor_home: Path) -> Path:
    """A Python for Jittor's compile processes whose home folder is `jittor_home`."""
    path = folder / "python"
    script = f'#!/bin/sh\nHOME={shlex.quote(str(jittor_home))} exec {shlex.quote(sys.executable)} "$@"\n'
    if not path.exists() or path.read_text() != script:
        write_whole(path, script.encode())
        path.chmod(0o755)
    return path


@contextmanager
def _process_state_kept(jittor_home: Path) -> Iterator[None]:
    """Keeps from Jittor's import the user's home folder, MPI, the signal handlers and the check of TLS certificates."""
    hidden = {name: os.environ.get(name) for name in ("HOME", "OMPI_COMM_WORLD_SIZE", "use_mpi")}
    context = ssl._create_default_https_context
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGCHLD)}
    os.environ |= {"HOME": str(jittor_home), "use_mpi": "0"}
    os.environ.pop("OMPI_COMM_WORLD_SIZE", None)
    try:
        yield
    finally:
        for name, value in hidden.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        ssl._create_default_https_context = context
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                if handler is not None:
                    signal.signal(number, handler)


def _close_compile_pool() -> None:
    """Ends the processes that compiled the core; Jittor makes new ones should it need them."""
    import jittor_utils

    if jittor_utils.pool_size:
        jittor_utils.p.terminate()
        jittor_utils.p.join()
        jittor_utils.pool_size = 0
        atexit.unregister(jittor_utils.pool_cleanup)


def _filter_cerr(folder: Path, notice_line: str) -> None:
    """Replaces Jittor's compile progress on std::cerr by one notice (see cerr_filter.cc)."""
    source = FILTER_SOURCE.read_bytes()
    library = folder / f"jseg_cerr_filter_{hashlib.sha256(source).hexdigest()[:12]}.so"
    if not library.exists():
        temporary = library.with_suffix(f".{os.getpid()}")
        command = [os.environ["cc_path"], "-std=c++14", "-O1", "-fPIC", "-shared", str(FILTER_SOURCE), "-o", temporary]
        subprocess.run(command, check=True)
        os.replace(temporary, library)
    if notice_line:
        line_start = "\r\033[K" if sys.stderr.isatty() else ""  # over a progress bar
        notice_line = f"{line_start}{notice_line}\n"
    ctypes.CDLL(str(library)).jseg_filter_cerr(notice_line.encode())
