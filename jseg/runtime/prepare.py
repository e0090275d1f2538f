"""Sets what Jittor reads from the environment, before the first `import jittor`. Imports nothing heavy itself.

Facts about Jittor 1.3.11 used here: it downloads oneDNN, cutt, nccl and cutlass at import by default; it
aborts when nvcc is installed but no NVIDIA driver is; it remembers the last JITTOR_HOME for later runs that set none;
it builds its CPU kernels with -Ofast, under which `nan != nan` is false.

It wants oneDNN 2.2 unpacked in `$JITTOR_HOME/.cache/jittor/mkl` (jittor/compile_extern.py, `install_mkl`). The PyPI
packages `onednn-cpu-gomp` and `onednn-devel-cpu-gomp` 2021.2.0 hold that release; links to their files are made there.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from jseg.files import cache_folder
from jseg.runtime import cuda

CACHE_NAME = "jseg"  # kernels built with these flags do not mix with those of other Jittor programs
# OpenMP threads that wait spin this often before they sleep. With the default of 300,000 they take the cores from the
# threads that compute: a training step on `shapes` took 4.3 s instead of 0.6 s beside another program.
SPIN_COUNT = "2000"
CUDA_VARIABLES = {"conv_opt": "1", "use_cutt": "0", "use_nccl": "0", "use_cutlass": "0"}  # no cuDNN 8, no downloads
ONEDNN_VERSION = "2021.2.0"
ONEDNN_PACKAGES = ("onednn-cpu-gomp", "onednn-devel-cpu-gomp")
ONEDNN_INSTALL = "pip install " + " ".join(f"{package}=={ONEDNN_VERSION}" for package in ONEDNN_PACKAGES)


@dataclass
class Preparation:
    """What `prepare` found and decided."""

    jittor_home: Path
    onednn: bool = False
    toolkit: cuda.Toolkit | None = None  # what Jittor compiles CUDA kernels with; None = CPU only
    cuda_note: str = ""  # why CUDA is not used, and the command that helps
    notes: list[str] = field(default_factory=list)  # what is missing but not needed
    problem: str = ""  # why Jittor cannot run at all


_prepared: Preparation | None = None


def prepare() -> Preparation:
    """Prepares the environment of this process for `import jittor`; later calls return the first call's findings.

    Variables that the user has set are kept, but for `nvcc_path`, which follows the toolkit that is used, and an
    OMP_NUM_THREADS above the number of cores. Never raises, so that `import jseg` works everywhere:
    `Preparation.problem` says why Jittor will not run, and `start` raises it.
    """
    global _prepared
    if _prepared is not None:
        return _prepared
    home = Path(os.path.abspath(os.path.expanduser(os.environ.get("JITTOR_HOME") or cache_folder() / "jittor")))
    found = Preparation(jittor_home=home)
    _prepare_home(found)
    found.toolkit, found.cuda_note = cuda.choose()
    os.environ["JITTOR_HOME"] = str(home)  # always set: Jittor remembers the last one otherwise
    os.environ["nvcc_path"] = ""  # `start` sets it where CUDA is used; nvcc without a driver would abort Jittor
    defaults = {
        "log_silent": "1",
        "FIX_TORCH_ERROR": "0",  # do not import torch only because it is installed
        "GOMP_SPINCOUNT": SPIN_COUNT,
    }
    if found.toolkit:
        os.environ["JSEG_CUDA_HOME"] = str(found.toolkit.home)  # child processes need not search
        defaults |= CUDA_VARIABLES
    else:
        os.environ[cuda.NOTE] = found.cuda_note  # child processes see only that nvcc_path is empty
    if "kernel_flags" not in os.environ:  # NaN checks must hold in compiled kernels; Jittor needs the blanks
        defaults |= {"kernel_flags": " -fno-finite-math-only ", "cache_name": CACHE_NAME}
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    threads, cores = os.environ.get("OMP_NUM_THREADS", ""), os.cpu_count() or 1
    if threads.isdecimal() and int(threads) > cores:
        os.environ["OMP_NUM_THREADS"] = str(cores)
    if "jittor" in sys.modules:
        found.notes.append("jittor was imported before jseg: import jseg first, or these settings have no effect")
    _prepared = found
    return found


def _prepare_home(found: Preparation) -> None:
    """Makes the cache folder and lays oneDNN out in it."""
    try:
        found.jittor_home.mkdir(parents=True, exist_ok=True)
        found.onednn = lay_out_onednn(found.jittor_home)
        writable = os.access(found.jittor_home, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        found.problem = f"cannot write the cache folder {found.jittor_home}: set JSEG_CACHE to another folder"
    elif not found.onednn:
        os.environ.setdefault("use_mkl", "0")
        found.notes.append(f"oneDNN is missing, matrix products are many times slower: {ONEDNN_INSTALL}")


def lay_out_onednn(jittor_home: Path) -> bool:
    """Links the files of oneDNN's wheels into the folder below `jittor_home` where Jittor looks for them.

    Returns:
        True when Jittor will find oneDNN there (also when it was there already). False when the wheels are missing or
        this is not Linux on x86-64: then Jittor has to run with `use_mkl=0`, which is correct but many times slower.
    """
    folder = jittor_home / ".cache" / "jittor" / "mkl" / "dnnl_lnx_2.2.0_cpu_gomp"
    links = {}
    for path in (path for package in ONEDNN_PACKAGES for path in installed_files(package)):
        if path.name.startswith(("libmkldnn.so", "libdnnl.so")):
            links[folder / "lib" / path.name] = path
        elif path.suffix in (".h", ".hpp") and "include" in path.parts:
            start = len(path.parts) - path.parts[::-1].index("include")  # behind the last folder `include`
            links[folder.joinpath("include", *path.parts[start:])] = path
    library, header = folder / "lib" / "libmkldnn.so", folder / "include" / "dnnl.hpp"
    if sys.platform == "linux" and library in links and header in links:
        for link, path in links.items():
            _link(path, link)
    return library.exists() and header.exists()


def installed_files(package: str) -> list[Path]:
    """Absolute paths of the files that pip installed for `package`; empty when it is not installed."""
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        return []
    return [path for file in files if (path := Path(os.path.normpath(str(file.locate())))).exists()]


def _link(target: Path, link: Path) -> None:
    """Makes `link` point at `target`, atomically, also when several processes do so at once."""
    if link.is_symlink() and os.readlink(link) == str(target):
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, link)
