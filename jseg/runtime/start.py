"""Starts Jittor: imports it quietly, undoes what its import changes in this process, chooses CPU or CUDA.

Jittor 1.3.11's import replaces signal handlers, switches the check of TLS certificates off, leaves compile processes
running, and rewrites `~/.cache/jittor/config.json`, on which programs collide: so it gets a home folder of ours.
"""

import atexit
import ctypes
import hashlib
import io
import json
import multiprocessing
import os
import shlex
import signal
import ssl
import subprocess
import sys
import sysconfig
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from types import ModuleType

from jseg.errors import UserError
from jseg.files import save_details, write_if_changed
from jseg.runtime import cuda, precompiled, progress, toolchain, units
from jseg.runtime.prepare import CACHE_NAME, prepare

# What Jittor starts as `python`. Its asm_tuner.py compiles each kernel, and only needs to where a comment asks for it.
PYTHON = """#!/bin/sh
case $1 in */asm_tuner.py)
    if ! grep -q @begin "$3"; then
        compiler=${{2#--cc_path=}}
        shift 2
        exec "$compiler" "$@"
    fi
esac
HOME={home} exec {interpreter} "$@"
"""
_started = False


def start(device: str = "auto") -> str:
    """Imports Jittor and chooses the device: "cuda", "cpu", or "auto" for CUDA where it works; returns "cuda" or "cpu".

    Later calls only choose the device. Raises UserError, with what to install, where Jittor or CUDA cannot run.
    """
    global _started
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"device {device!r}: choose from auto, cpu, cuda")
    preparation = prepare()
    if not _started:
        cache = toolchain.compile_cache(preparation.jittor_home)
        if problem := preparation.problem or toolchain.problem(cache):
            raise UserError(problem)
    importing, ready = not _started and "jittor" not in sys.modules, None
    if importing and device != "cpu" and preparation.toolkit:  # for the CPU alone nothing is compiled for CUDA
        try:
            ready = cuda.make_ready(preparation.toolkit, cache)
        except UserError as error:
            preparation.toolkit, preparation.cuda_note = None, str(error)
    if device == "cuda" and not preparation.toolkit:
        raise UserError(f"device cuda is not possible: {preparation.cuda_note}")
    if importing:
        for note in preparation.notes:
            print(f"jseg: {note}", file=sys.stderr)
        if device == "auto" and not ready and cuda.has_gpu_device():
            print(f"jseg: the GPU is not used: {preparation.cuda_note}", file=sys.stderr)
        _import_jittor(preparation.jittor_home, cache, ready)
        _started = True
    import jittor

    if device == "cuda" and not jittor.has_cuda:
        raise UserError("device cuda is not possible: Jittor runs without CUDA in this process")
    jittor.flags.use_cuda = int(bool(jittor.has_cuda) and device != "cpu")
    jittor.flags.use_cuda_host_allocator = 0  # with 1, every array that is sent to a GPU waits until the GPU is idle
    return "cuda" if jittor.flags.use_cuda else "cpu"


def cache_error(details: str) -> UserError:
    """The error for a compile cache that does not work; Jittor's text about it, `details`, goes to a file."""
    advice = f"delete it, or set JSEG_CACHE to another; details in {save_details(details)}"
    return UserError(f"the compile cache {prepare().jittor_home} is damaged or cannot be used: {advice}")


def _import_jittor(jittor_home: Path, cache: Path, ready: cuda.Ready | None) -> None:
    """Imports Jittor; raises UserError when its cache does not work or it has rebuilt itself."""
    notice = f"jseg: compiling Jittor kernels for this machine, once; kept in {jittor_home}"
    settings = jittor_home / ".cache" / "jittor" / "config.json"  # so that Jittor only ever reads them
    write_if_changed(settings, json.dumps({"JITTOR_HOME": str(jittor_home)}))
    terminal, text, imported = sys.stderr, io.StringIO(), threading.Event()
    try:
        with _import_surroundings(jittor_home, ready) as put_back, redirect_stdout(text), redirect_stderr(text):
            import jittor_utils
            import jittor_utils.lock as lock

            # folders of ours: Jittor's cache is for one host, and its commands hold the path of Python's headers
            headers, lock.lock_path = cache / toolchain.HEADERS, str(cache / "jittor.lock")
            cpu = "x86-64-v3" if cache == toolchain.compiled_ahead(jittor_home) else "native"
            cache /= os.environ["cache_name"]
            cache.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                headers.symlink_to(sysconfig.get_path("include"))
            lock.jittor_lock = lock.Lock(lock.lock_path)
            sys.path[sys.path.index(jittor_utils.cache_path)] = jittor_utils.cache_path = str(cache)
            jittor_utils._py3_include_path = f'-I"{headers}"'
            jittor_utils._py3_extension_suffix = sysconfig.get_config_var("EXT_SUFFIX")
            core_exists = any(cache.glob("cu*/jittor_core*.so" if ready else "jittor_core*.so"))
            jittor_utils.DelayProgress = core = progress.Core()
            units.install(jittor_utils)
            _keep_handlers(jittor_utils, put_back)
            if not core_exists:
                print(f"{notice} (a few minutes)", file=terminal, flush=True)
                progress.show(core.text, imported)
            with lock.lock_scope():  # else another process may be writing them
                toolchain.remove_cut_libraries(cache)
                if "cc_flags" not in os.environ and precompiled.KERNEL_MACROS in os.environ["kernel_flags"]:
                    os.environ["cc_flags"] = precompiled.lay_out(cache, headers, ready, cpu, not core_exists)
            import jittor
        python = cache / "python"  # for Jittor's compile processes
        home, interpreter = shlex.quote(str(jittor_home)), shlex.quote(sys.executable)
        write_if_changed(python, PYTHON.format(home=home, interpreter=interpreter))
        python.chmod(0o755)
        jittor.flags.python_path = f'"{python}"'
        if jittor_utils.pool_size:  # end the processes that compiled the core; Jittor makes new ones if needed
            jittor_utils.p.terminate()
            jittor_utils.p.join()
            jittor_utils.pool_size = 0
            atexit.unregister(jittor_utils.pool_cleanup)
        source = Path(__file__).with_name("cerr_filter.cc")  # turns compile progress into one notice
        library = cache / f"jseg_cerr_filter_{hashlib.sha256(source.read_bytes()).hexdigest()[:12]}.so"
        if not library.exists():
            temporary = library.with_suffix(f".{os.getpid()}")
            command = [os.environ["cc_path"], "-std=c++14", "-O1", "-fPIC", "-shared", str(source), "-o", temporary]
            subprocess.run(command, check=True)
            os.replace(temporary, library)
        ctypes.CDLL(str(library)).jseg_filter_cerr(f"{notice}\n".encode() if core_exists else b"")
        progress.show(progress.kernels(Path(jittor.compiler.cache_path) / "jit"), threading.Event())
    except SystemExit as error:  # Jittor ends the process, with code 0, after it has rebuilt a part of itself
        raise UserError("Jittor rebuilt itself for other compiler settings: run the same command again") from error
    except Exception as error:
        raise cache_error(f"{text.getvalue()}\n{traceback.format_exc()}") from error
    finally:
        imported.set()


@contextmanager
def _import_surroundings(jittor_home: Path, ready: cuda.Ready | None) -> Iterator[Callable[[], None]]:
    """Sets up Jittor's import and puts all back later; yields what puts handlers back. Ctrl-C ends the process: 130."""
    # in a notebook, whose process has the last variable, Jittor leaves Ctrl-C alone
    changes = {"HOME": str(jittor_home), "use_mpi": "0", "OMPI_COMM_WORLD_SIZE": None, "JPY_PARENT_PID": ""}
    if ready:
        architectures = os.environ.get("cuda_archs", ready.kind.replace("_", " "))
        changes |= {"nvcc_path": str(ready.nvcc), "cuda_archs": architectures}
        if os.environ.get("cache_name") == CACHE_NAME:  # not one that the user has chosen
            changes["cache_name"] = f"{CACHE_NAME}_{ready.kind}"
    before = {name: os.environ.get(name) for name in (*changes, "nvcc_path", "cuda_archs", "cache_name", "cc_flags")}
    path, context, hook = list(sys.path), ssl._create_default_https_context, sys.excepthook
    ask = subprocess.getstatusoutput
    interrupt = signal.getsignal(signal.SIGINT)

    def end(*_: object) -> None:  # Jittor's import catches KeyboardInterrupt in places, and goes on
        os.write(2, b"interrupted\n")
        os._exit(130)

    ends = interrupt not in (None, signal.SIG_IGN) and threading.current_thread() is threading.main_thread()
    if ends:
        signal.signal(signal.SIGINT, end)
    # Jittor's handler for a crash would exit in order, which waits forever for its compile threads, with its lock held;
    # that for the end of a child ends this process when one is only stopped, by Ctrl-Z
    names, sigaction = ("CHLD", "QUIT", "SEGV", "BUS", "ILL", "FPE"), ctypes.CDLL(None).sigaction
    handlers = {signal.Signals[f"SIG{name}"]: ctypes.create_string_buffer(256) for name in names}
    for number, handler in handlers.items():  # those of C: Python knows neither faulthandler's nor Jittor's
        sigaction(number, None, handler)

    def put_back() -> None:
        for number, handler in handlers.items():
            sigaction(number, handler, None)

    try:
        _set_environment(changes)
        sys.path[:0] = [str(ready.python_path)] if ready and ready.python_path else []
        if ready:  # Jittor asks for the GPUs through libcuda.so, a name that drivers come without
            subprocess.getstatusoutput = lambda _: (0, ready.kind.replace("_", "\n"))
        yield put_back
    finally:
        _set_environment(before)
        sys.path[:], subprocess.getstatusoutput = path, ask
        ssl._create_default_https_context, sys.excepthook = context, hook
        put_back()
        if ends:
            signal.signal(signal.SIGINT, interrupt)


def _keep_handlers(jittor_utils: ModuleType, put_back: Callable[[], None]) -> None:
    """Calls `put_back` when Jittor's library is loaded; its compile processes ignore Ctrl-C, but end with this one."""
    load = jittor_utils.try_import_jit_utils_core

    def begin_worker() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != multiprocessing.parent_process().pid:  # it is gone already
            os._exit(130)

    jittor_utils.try_import_jit_utils_core = lambda *silent: jittor_utils.cc or (load(*silent), put_back())
    jittor_utils.pool_initializer, jittor_utils.Pool = begin_worker, multiprocessing.get_context("fork").Pool


def _set_environment(variables: dict[str, str | None]) -> None:
    """Sets environment variables; None removes one."""
    for name in variables:
        os.environ.pop(name, None)
    os.environ.update({name: value for name, value in variables.items() if value is not None})
