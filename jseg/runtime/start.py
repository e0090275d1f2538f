"""Starts Jittor: imports it quietly, undoes what its import changes in this process, chooses CPU or CUDA.

Facts about Jittor 1.3.11 used here. Its import replaces the SIGINT handler by one that ends the process at once (no
KeyboardInterrupt, no `finally`), and the SIGCHLD handler by one that does the same when any child process dies of a
signal other than SIGTERM, so that a killed data worker could not be reported. It switches the check of TLS certificates
off for the whole process, and leaves its pool of compile processes running. The import and each of the processes in
which it compiles kernels read `~/.cache/jittor/config.json`, and rewrite it, not atomically, when another JITTOR_HOME
stands there: two programs with different ones make each other's compiles fail. So these get a home folder of ours.
Where it finds a compiler for MPI it builds operators of its own, and under mpirun it takes MPI over; our ranks talk
through mpi4py (jseg/engine/ranks.py), so none of this is wanted. A library of its cache that is cut off kills the
process without a word of what to do.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import hashlib
import io
import json
import multiprocessing
import os
import shlex
import signal
import ssl
import struct
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from jseg.errors import UserError
from jseg.files import save_details, write_whole
from jseg.runtime import cuda, toolchain
from jseg.runtime.prepare import CACHE_NAME, Preparation, prepare

DEVICES = ("auto", "cpu", "cuda")
FILTER_SOURCE = Path(__file__).with_name("cerr_filter.cc")
COMPILE_FAILURES = ("Run cmd failed", "Cannot open library", "undefined symbol")  # words of Jittor's error messages

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
    if not _started and (problem := preparation.problem or toolchain.problem()):
        raise UserError(problem)
    if device == "cuda" and not preparation.toolkit:
        raise UserError(f"device cuda is not possible: {preparation.cuda_note}")
    if not _started and "jittor" not in sys.modules:
        # for the CPU alone nothing is compiled for CUDA and no GPU memory is taken
        ready = _make_cuda_ready(preparation, device) if device != "cpu" and preparation.toolkit else None
        for note in preparation.notes:
            print(f"jseg: {note}", file=sys.stderr)
        if device == "auto" and not ready and cuda.has_gpu_device():
            print(f"jseg: the GPU is not used: {preparation.cuda_note}", file=sys.stderr)
        _import_jittor(preparation.jittor_home, ready)
        _started = True
    import jittor

    if device == "cuda" and not jittor.has_cuda:
        raise UserError("device cuda is not possible: Jittor runs without CUDA in this process")
    use_cuda = bool(jittor.has_cuda) and device != "cpu"
    jittor.flags.use_cuda = int(use_cuda)
    return "cuda" if use_cuda else "cpu"


def cache_error(details: str) -> UserError:
    """The error for a compile cache that does not work; Jittor's text about it, `details`, goes to a file."""
    return UserError(
        f"the compile cache {prepare().jittor_home} is damaged or cannot be used: delete it, or set JSEG_CACHE to "
        f"another folder; details in {save_details(details)}"
    )


def _make_cuda_ready(preparation: Preparation, device: str) -> cuda.Ready | None:
    """The toolkit made ready, or None with the reason in `preparation` where the CPU will do instead."""
    try:
        return cuda.make_ready(preparation.toolkit, preparation.jittor_home / "cuda")
    except UserError as error:
        if device == "cuda":
            raise UserError(f"device cuda is not possible: {error}") from error
        preparation.toolkit, preparation.cuda_note = None, str(error)
        return None


def _import_jittor(jittor_home: Path, ready: cuda.Ready | None) -> None:
    """Imports Jittor; raises UserError when its cache does not work or it has rebuilt itself."""
    notice = f"jseg: compiling Jittor kernels for this machine, once; kept in {jittor_home}"
    os.environ["python_config_path"] = toolchain.find_python_config()
    _write_if_changed(  # the settings that Jittor would write itself, so that it only ever reads them
        jittor_home / ".cache" / "jittor" / "config.json", json.dumps({"JITTOR_HOME": str(jittor_home)})
    )
    terminal, text = sys.stderr, io.StringIO()
    try:
        with _import_surroundings(jittor_home, ready), redirect_stdout(text), redirect_stderr(text):
            import jittor_utils

            cache = Path(jittor_utils.cache_path)
            core_exists = any(cache.glob("cu*/jittor_core*.so" if ready else "jittor_core*.so"))
            if core_exists:
                _check_libraries(cache)
            else:
                print(f"{notice} (a few minutes)", file=terminal, flush=True)
            import jittor
        jittor.flags.python_path = f'"{_compile_python(cache, jittor_home)}"'
        _close_compile_pool()
        _filter_cerr(cache, notice if core_exists else "")
    except SystemExit as error:  # Jittor ends the process, with code 0, after it has rebuilt a part of itself
        raise UserError("Jittor rebuilt itself for other compiler settings: run the same command again") from error
    except Exception as error:
        raise cache_error(f"{text.getvalue()}\n{traceback.format_exc()}") from error


def _check_libraries(cache: Path) -> None:
    """Raises OSError when a library of the cache is empty or cut off: loading it may kill the process."""
    from jittor_utils.lock import jittor_lock, lock_scope

    with lock_scope():  # no other process compiles the core now
        fcntl.lockf(jittor_lock.handle, fcntl.LOCK_EX)  # nor a kernel, which takes a lock of this other kind
        finished = [path.with_suffix("") for path in cache.rglob("*.so.key")]  # Jittor compiles the others anew
        damaged = [path for path in finished if path.exists() and not _is_whole_library(path)]
        fcntl.lockf(jittor_lock.handle, fcntl.LOCK_UN)
    if damaged:
        raise OSError(f"{damaged[0]} is not a whole library")


def _is_whole_library(path: Path) -> bool:
    """Whether a file begins with the header of a 64-bit ELF library and reaches to the end of its section table."""
    with path.open("rb") as file:
        header = file.read(64)
    if len(header) < 64 or not header.startswith(b"\x7fELF"):
        return False
    (table,), (size, count) = struct.unpack_from("<Q", header, 40), struct.unpack_from("<HH", header, 58)
    return table + size * count <= path.stat().st_size


@contextmanager
def _import_surroundings(jittor_home: Path, ready: cuda.Ready | None) -> Iterator[None]:
    """What Jittor's import sees: a home folder of ours, no MPI, the chosen CUDA; afterwards all is as it was before.

    That holds for the environment, which child processes inherit, signal handlers and the check of TLS certificates.
    An interrupt (Ctrl-C) meanwhile ends the process with code 130: inside Jittor it would be an abort.
    """
    changes = {"HOME": str(jittor_home), "use_mpi": "0", "OMPI_COMM_WORLD_SIZE": None}
    if ready:
        changes["nvcc_path"] = str(ready.nvcc)
        changes["cuda_archs"] = os.environ.get("cuda_archs", ready.kind.replace("_", " "))
        if os.environ.get("cache_name") == CACHE_NAME:  # not one that the user has chosen
            changes["cache_name"] = f"{CACHE_NAME}_{ready.kind}"
    before = {name: os.environ.get(name) for name in (*changes, "nvcc_path", "cuda_archs", "cache_name")}
    path, context, hook = list(sys.path), ssl._create_default_https_context, sys.excepthook
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGCHLD)}
    imported = threading.Event()
    watcher = threading.Thread(target=_exit_on_interrupt, args=(imported,), daemon=True)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        watcher.start()
        _set_environment(changes)
        sys.path[:0] = [str(ready.python_path)] if ready and ready.python_path else []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Jittor's own sources, when Python compiles them
            yield
    finally:
        _set_environment(before)
        sys.path[:] = path
        ssl._create_default_https_context, sys.excepthook = context, hook
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                if handler is not None:
                    signal.signal(number, handler)
        imported.set()
        watcher.join()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _exit_on_interrupt(imported: threading.Event) -> None:
    while not imported.is_set():
        if signal.sigtimedwait({signal.SIGINT}, 0.1):
            for child in multiprocessing.active_children():  # they compile Jittor's core
                child.terminate()
            os.write(2, b"interrupted\n")
            os._exit(130)


def _set_environment(variables: dict[str, str | None]) -> None:
    """Sets environment variables; None removes one."""
    for name, value in variables.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


def _write_if_changed(path: Path, text: str) -> None:
    if not path.exists() or path.read_text(encoding="utf-8", errors="replace") != text:
        write_whole(path, text.encode())


def _compile_python(folder: Path, jittor_home: Path) -> Path:
    """A Python for Jittor's compile processes whose home folder is `jittor_home`."""
    path = folder / "python"
    home, python = shlex.quote(str(jittor_home)), shlex.quote(sys.executable)
    _write_if_changed(path, f'#!/bin/sh\nHOME={home} exec {python} "$@"\n')
    path.chmod(0o755)
    return path


def _close_compile_pool() -> None:
    """Ends the processes that compiled the core; Jittor makes new ones should it need them."""
    import jittor_utils

    if jittor_utils.pool_size:
        jittor_utils.p.terminate()
        jittor_utils.p.join()
        jittor_utils.pool_size = 0
        atexit.unregister(jittor_utils.pool_cleanup)


def _filter_cerr(folder: Path, notice: str) -> None:
    """Replaces Jittor's compile progress on std::cerr by one notice (see cerr_filter.cc)."""
    library = folder / f"jseg_cerr_filter_{hashlib.sha256(FILTER_SOURCE.read_bytes()).hexdigest()[:12]}.so"
    if not library.exists():
        temporary = library.with_suffix(f".{os.getpid()}")
        command = [os.environ["cc_path"], "-std=c++14", "-O1", "-fPIC", "-shared", str(FILTER_SOURCE), "-o", temporary]
        subprocess.run(command, check=True)
        os.replace(temporary, library)
    if notice:
        line_start = "\r\033[K" if sys.stderr.isatty() else ""  # over a progress bar
        notice = f"{line_start}{notice}\n"
    ctypes.CDLL(str(library)).jseg_filter_cerr(notice.encode())
