"""Finds what Jittor compiles with: a C++ compiler and Python's headers. Does not import Jittor."""

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


def find_compiler() -> str:
    """Path of the C++ compiler that Jittor will use (`cc_path`, else g++); "" when there is none."""
    named = os.environ.get("cc_path")
    return shutil.which(named or "g++") or ""


def compiler_version(compiler: str) -> str:
    """First line of `compiler --version`, "" when it does not run."""
    try:
        text = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return text.splitlines()[0].strip() if text else ""


def jittor_version() -> str:
    """Version of the installed Jittor, "" when it is not installed."""
    if importlib.util.find_spec("jittor") is None:
        return ""
    try:
        return metadata.version("jittor")
    except metadata.PackageNotFoundError:
        return "unknown"


def jittor_folder() -> str:
    """Folder of the installed Jittor package, "" when it is not installed."""
    spec = importlib.util.find_spec("jittor")
    return str(Path(spec.origin).parent) if spec and spec.origin else ""


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


def problem() -> str:
    """Why Jittor cannot be imported here, with the command that mends it; "" when it can."""
    if not jittor_version():
        return f"Jittor is not installed in {sys.executable}: pip install {JITTOR}"
    if " " in jittor_folder():
        return f"Jittor cannot compile in a path that holds a blank ({jittor_folder()}): move the virtual environment"
    if not find_compiler():
        named = os.environ.get("cc_path")
        missing = f"the compiler {named} (cc_path) does not exist" if named else "there is no g++"
        return f"{missing}, with which Jittor compiles its kernels: apt-get install g++, or set cc_path"
    if not find_python_config():
        version = f"python3.{sys.version_info.minor}"
        return f"there is no {version}-config, by which Jittor finds Python's headers: apt-get install {version}-dev"
    return ""
