"""Sets what Jittor reads from the environment, before the first `import jittor`. Imports nothing heavy itself.

Facts about Jittor 1.3.11 used here: it downloads oneDNN, cutt, nccl and cutlass at import unless told otherwise; it
aborts when nvcc is installed but no NVIDIA driver is; it remembers the last JITTOR_HOME for later runs that set none;
it builds its CPU kernels with -Ofast, under which `nan != nan` is false.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from jseg.runtime import onednn

KERNEL_FLAGS = " -fno-finite-math-only "  # NaN checks must hold in compiled kernels; the blanks are needed by Jittor
# OpenMP threads that wait spin this often before they sleep. The default of 300,000 takes the cores from those that are
# waited for when other programs compute too: a training step on `shapes` took 4.3 s instead of 0.6 s beside another.
SPIN_COUNT = "2000"
CACHE_NAME = "jseg"  # kernels built with these flags do not mix with those of other Jittor programs
NEWEST_CUDA = 12  # the newest major version that an unmodified Jittor 1.3.11 compiles with
CUDA_VARIABLES = {"conv_opt": "1", "use_cutt": "0", "use_nccl": "0", "use_cutlass": "0"}  # no cuDNN 8, no downloads


@dataclass
class Preparation:
    """What `prepare` found and decided."""

    jittor_home: Path
    onednn: bool = False
    nvcc: str = ""  # what Jittor compiles CUDA kernels with; "" = CPU only
    cuda_note: str = ""  # why CUDA is not used, and the command that mends it
    notes: list[str] = field(default_factory=list)  # what is missing but not needed
    problem: str = ""  # why Jittor cannot run at all


_prepared: Preparation | None = None


def cache_folder() -> Path:
    """Folder for everything jseg caches: `JSEG_CACHE`, else `$XDG_CACHE_HOME/jseg`, else `~/.cache/jseg`."""
    named, base = os.environ.get("JSEG_CACHE"), os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.abspath(os.path.expanduser(named or f"{base}/jseg")))


def has_driver_library() -> bool:
    """Whether the NVIDIA driver's library can be loaded; loading alone starts nothing on the GPU."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def has_gpu_device() -> bool:
    """Whether this system (or container) shows a GPU: `/dev/nvidia0`…, or `/dev/dxg` under Windows' WSL."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()


def find_nvcc() -> str:
    """Path of nvcc: `nvcc_path` (Jittor's own variable), then PATH, then /usr/local/cuda; "" when there is none."""
    if os.environ.get("nvcc_path"):
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


def choose_nvcc() -> tuple[str, str]:
    """Decides between CUDA and CPU.

    Returns:
        (nvcc, ""), or ("", why CUDA cannot be used and what mends it).
    """
    if os.environ.get("nvcc_path") == "":
        return "", "nvcc_path is set to nothing, which asks for CPU only (unset it to use a GPU)"
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return "", "CUDA_VISIBLE_DEVICES hides all GPUs (unset it to use them)"
    if not (has_driver_library() and has_gpu_device()):
        return "", "no NVIDIA driver or no GPU (install the driver; in a container, pass the GPU in)"
    nvcc, wanted = find_nvcc(), f"a CUDA 11.8-{NEWEST_CUDA} toolkit"
    if not nvcc:
        return "", f"no nvcc (install {wanted}, or set nvcc_path=/…/bin/nvcc)"
    version = nvcc_version(nvcc)
    if version is None:
        return "", f"{nvcc} does not run (install {wanted}, or set nvcc_path=/…/bin/nvcc)"
    if version[0] > NEWEST_CUDA:
        return "", f"{nvcc} is CUDA {version[0]}.{version[1]}, Jittor 1.3.11 needs {wanted}: set nvcc_path=/…/bin/nvcc"
    return nvcc, ""


def _can_write(folder: Path) -> bool:
    """Whether `folder` exists or can be made, and files can be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def _prepare_home(found: Preparation) -> None:
    """Makes the cache folder and lays oneDNN out in it."""
    try:
        writable = _can_write(found.jittor_home)
        found.onednn = writable and onednn.lay_out(found.jittor_home)
    except OSError:
        writable = False
    if not writable:
        found.problem = (
            f"cannot write the cache folder {found.jittor_home}: set JSEG_CACHE to a folder that can be written"
        )
        return
    if not found.onednn:
        os.environ.setdefault("use_mkl", "0")
        found.notes.append(f"oneDNN is missing, matrix products are many times slower: {onednn.INSTALL}")


def prepare() -> Preparation:
    """Prepares the environment of this process for `import jittor`; later calls return the first call's findings.

    Variables that the user has set are kept, but for `nvcc_path` where CUDA cannot work. Never raises, so that
    `import jseg` works everywhere: `Preparation.problem` says why Jittor will not run, and `start` raises it.
    """
    global _prepared
    if _prepared is not None:
        return _prepared
    home = Path(os.path.abspath(os.path.expanduser(os.environ.get("JITTOR_HOME") or cache_folder() / "jittor")))
    found = Preparation(jittor_home=home)
    _prepare_home(found)
    found.nvcc, found.cuda_note = choose_nvcc()
    os.environ["JITTOR_HOME"] = str(home)  # always set: Jittor remembers the last one otherwise
    os.environ["nvcc_path"] = found.nvcc
    if found.nvcc:
        for name, value in CUDA_VARIABLES.items():
            os.environ.setdefault(name, value)
    if "kernel_flags" not in os.environ:
        os.environ["kernel_flags"] = KERNEL_FLAGS
        os.environ.setdefault("cache_name", CACHE_NAME)
    os.environ.setdefault("log_silent", "1")
    os.environ.setdefault("FIX_TORCH_ERROR", "0")  # do not import torch only because it is installed
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    if "jittor" in sys.modules:
        found.notes.append("jittor was imported before jseg: import jseg first, or these settings have no effect")
    _prepared = found
    return found
