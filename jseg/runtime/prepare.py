"""Sets what Jittor reads from the environment, before the first `import jittor`, and reports what is missing here.

Jittor 1.3.11 downloads oneDNN, cutt, nccl and cutlass at import by default; aborts when nvcc is installed but no NVIDIA
driver is; remembers the last JITTOR_HOME; and builds its CPU kernels with -Ofast, under which `nan != nan` is false.
"""

import functools
import os
import platform
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jseg
from jseg.files import cache_folder
from jseg.runtime import cuda, precompiled, toolchain

CACHE_NAME = "jseg_gch"  # kernels built with these flags do not mix with those of other Jittor programs
CUDA_VARIABLES = {"conv_opt": "1", "use_cutt": "0", "use_nccl": "0", "use_cutlass": "0"}  # no cuDNN 8, no downloads
ONEDNN_VERSION = "2021.2.0"  # the release 2.2 that Jittor asks for
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


@functools.cache
def prepare() -> Preparation:
    """Prepares the environment of this process for `import jittor`, once.

    Variables that the user has set are kept, but for `nvcc_path`. Never raises: `start` raises `Preparation.problem`.
    """
    home = Path(os.path.abspath(os.path.expanduser(os.environ.get("JITTOR_HOME") or cache_folder() / "jittor")))
    found = Preparation(jittor_home=home)
    with suppress(OSError):
        home.mkdir(parents=True, exist_ok=True)
        found.onednn = lay_out_onednn(home)
    if not os.access(home, os.W_OK):
        found.problem = f"cannot write the cache folder {home}: set JSEG_CACHE to another folder"
    elif not found.onednn:
        os.environ.setdefault("use_mkl", "0")
        found.notes.append(f"oneDNN is missing, matrix products are many times slower: {ONEDNN_INSTALL}")
    found.toolkit, found.cuda_note = cuda.choose()
    os.environ["JITTOR_HOME"] = str(home)  # always set: Jittor remembers the last one otherwise
    os.environ["nvcc_path"] = ""  # `start` sets it where CUDA is used; nvcc without a driver would abort Jittor
    # without a torch import; with the default of 300,000 spins a step took 4.3 s, not 0.6 s, beside another program
    defaults = {"log_silent": "1", "FIX_TORCH_ERROR": "0", "GOMP_SPINCOUNT": "2000"}
    if found.toolkit:
        os.environ["JSEG_CUDA_HOME"] = str(found.toolkit.home)  # child processes need not search
        defaults |= CUDA_VARIABLES
    else:
        os.environ[cuda.NOTE] = found.cuda_note  # child processes see only that nvcc_path is empty
    if "kernel_flags" not in os.environ:  # NaN checks must hold in compiled kernels; Jittor needs the blanks
        defaults |= {"kernel_flags": f" -fno-finite-math-only {precompiled.KERNEL_MACROS}", "cache_name": CACHE_NAME}
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    threads, cores = os.environ.get("OMP_NUM_THREADS", ""), len(os.sched_getaffinity(0))
    if threads.isdecimal() and int(threads) > cores:  # OpenMP would crash or crawl with 100,000
        os.environ["OMP_NUM_THREADS"] = str(cores)
    return found


def lay_out_onednn(jittor_home: Path) -> bool:
    """Links oneDNN's wheels into the folder where Jittor looks for it; returns whether it is there."""
    folder = jittor_home / ".cache" / "jittor" / "mkl" / "dnnl_lnx_2.2.0_cpu_gomp"
    links = {}
    for path in (path for package in ONEDNN_PACKAGES for path in installed_files(package)):
        if path.name.startswith(("libmkldnn.so", "libdnnl.so")):
            links[folder / "lib" / path.name] = path
        elif path.suffix in (".h", ".hpp") and "include" in path.parts:
            start = len(path.parts) - path.parts[::-1].index("include")  # behind the last folder `include`
            links[folder.joinpath("include", *path.parts[start:])] = path
    for link, path in links.items():
        if not link.is_symlink() or os.readlink(link) != str(path):
            link.parent.mkdir(parents=True, exist_ok=True)
            temporary = link.with_name(f".{link.name}.{os.getpid()}")
            temporary.symlink_to(path)
            os.replace(temporary, link)  # several processes may do so at once
    return (folder / "lib" / "libmkldnn.so").exists() and (folder / "include" / "dnnl.hpp").exists()


def installed_files(package: str) -> list[Path]:
    """Absolute paths of the files that pip installed for `package`; empty when it is not installed."""
    files = metadata.files(package) if toolchain.package_version(package) else None
    return [path for file in files or [] if (path := Path(os.path.normpath(str(file.locate())))).exists()]


def environment(device: str) -> dict[str, Any]:
    """Versions and machine, JSON-ready: all that is needed to repeat a run."""
    git = ["git", "-C", str(Path(jseg.__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() if shutil.which("git") else ""
    return {
        "jseg": jseg.__version__, "git": commit or None, "jittor": metadata.version("jittor"),
        "numpy": metadata.version("numpy"), "python": platform.python_version(), "system": platform.platform(),
        "cores": os.cpu_count(), "threads": os.environ.get("OMP_NUM_THREADS"), "device": device,
    }  # fmt: skip


class Finding(NamedTuple):
    """One line of the report."""

    name: str
    found: str  # "" = nothing
    remedy: str = ""  # the command that installs it
    needed: bool = False  # whether jseg cannot run without it


def findings(preparation: Preparation) -> list[Finding]:
    """Looks at everything that Jittor needs or can use; `preparation` is what `prepare` decided for this process."""
    compiler, toolkit, numpy = toolchain.find_compiler(), preparation.toolkit, toolchain.package_version("numpy")
    if compiler:
        compiler = f"{toolchain.output_of(compiler, '--version').partition(chr(10))[0]}, {compiler}"
    newest, gpus = cuda.driver_cuda(), ""
    if cuda.has_gpu_device():
        query = "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"
        text = toolchain.output_of("nvidia-smi", *query)
        gpus = "; ".join(line for line in text.splitlines() if "MiB" in line) or "present, not listed by nvidia-smi"
    plain = os.environ.get("JSEG_KERNELS") == "plain"
    return [
        Finding("Python", f"{platform.python_version()}, {sys.executable}"),
        Finding("Jittor", toolchain.package_version("jittor"), f"pip install {toolchain.JITTOR}", needed=True),
        Finding("NumPy", numpy if numpy.startswith("1.") else "", f"pip install '{toolchain.NUMPY}'", needed=True),
        Finding("C++ compiler", compiler, "apt-get install g++, or set cc_path=/…/bin/g++", needed=True),
        Finding("Python headers", toolchain.python_headers(toolchain.compile_cache(preparation.jittor_home)),
                f"apt-get install python3.{sys.version_info.minor}-dev", needed=True),
        Finding("oneDNN", ONEDNN_VERSION if preparation.onednn else "", ONEDNN_INSTALL),
        Finding("NVIDIA driver", f"runs CUDA up to {newest[0]}.{newest[1]}" if newest else ""),
        Finding("GPU", gpus),
        Finding("CUDA toolkit", toolkit.name if toolkit else "", preparation.cuda_note),
        Finding("operators", "plain Jittor operators (JSEG_KERNELS=plain)" if plain else "compiled kernels"),
        Finding("cache folder", "" if preparation.problem else str(preparation.jittor_home), preparation.problem,
                needed=True),
    ]  # fmt: skip
