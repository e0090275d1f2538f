"""Sets what Jittor reads from the environment, before the first `import jittor`. Imports nothing heavy itself.

Facts about Jittor 1.3.11 used here: it downloads oneDNN, cutt, nccl and cutlass at import unless told otherwise; it
aborts when nvcc is installed but no NVIDIA driver is; it remembers the last JITTOR_HOME for later runs that set none;
it builds its CPU kernels with -Ofast, under which `nan != nan` is false.

Lays the oneDNN wheels out where Jittor looks for oneDNN, so that it downloads nothing.

Jittor 1.3.11 wants oneDNN 2.2 unpacked in `$JITTOR_HOME/.cache/jittor/mkl` (jittor/compile_extern.py, `install_mkl`)
and otherwise fetches it from a host of its own. The PyPI packages `onednn-cpu-gomp` and `onednn-devel-cpu-gomp`
2021.2.0 hold the same release; pip puts their files into the `lib` and `include` folders of the environment.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from jseg.files import cache_folder
from jseg.runtime import cuda as cuda_home
from jseg.runtime import prepare as onednn

KERNEL_FLAGS = " -fno-finite-math-only "  # NaN checks must hold in compiled kernels; the blanks are needed by Jittor
# OpenMP threads that wait spin this often before they sleep. The default of 300,000 takes the cores from those that are
# waited for when other programs compute too: a training step on `shapes` took 4.3 s instead of 0.6 s beside another.
SPIN_COUNT = "2000"
CACHE_NAME = "jseg"  # kernels built with these flags do not mix with those of other Jittor programs
CUDA_VARIABLES = {"conv_opt": "1", "use_cutt": "0", "use_nccl": "0", "use_cutlass": "0"}  # no cuDNN 8, no downloads


@dataclass
class Preparation:
    """What `prepare` found and decided."""

    jittor_home: Path
    onednn: bool = False
    toolkit: cuda_home.Toolkit | None = None  # what Jittor compiles CUDA kernels with; None = CPU only
    cuda_note: str = ""  # why CUDA is not used, and the command that mends it
    notes: list[str] = field(default_factory=list)  # what is missing but not needed
    problem: str = ""  # why Jittor cannot run at all


_prepared: Preparation | None = None


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

    Variables that the user has set are kept, but for `nvcc_path`, which follows the toolkit that is used. Never
    raises, so that `import jseg` works everywhere: `Preparation.problem` says why Jittor will not run, and `start`
    raises it.
    """
    global _prepared
    if _prepared is not None:
        return _prepared
    home = Path(os.path.abspath(os.path.expanduser(os.environ.get("JITTOR_HOME") or cache_folder() / "jittor")))
    found = Preparation(jittor_home=home)
    _prepare_home(found)
    found.toolkit, found.cuda_note = cuda_home.choose()
    os.environ["JITTOR_HOME"] = str(home)  # always set: Jittor remembers the last one otherwise
    os.environ["nvcc_path"] = ""  # `start` sets it where CUDA is used; nvcc without a driver would abort Jittor
    if found.toolkit:
        os.environ["JSEG_CUDA_HOME"] = str(found.toolkit.home)  # child processes need not search
        for name, value in CUDA_VARIABLES.items():
            os.environ.setdefault(name, value)
    else:
        os.environ[cuda_home.NOTE] = found.cuda_note  # child processes see only that nvcc_path is empty
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


LIBRARY_PACKAGE = "onednn-cpu-gomp"
HEADER_PACKAGE = "onednn-devel-cpu-gomp"
VERSION = "2021.2.0"
INSTALL = f"pip install {LIBRARY_PACKAGE}=={VERSION} {HEADER_PACKAGE}=={VERSION}"
JITTOR_FOLDER = "dnnl_lnx_2.2.0_cpu_gomp"


def installed_files(package: str) -> list[Path]:
    """Absolute paths of the files that pip installed for `package`; empty when it is not installed."""
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        return []
    paths = (Path(os.path.normpath(str(file.locate()))) for file in files)
    return [path for path in paths if path.exists()]


def find_libraries() -> list[Path]:
    """Shared libraries of oneDNN (`libmkldnn.so*`, `libdnnl.so*`) brought by the wheel."""
    return [path for path in installed_files(LIBRARY_PACKAGE) if path.name.startswith(("libmkldnn.so", "libdnnl.so"))]


def find_headers() -> list[Path]:
    """Header files of oneDNN brought by the wheels, in whatever subfolder of the include folder."""
    files = installed_files(HEADER_PACKAGE) + installed_files(LIBRARY_PACKAGE)
    return [path for path in files if path.suffix in (".h", ".hpp") and "include" in path.parts]


def jittor_folder(jittor_home: Path) -> Path:
    """Where Jittor looks for oneDNN below `jittor_home`."""
    return jittor_home / ".cache" / "jittor" / "mkl" / JITTOR_FOLDER


def _below_include(header: Path) -> Path:
    """`…/include/oneapi/dnnl/dnnl.h` -> `oneapi/dnnl/dnnl.h`."""
    last = len(header.parts) - 1 - header.parts[::-1].index("include")
    return Path(*header.parts[last + 1 :])


def _link(target: Path, link: Path) -> None:
    """Makes `link` point at `target`, atomically, also when several processes do so at once."""
    if link.is_symlink() and os.readlink(link) == str(target):
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, link)


def lay_out(jittor_home: Path) -> bool:
    """Links the wheels' files into Jittor's folder.

    Returns True when Jittor will find oneDNN there (also when it lay there already), False when the wheels are missing
    or this is not Linux on x86-64; Jittor then has to run with `use_mkl=0`, which is correct but many times slower.
    """
    folder = jittor_folder(jittor_home)
    libraries, headers = find_libraries(), find_headers()
    names = {path.name for path in libraries + headers}
    if sys.platform == "linux" and {"libmkldnn.so", "dnnl.hpp"} <= names:
        for path in libraries:
            _link(path, folder / "lib" / path.name)
        for path in headers:
            _link(path, folder / "include" / _below_include(path))
    return (folder / "lib" / "libmkldnn.so").exists() and (folder / "include" / "dnnl.hpp").exists()
