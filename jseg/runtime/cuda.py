"""Finds a CUDA toolkit that Jittor 1.3.11 can use here, and makes it ready; asks the NVIDIA driver.

Jittor takes a whole toolkit (`include`, `lib64`) from the folder above nvcc's. CUDA of pip wheels lies elsewhere
(`site-packages/nvidia/…`, also where PyTorch brings it), and nvcc often comes without cuBLAS; then a folder of links is
assembled in the cache. CUDA 13 also needs a fixed copy of Jittor (fixed_jittor.py). Nothing here imports Jittor.

The numbers of the driver's functions and attributes are those of `cuda.h` (CUDA driver API).
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from jseg.errors import UserError
from jseg.files import whole_folder
from jseg.runtime import toolchain
from jseg.runtime.fixed_jittor import fixed_copy, needed_fixes
from jseg.runtime.toolchain import output_of

OLDEST, NEWEST = (11, 8), 13  # CUDA versions: the oldest one, the newest major one
NOTE = "JSEG_CUDA_NOTE"  # variable with a parent process's reason for not using CUDA
WHEELS = "pip install 'jseg[cuda13]'"
PARTS = {"cudart": "cuda_runtime.h", "cublas": "cublas_v2.h", "cublasLt": "cublasLt.h", "curand": "curand.h"}
PACKAGES = {"cudart": "nvidia-cuda-runtime", "cublas": "nvidia-cublas", "cublasLt": "nvidia-cublas",
            "curand": "nvidia-curand"}  # fmt: skip
SYSTEM_FOLDERS = (Path("/usr/local"), Path("/opt"))
WHEEL_FOLDERS = ("cu13", "cuda_runtime", "cublas", "curand", "cuda_nvcc")  # cu13 for CUDA 13, the others for older ones
LIBRARY_FOLDERS = ("lib64", "lib", "targets/x86_64-linux/lib", "lib/x86_64-linux-gnu")
NPP_HEADER = Path(__file__).with_name("npp.h")  # for toolkits without NVIDIA's image library


@dataclass(frozen=True)
class Toolkit:
    """A complete CUDA toolkit; its parts may lie apart."""

    nvcc: Path
    home: Path  # folder above nvcc's
    version: tuple[int, int]
    includes: tuple[Path, ...]  # header folders of the parts
    libraries: tuple[Path, ...]  # shared libraries of the parts, in the order of PARTS

    @property
    def name(self) -> str:
        """Such as `/usr/local/cuda/bin/nvcc (CUDA 12.4)`."""
        return f"{self.nvcc} (CUDA {self.version[0]}.{self.version[1]})"

    @property
    def usable_directly(self) -> bool:
        """Whether Jittor finds everything by the path of nvcc alone."""
        if self.home == Path("/usr"):
            return True  # the distribution's own package, which Jittor knows
        places = [self.home / "lib64" / f"lib{name}.so" for name in PARTS]
        together = self.includes == (self.home / "include",) and list(self.libraries) == places
        return together and (self.home / "include" / "npp.h").is_file() and " " not in str(self.home)


@dataclass(frozen=True)
class Ready:
    """A toolkit that Jittor can be started with."""

    nvcc: Path
    kind: str  # compute capabilities of the GPUs, such as "90"; kernels of each kind have a cache of their own
    python_path: Path | None  # goes first on `sys.path` for Jittor's import: the fixed copy of Jittor


def choose() -> tuple[Toolkit | None, str]:
    """Decides between CUDA and CPU, from the environment, the driver and the toolkits that are installed.

    `JSEG_CUDA_HOME` names the toolkit to use, else Jittor's own `nvcc_path` does; else the first that fits is taken.

    Returns:
        (toolkit, ""), or (None, why CUDA cannot be used and what helps).
    """
    if not os.environ.get("JSEG_CUDA_HOME") and os.environ.get("nvcc_path") == "":
        cpu_only = "nvcc_path is set to nothing, which asks for CPU only (unset it to use a GPU)"
        return None, os.environ.get(NOTE) or cpu_only
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return None, "CUDA_VISIBLE_DEVICES hides all GPUs (unset it to use them)"
    driver = driver_cuda()
    if driver is None or not has_gpu_device():
        return None, "no NVIDIA driver or no GPU (install the driver; in a container, pass the GPU in)"
    reasons = []
    for nvcc in _candidates():
        try:
            return _examine(nvcc, driver), ""
        except UserError as error:
            reasons.append(str(error))
    nothing = f"no nvcc ({WHEELS} with driver 580 or newer, or install a CUDA 11.8-13 toolkit)"
    return None, reasons[0] if reasons else nothing


def make_ready(toolkit: Toolkit, cache: Path) -> Ready:
    """Makes `toolkit` usable for Jittor and the visible GPUs; the links and the copy of Jittor are kept in `cache`.

    Raises:
        UserError: no GPU is visible, it is too old or too new for the toolkit, Jittor is another version, or the cache
            cannot be written; the message says what helps.
    """
    found = capabilities()
    if not found:
        raise UserError("the driver shows no GPU (see nvidia-smi and CUDA_VISIBLE_DEVICES)")
    _check_capabilities(toolkit, found)
    fixes = needed_fixes(toolkit.version, found)
    if (fixes or not toolkit.usable_directly) and " " in str(cache):
        raise UserError(f"nvcc cannot compile in a cache folder that holds a blank ({cache}): set JSEG_CACHE")
    nvcc = toolkit.nvcc if toolkit.usable_directly else _assemble(toolkit, cache)
    kind = "_".join(str(capability) for capability in found)
    return Ready(nvcc, kind, fixed_copy(cache, fixes) if fixes else None)


def nvcc_version(nvcc: str | Path) -> tuple[int, int] | None:
    """(major, minor) of the CUDA toolkit of `nvcc`; None when it does not run."""
    found = re.search(r"release (\d+)\.(\d+)", output_of(nvcc, "--version"))
    return (int(found.group(1)), int(found.group(2))) if found else None


def installed() -> Iterator[Path]:
    """Paths of nvcc of all toolkits and wheels that are installed, the preferred one first."""
    places = [folder / "bin" / "nvcc" for folder in wheel_folders()]
    places += [Path(found) for found in [shutil.which("nvcc")] if found]
    for folder in SYSTEM_FOLDERS:
        places += [folder / "cuda" / "bin" / "nvcc", *sorted(folder.glob("cuda-*/bin/nvcc"), reverse=True)]
    seen = set()
    for place in places:
        if place.is_file() and place.resolve() not in seen:
            seen.add(place.resolve())
            yield place


def _candidates() -> Iterable[Path]:
    """Candidate nvcc paths: the one that the environment names, else all that are installed."""
    home, nvcc = os.environ.get("JSEG_CUDA_HOME"), os.environ.get("nvcc_path")
    if home:
        return [Path(os.path.abspath(os.path.expanduser(home)), "bin", "nvcc")]
    return [Path(nvcc)] if nvcc else installed()


def wheel_folders() -> list[Path]:
    """Folders in which pip wheels unpack CUDA."""
    bases = [Path(entry, "nvidia") for entry in sys.path if entry]
    return [base / name for base in bases for name in WHEEL_FOLDERS if (base / name).is_dir()]


def home_of(nvcc: Path) -> Path:
    """Folder of nvcc's toolkit; where `nvcc` is a script that calls another one, that one's."""
    home = nvcc.resolve().parent.parent
    if not (home / "include" / "cuda_runtime.h").is_file():
        found = re.search(r"^#\$ TOP=(.+)$", output_of(nvcc, "--dryrun", "-x", "cu", os.devnull), re.MULTILINE)
        home = Path(os.path.normpath(found.group(1).strip())) if found else home
    return home


def _examine(nvcc: Path, driver: tuple[int, int]) -> Toolkit:
    """The toolkit of `nvcc`; raises UserError when a part is missing or it does not fit the driver or g++."""
    version = nvcc_version(nvcc)
    if version is None:
        raise UserError(
            f"{nvcc} does not run ({WHEELS}, or set JSEG_CUDA_HOME to the folder of a CUDA 11.8-13 toolkit)"
        )
    toolkit = Toolkit(nvcc, home_of(nvcc), version, (), ())
    if version < OLDEST or version[0] > NEWEST:
        raise UserError(
            f"{toolkit.name} cannot be used with Jittor 1.3.11 (install a CUDA 11.8-13 toolkit, or {WHEELS})"
        )
    if version[0] > driver[0]:
        update = "update the driver to 580 or newer" if version[0] == 13 else "update the driver"
        raise UserError(
            f"{toolkit.name} is too new for the NVIDIA driver, which runs CUDA up to {driver[0]}.{driver[1]} "
            f"({update}, or install a CUDA {driver[0]} toolkit)"
        )
    found = [_find_part(part, toolkit) for part in PARTS]
    includes, libraries = zip(*found, strict=True)
    _check_headers(includes[0], toolkit)
    return Toolkit(nvcc, toolkit.home, version, tuple(dict.fromkeys(includes)), libraries)


def _find_part(part: str, toolkit: Toolkit) -> tuple[Path, Path]:
    """(header folder, library) of a part, in the toolkit itself or in wheels for the same CUDA."""
    home, major = toolkit.home, toolkit.version[0]
    soname = f"lib{part}.so.{10 if part == 'curand' else major}"
    for folder in [home, *([] if home == Path("/usr") else wheel_folders())]:
        names = [f"lib{part}.so", f"{soname}*"] if folder == home else [f"{soname}*"]
        found = (path for place in LIBRARY_FOLDERS for name in names for path in (folder / place).glob(name))
        library = next(found, None)
        if library and (folder / "include" / PARTS[part]).is_file():
            return folder / "include", library
    wheel = WHEELS if major == 13 else f"pip install {PACKAGES[part]}-cu{major}"
    raise UserError(f"{toolkit.name} comes without {part} ({wheel}, or install the whole toolkit)")


def _check_headers(include: Path, toolkit: Toolkit) -> None:
    """Raises UserError when nvcc cannot compile with the headers in `include` and this g++."""
    runtime = re.search(r"#define\s+CUDART_VERSION\s+(\d+)", _text(include / "cuda_runtime_api.h"))
    found = (int(runtime.group(1)) // 1000, int(runtime.group(1)) % 1000 // 10) if runtime else toolkit.version
    if found != toolkit.version:
        raise UserError(
            f"{toolkit.name} does not fit the headers of CUDA {found[0]}.{found[1]} in {include} ({WHEELS})"
        )
    newest = re.search(r"__GNUC__ > (\d+)", _text(include / "crt" / "host_config.h"))
    compiler = toolchain.find_compiler()
    gnu = output_of(compiler, "-dumpversion").partition(".")[0].strip() if compiler and newest else ""
    if newest and gnu.isdigit() and int(gnu) > int(newest.group(1)):
        wanted = f"g++-{newest.group(1)}"
        raise UserError(
            f"{toolkit.name} cannot use g++ {gnu} (apt-get install {wanted}, and set cc_path=/usr/bin/{wanted})"
        )


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _check_capabilities(toolkit: Toolkit, found: list[int]) -> None:
    """Raises UserError when the toolkit cannot compile for a visible GPU."""
    oldest = 75 if toolkit.version >= (13, 0) else 50
    newest = 90 if toolkit.version < (12, 8) else 999
    for capability in found:
        gpu = f"a GPU of compute capability {capability // 10}.{capability % 10}"
        if capability < oldest:
            raise UserError(f"{gpu} needs CUDA 12 or older, not {toolkit.name}: set JSEG_CUDA_HOME to such a toolkit")
        if capability > newest:
            raise UserError(f"{gpu} needs CUDA 12.8 or newer, not {toolkit.name}: {WHEELS}, or set JSEG_CUDA_HOME")


def _assemble(toolkit: Toolkit, cache: Path) -> Path:
    """Makes, or finds, the folder of links from which Jittor takes the whole toolkit; returns the path of its nvcc."""
    state = [(str(path), path.stat().st_mtime_ns) for path in (*toolkit.includes, *toolkit.libraries)]
    key = hashlib.sha256(repr((str(toolkit.nvcc), state)).encode()).hexdigest()[:8]
    folder = cache / f"cuda-{toolkit.version[0]}.{toolkit.version[1]}-{key}"
    with whole_folder(folder) as new:
        if new:
            link_toolkit(new, toolkit.nvcc, toolkit.includes)
            for part, library in zip(PARTS, toolkit.libraries, strict=True):
                for name in {f"lib{part}.so", library.name, library.resolve().name}:
                    (new / "lib64" / name).symlink_to(library)
    return folder / "bin" / "nvcc"


def link_toolkit(folder: Path, nvcc: Path, includes: Iterable[Path]) -> None:
    """Fills `folder` with `bin/nvcc`, links to all headers in `include` (the first folder wins), an empty `lib64`."""
    for name in ("bin", "include", "lib64"):
        (folder / name).mkdir(parents=True)
    script = folder / "bin" / "nvcc"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(str(nvcc))} "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    for entry in (entry for include in includes for entry in include.iterdir()):
        if not (folder / "include" / entry.name).exists():
            (folder / "include" / entry.name).symlink_to(entry)
    if not (folder / "include" / "npp.h").exists():
        shutil.copy(NPP_HEADER, folder / "include" / "npp.h")


def _driver() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None


def has_gpu_device() -> bool:
    """Whether this system (or container) shows a GPU: `/dev/nvidia0`…, or `/dev/dxg` under Windows' WSL."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()


def driver_cuda() -> tuple[int, int] | None:
    """(major, minor) of the newest CUDA that the driver runs; None without a driver. Starts nothing on the GPU."""
    driver, version = _driver(), ctypes.c_int()
    if driver is None or driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return version.value // 1000, version.value % 1000 // 10


def capabilities() -> list[int]:
    """Compute capabilities of the visible GPUs, each once and in order: 80 for 8.0, 90 for 9.0.

    Empty when the driver shows none. This starts the driver, which takes some tenths of a second.
    """
    driver, count = _driver(), ctypes.c_int()
    if driver is None or driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return []
    found = set()
    for index in range(count.value):
        device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        driver.cuDeviceGet(ctypes.byref(device), index)
        driver.cuDeviceGetAttribute(ctypes.byref(major), 75, device)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
        driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)  # …_MINOR
        found.add(10 * major.value + minor.value)
    return sorted(found)


def used_memory() -> int:
    """Bytes of the GPU's memory that are in use, by any process; call it once Jittor computes on the GPU.

    Raises:
        UserError: the driver does not say.
    """
    unused, total = ctypes.c_size_t(), ctypes.c_size_t()
    driver = _driver()
    if driver is None or driver.cuMemGetInfo_v2(ctypes.byref(unused), ctypes.byref(total)) != 0:
        raise UserError("the NVIDIA driver does not say how much of the GPU's memory is in use: see `nvidia-smi`")
    return total.value - unused.value
