"""Finds what Jittor needs to compile: a C++ compiler, Python's headers, NumPy below 2. Does not import Jittor."""

import hashlib
import importlib.util
import os
import platform
import shutil
import struct
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

JITTOR = "jittor==1.3.11.0"
NUMPY = "numpy<2"  # Jittor 1.3.11 reads arrays of NumPy 2 wrongly, without an error
X86_64_V3 = {"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"}  # what g++ uses with -march=x86-64-v3
SIGNS = "\"'`$\\,[>"  # of a shell in quotes, of Jittor's commands and patterns; the comma of -Wl, the end of #include <
HEADERS = "python-include"  # in the compile cache: link to Python's headers, or a copy


def package_version(name: str) -> str:
    """Version of an installed package, "" when it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def jittor_folder() -> str:
    """Folder of the installed Jittor package, "" when it is not installed."""
    spec = importlib.util.find_spec("jittor")
    return str(Path(spec.origin).parent) if spec and spec.origin else ""


def find_compiler() -> str:
    """Path of the C++ compiler that Jittor will use (`cc_path`, else g++); "" when there is none."""
    return shutil.which(os.environ.get("cc_path") or "g++") or ""


def output_of(program: str | Path, *arguments: str) -> str:
    """What a program prints, on stdout and then on stderr; "" when it does not run."""
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, errors="replace", timeout=30)
        return done.stdout + done.stderr
    except (OSError, subprocess.SubprocessError):
        return ""


def compile_cache(jittor_home: Path) -> Path:
    """Folder for what Jittor compiles for this Python: that of `compiled_ahead`, if it is there and runs on this CPU.

    Else its name stands for all that decides whether compiled files run here; unlike Jittor's, not for the host's name.
    """
    ahead, text = compiled_ahead(jittor_home), Path("/proc/cpuinfo").read_text("utf-8", "replace")
    flags = set(text.partition("\nflags")[2].partition("\n")[0].split())
    if ahead.is_dir() and flags >= X86_64_V3:
        return ahead
    parts = (package_version("jittor"), jittor_folder(), output_of(find_compiler(), "--version"), platform.libc_ver(),
             sysconfig.get_path("include"), sorted(flags))  # fmt: skip
    return ahead.with_name(f"{sys.implementation.cache_tag}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:12]}")


def compiled_ahead(jittor_home: Path) -> Path:
    """Folder of what tools/pack_wheels.py compiled on another machine, for every CPU that has `X86_64_V3`."""
    return jittor_home / ".cache" / "jittor" / f"{sys.implementation.cache_tag}-ahead"


def remove_cut_libraries(cache: Path) -> None:
    """Removes libraries of Jittor's core that a full disk has cut: they would crash. Jittor then makes them again."""
    for path in (path for path in cache.rglob("*.so") if path.parent.name != "jit"):
        with path.open("rb") as file:  # ELF: the last part of a file is its table of sections
            table, size, count = struct.unpack("<40xQ10xHH2x", file.read(64).ljust(64, b"\xff"))
        if path.stat().st_size < table + size * count:
            path.unlink()
    for path in cache.rglob("data.md5"):
        if not any(path.parent.glob("jittor_core*.so")):
            path.unlink()  # Jittor takes data.o for compiled where this lies, also after an interruption


def python_headers(cache: Path) -> str:
    """Folder of Python.h: a copy in `cache`, else that of this interpreter; "" when there is none."""
    folders = (str(cache / HEADERS), sysconfig.get_path("include"))
    return next((folder for folder in folders if os.path.isfile(os.path.join(folder, "Python.h"))), "")


def problem(cache: Path) -> str:
    """Why Jittor cannot be imported here and compile into `cache`, with the command that fixes it; "" when it can."""
    folder, python, imported = jittor_folder(), f"python3.{sys.version_info.minor}", sys.modules.get("numpy")
    numpy = imported.__version__ if imported else package_version("numpy")
    compiler, signs = os.environ.get("cc_path") or "g++", sorted({*SIGNS} & {*str(cache)})
    checks = {
        f"Jittor is not installed in {sys.executable}: pip install {JITTOR}": bool(folder),
        f"Jittor cannot compile in a path that holds a blank ({folder}): move the environment": " " not in folder,
        f"Jittor cannot compile in a path with {' '.join(signs)} ({cache}): set JSEG_CACHE to another": not signs,
        f"Jittor cannot use NumPy {numpy or '(not installed)'}: pip install '{NUMPY}'": numpy.startswith("1."),
        f"{compiler} does not run: apt-get install g++, or set cc_path": bool(output_of(find_compiler(), "--version")),
        f"Python's headers are missing: apt-get install {python}-dev": bool(python_headers(cache)),
    }
    return next((message for message, fine in checks.items() if not fine), "")
