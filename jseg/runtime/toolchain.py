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


def output_of(program: str | Path, *arguments: str) -> str:
    """What a program prints, on stdout and then on stderr; "" when it does not run."""
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, errors="replace", timeout=30)
        return done.stdout + done.stderr
    except (OSError, subprocess.SubprocessError):
        return ""


def find_python_config() -> str:
    """`python3.x-config` where Jittor looks for it, else this interpreter's own; "" when there is none."""
    name, beside = f"python3.{sys.version_info.minor}-config", Path(sys.executable).parent
    candidates = [os.environ.get("python_config_path") or beside / name, f"{sys.executable}-config", f"/usr/bin/{name}"]
    candidates += [f"/usr/local/bin/{name}", beside / "python3-config", Path(sysconfig.get_config_var("BINDIR"), name)]
    return next((str(path) for path in candidates if os.path.isfile(path)), "")


def problem() -> str:
    """Why Jittor cannot be imported here, with the command that fixes it; "" when it can."""
    folder, python, imported = jittor_folder(), f"python3.{sys.version_info.minor}", sys.modules.get("numpy")
    numpy = imported.__version__ if imported else package_version("numpy")
    compiler = os.environ.get("cc_path") or "g++"
    checks = {
        f"Jittor is not installed in {sys.executable}: pip install {JITTOR}": bool(folder),
        f"Jittor cannot compile in a path that holds a blank ({folder}): move the environment": " " not in folder,
        f"Jittor cannot use NumPy {numpy or '(not installed)'}: pip install '{NUMPY}'": numpy.startswith("1."),
        f"{compiler} does not run: apt-get install g++, or set cc_path": bool(output_of(find_compiler(), "--version")),
        f"there is no {python}-config: apt-get install {python}-dev": bool(find_python_config()),
    }
    return next((message for message, fine in checks.items() if not fine), "")
