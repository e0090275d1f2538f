"""Finds what Jittor needs to compile: a C++ compiler, Python's headers, NumPy below 2. Does not import Jittor."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

JITTOR = "jittor==1.3.11.0"
NUMPY = "numpy<2"  # Jittor 1.3.11 reads arrays of NumPy 2 wrongly, without an error


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


def compiler_version(compiler: str) -> str:
    """First line of `compiler --version`, "" when it does not run."""
    return output_of(compiler, "--version").partition("\n")[0].strip()


def output_of(program: str | Path, *arguments: str) -> str:
    """What a program prints, on stdout and then on stderr; "" when it does not run."""
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, errors="replace", timeout=30)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout + done.stderr


def find_python_config() -> str:
    """`python3.x-config` as Jittor will find it, else this interpreter's own; "" when there is none.

    Jittor looks beside `sys.executable` (a virtual environment has none there) and in /usr/bin and /usr/local/bin.
    """
    name = f"python3.{sys.version_info.minor}-config"
    beside = Path(sys.executable).parent
    candidates = [beside / name, Path(f"{sys.executable}-config"), Path("/usr/bin", name), Path("/usr/local/bin", name)]
    candidates += [beside / "python3-config", Path(sysconfig.get_config_var("BINDIR") or "", name)]
    if os.environ.get("python_config_path"):
        candidates.insert(0, Path(os.environ["python_config_path"]))
    return next((str(path) for path in candidates if path.is_file()), "")


def numpy_fits() -> bool:
    """Whether the installed NumPy is one that Jittor can use."""
    return package_version("numpy").startswith("1.")


def problem() -> str:
    """Why Jittor cannot be imported here, with the command that fixes it; "" when it can."""
    if not jittor_folder():
        return f"Jittor is not installed in {sys.executable}: pip install {JITTOR}"
    if " " in jittor_folder():
        return f"Jittor cannot compile in a path that holds a blank ({jittor_folder()}): move the virtual environment"
    if not numpy_fits():
        return f"Jittor cannot use NumPy {package_version('numpy') or '(not installed)'}: pip install '{NUMPY}'"
    compiler, named = find_compiler(), os.environ.get("cc_path")
    if not compiler_version(compiler):
        missing = f"the compiler {named} (cc_path) does not exist or does not run" if named else "there is no g++"
        return f"{missing}, with which Jittor compiles its kernels: apt-get install g++, or set cc_path"
    if not find_python_config():
        version = f"python3.{sys.version_info.minor}"
        return f"there is no {version}-config, by which Jittor finds Python's headers: apt-get install {version}-dev"
    return ""
