"""Sets what Jittor reads from the environment, before the first `import jittor`. Imports nothing heavy itself.

Facts about Jittor 1.3.11 used here: it downloads oneDNN, cutt, nccl and cutlass at import unless told otherwise; it
aborts when nvcc is installed but no NVIDIA driver is; it remembers the last JITTOR_HOME for later runs; it builds its CPU
kernels with -Ofast, under which `nan != nan` is false.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from jseg.errors import UserError
from jseg.runtime import onednn

KERNEL_FLAGS = " -fno-finite-math-only "  # NaN checks must hold in compiled kernels; the blanks are needed by Jittor
CACHE_NAME = "jseg"  # kernels built with these flags do not mix with those of other Jittor programs
NEWEST_CUDA = 12  # the newest major version that an unmodified Jittor 1.3.11 compiles with


@dataclass
class Preparation:
    """What `prepare` found and decided."""

    jittor_home: Path
    onednn: bool = False
    nvcc: str = ""
    notes: list[str] = field(default_factory=list)


_prepared: Preparation | None = None


def cache_folder() -> Path:
    """Folder for everything jseg caches: `JSEG_CACHE`, else `$XDG_CACHE_HOME/jseg`, else `~/.cache/jseg`."""
    if os.environ.get("JSEG_CACHE"):
        return Path(os.environ["JSEG_CACHE"]).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).expanduser().absolute() / "jseg"


def nvidia_driver() -> str:
    """Version of the NVIDIA driver, "present" when it is there but tells no version, "" when there is none."""
    version_file = Path("/proc/driver/nvidia/version")
    if version_file.exists():
        found = re.search(r"\b(\d{3}\.\d+(?:\.\d+)?)\b", version_file.read_text(errors="replace"))
        return found.group(1) if found else "present"
    return "present" if any(Path("/dev").glob("nvidia[0-9]*")) else ""


def find_nvcc() -> str:
    """Path of nvcc: `nvcc_path` (Jittor's own variable), then PATH, then /usr/local/cuda; "" when there is none."""
    if "nvcc_path" in os.environ:
        return os.environ["nvcc_path"]
    default = Path("/usr/local/cuda/bin/nvcc")
    return shutil.which("nvcc") or (str(default) if default.exists() else "")


def nvcc_version(nvcc: str) -> tuple[int, int] | None:
    """(major, minor) of the CUDA toolkit of `nvcc`; None when it cannot be run."""
    try:
        text = subprocess.run([nvcc, "--version"], capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"release (\d+)\.(\d+)", text)
    return (int(found.group(1)), int(found.group(2))) if found else None


def choose_nvcc(preparation: Preparation) -> str:
    """nvcc for Jittor, or "" for CPU only, with the reason added to `preparation.notes`."""
    nvcc = find_nvcc()
    if not nvidia_driver():
        preparation.notes.append("no NVIDIA driver: CPU only (install the driver to use a GPU)")
        return ""
    if not nvcc:
        preparation.notes.append("no nvcc: CPU only (install a CUDA 11.8-12 toolkit, or set nvcc_path=/…/bin/nvcc)")
        return ""
    version = nvcc_version(nvcc)
    if version is None or version[0] > NEWEST_CUDA:
        found = "does not run" if version is None else f"is CUDA {version[0]}.{version[1]}"
        preparation.notes.append(
            f"{nvcc} {found}, Jittor 1.3.11 needs CUDA 11.8-{NEWEST_CUDA}: CPU only (set nvcc_path=/…/bin/nvcc)"
        )
        return ""
    return nvcc


def prepare() -> Preparation:
    """Prepares the environment of this process for `import jittor`; later calls return the first call's findings.

    Variables that the user has set are kept, but for `nvcc_path` where CUDA cannot work.

    Raises:
        UserError: the cache folder cannot be written.
    """
    global _prepared
    if _prepared is not None:
        return _prepared
    home = Path(os.environ.get("JITTOR_HOME") or cache_folder() / "jittor").expanduser().absolute()
    found = Preparation(jittor_home=home)
    try:
        home.mkdir(parents=True, exist_ok=True)
        found.onednn = onednn.lay_out(home)
    except OSError as error:
        raise UserError(f"cannot write the cache folder {home} ({error.strerror}): set JSEG_CACHE to a folder that can be")
    if not found.onednn:
        os.environ.setdefault("use_mkl", "0")
        found.notes.append(
            f"oneDNN is missing, products are many times slower: "
            f"pip install {onednn.LIBRARY_PACKAGE}=={onednn.VERSION} {onednn.HEADER_PACKAGE}=={onednn.VERSION}"
        )
    found.nvcc = choose_nvcc(found)
    os.environ["JITTOR_HOME"] = str(home)  # always set: Jittor remembers the last one otherwise
    os.environ["nvcc_path"] = found.nvcc
    if found.nvcc:  # libraries that Jittor would download, or that are not needed here
        for name, value in (("conv_opt", "1"), ("use_cutt", "0"), ("use_nccl", "0"), ("use_cutlass", "0")):
            os.environ.setdefault(name, value)
    if "kernel_flags" not in os.environ:
        os.environ["kernel_flags"] = KERNEL_FLAGS
        os.environ.setdefault("cache_name", CACHE_NAME)
    os.environ.setdefault("log_silent", "1")
    os.environ.setdefault("FIX_TORCH_ERROR", "0")  # do not import torch only because it is installed
    if "jittor" in sys.modules:
        found.notes.append("jittor was imported before jseg: import jseg first, or these settings have no effect")
    _prepared = found
    return found
