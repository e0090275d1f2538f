"""Finds a CUDA toolkit that Jittor 1.3.11 can use here, and makes it ready; asks the NVIDIA driver.

Jittor takes a whole toolkit (`include`, `lib64`) from the folder above nvcc's. Where its parts lie apart, as with pip
wheels, a folder of links is assembled in the cache. CUDA 13, and GPUs newer than Jittor 1.3.11 knows, also need a
copy of Jittor with fixed sources, which is put first on `sys.path`.
"""

import ctypes
import hashlib
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from jseg.errors import UserError
from jseg.files import whole_folder
from jseg.runtime import toolchain
from jseg.runtime.toolchain import output_of

NOTE = "JSEG_CUDA_NOTE"  # variable with a parent process's reason for not using CUDA
WHEELS = (  # the extra cuda13 in pyproject.toml
    "pip install 'nvidia-cuda-nvcc==13.0.*' 'nvidia-nvvm==13.0.*' 'nvidia-cuda-crt==13.0.*' "
    "'nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-cccl==13.0.*' 'nvidia-cublas>=13,<14' 'nvidia-curand>=10.4,<11'"
)
PARTS = {"cudart": "cuda_runtime.h", "cublas": "cublas_v2.h", "cublasLt": "cublasLt.h", "curand": "curand.h"}
SYSTEM_FOLDERS = (Path("/usr/local"), Path("/opt"))
WHEEL_FOLDERS = ("cu13", "cuda_runtime", "cublas", "curand", "cuda_nvcc")  # cu13 for CUDA 13, the others for older ones
LIBRARY_FOLDERS = ("lib64", "lib", "targets/x86_64-linux/lib", "lib/x86_64-linux-gnu")


class Fix(NamedTuple):
    """One replacement in a file of Jittor."""

    file: str
    old: str
    new: str
    count: int = 1


CUDA_13 = (
    # members of cudaDeviceProp that CUDA 13 has no more
    Fix("extern/cuda/inc/helper_cuda.h", "deviceProp.computeMode == cudaComputeModeProhibited", "false"),
    Fix("extern/cuda/inc/helper_cuda.h", "deviceProp.computeMode != cudaComputeModeProhibited", "true", 2),
    Fix("extern/cuda/inc/helper_cuda.h", "* deviceProp.clockRate", "* 1"),
    # CUDA 13's C++ headers (CCCL 3) need C++17
    Fix(
        "compiler.py",
        'nvcc_flags = nvcc_flags.replace("-Wall", "")',
        'nvcc_flags = nvcc_flags.replace("-std=c++14", "-std=c++17").replace("-Wall", "")',
    ),
    # and no longer have cub::Max and cub's iterators (the braces are doubled inside an f-string)
    Fix("other/code_softmax.py", "cub::Max()", "::cuda::maximum<>{{}}"),
    Fix(
        "extern/cuda/cub/ops/cub_where_op.cc",
        "#include <thrust/transform.h>",
        "#include <thrust/transform.h>\n#include <thrust/iterator/counting_iterator.h>\n"
        "#include <thrust/iterator/transform_iterator.h>",
    ),
    Fix("extern/cuda/cub/ops/cub_where_op.cc", "cub::CountingInputIterator<To>", "thrust::counting_iterator<To>"),
    Fix(
        "extern/cuda/cub/ops/cub_where_op.cc",
        "cub::TransformInputIterator<bool, NonZeroOp<Ti>, Ti*> itr(cond->ptr<Ti>(), NonZeroOp<Ti>());",
        "auto itr = thrust::make_transform_iterator(cond->ptr<Ti>(), NonZeroOp<Ti>());",
    ),
)
# Jittor builds for compute capability 9.0 at most, machine code only, which newer GPUs do not run
NEWER_GPUS = (Fix("compiler.py", "max_arch = 90\n", "max_arch = 999\n"),)


class Toolkit(NamedTuple):
    """A complete CUDA toolkit; its parts may lie apart."""

    nvcc: Path
    home: Path  # folder above nvcc's
    version: tuple[int, int]
    includes: tuple[Path, ...] = ()  # header folders of the parts
    libraries: tuple[Path, ...] = ()  # shared libraries of the parts, in the order of PARTS

    @property
    def name(self) -> str:
        """nvcc with its version."""
        return f"{self.nvcc} (CUDA {self.version[0]}.{self.version[1]})"


class Ready(NamedTuple):
    """A toolkit that Jittor can be started with."""

    nvcc: Path
    kind: str  # compute capabilities of the GPUs, such as "90"; kernels of each kind have a cache of their own
    python_path: Path | None  # of the fixed copy of Jittor


def choose() -> tuple[Toolkit | None, str]:
    """Decides between CUDA and CPU; returns (toolkit, "") or (None, why CUDA cannot be used and what helps).

    `JSEG_CUDA_HOME` names the toolkit to use, else Jittor's own `nvcc_path` does; else the first that fits is taken.
    """
    home, nvcc = os.environ.get("JSEG_CUDA_HOME"), os.environ.get("nvcc_path")
    if nvcc == "" and not home:
        return None, os.environ.get(NOTE) or "nvcc_path is set to nothing: CPU only (unset it to use a GPU)"
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return None, "CUDA_VISIBLE_DEVICES hides all GPUs (unset it to use them)"
    driver = driver_cuda()
    if driver is None or not has_gpu_device():
        return None, "no NVIDIA driver or no GPU (install the driver; in a container, pass the GPU in)"
    named = os.path.join(os.path.abspath(os.path.expanduser(home)), "bin", "nvcc") if home else nvcc
    reason = ""
    for candidate in [Path(named)] if named else installed():
        try:
            return _examine(candidate, driver), ""
        except UserError as error:
            reason = reason or str(error)
    return None, reason or f"no nvcc ({WHEELS} with driver 580 or newer, or install a CUDA 11.8-13 toolkit)"


def make_ready(toolkit: Toolkit, cache: Path) -> Ready:
    """Makes `toolkit` usable for Jittor and the visible GPUs, with links in `cache`; raises UserError if it cannot."""
    found = capabilities()
    if not found:
        raise UserError("the driver shows no GPU (see nvidia-smi and CUDA_VISIBLE_DEVICES)")
    oldest, newest = 75 if toolkit.version >= (13, 0) else 50, 90 if toolkit.version < (12, 8) else 999
    if found[0] < 50:
        raise UserError(f"a GPU of compute capability {found[0] / 10} is too old (5.0 is needed): use --device cpu")
    for capability in found:
        if not oldest <= capability <= newest:
            wanted = "12 or older" if capability < oldest else "12.8 or newer"
            gpu = f"a GPU of compute capability {capability / 10}"
            raise UserError(f"{gpu} needs CUDA {wanted}, not {toolkit.name}: set JSEG_CUDA_HOME to such a toolkit")
    home, nvcc = toolkit.home, toolkit.nvcc
    if home != Path("/usr"):  # the distribution's own package lies in /usr; Jittor knows it
        # always the same path, whichever toolkit: it is part of Jittor's keys for compiled files
        folder = cache / f"cuda-{toolkit.version[0]}.{toolkit.version[1]}"
        state = repr((nvcc, toolkit.includes, [(path, path.stat().st_size) for path in toolkit.libraries]))
        try:
            outdated = (folder / "state").read_text(encoding="utf-8") != state
        except OSError:  # there is none, or another process is putting its own in place
            outdated = False
        with whole_folder(folder, outdated) as new:
            if new:
                link_toolkit(new, nvcc, toolkit.includes)
                for part, library in zip(PARTS, toolkit.libraries, strict=True):
                    for name in {f"lib{part}.so", library.name, library.resolve().name}:
                        (new / "lib64" / name).symlink_to(library)
                # each kernel is linked with it; nvcc itself looks in its own lib64, which wheels do not have
                runtime = toolkit.libraries[0].with_name("libcudadevrt.a")
                (new / "lib64" / runtime.name).symlink_to(runtime)
                (new / "state").write_text(state, encoding="utf-8")
        nvcc = folder / "bin" / "nvcc"
    fixes = (CUDA_13 if toolkit.version >= (13, 0) else ()) + (NEWER_GPUS if max(found) > 90 else ())
    return Ready(nvcc, "_".join(map(str, found)), fixed_copy(cache, fixes) if fixes else None)


def fixed_copy(folder: Path, fixes: tuple[Fix, ...]) -> Path:
    """Makes, or finds, a copy of the installed Jittor below `folder`, fixed; returns what to put on `sys.path`.

    The installed package is never touched. Another Jittor, in which a text is not as often as expected, is refused.
    """
    if found := re.search(r"[^\w@%+=:.~/-]", str(folder)):  # Jittor's commands hold its own path without quotes
        raise UserError(f"no CUDA with {found[0]!r} in the cache's path ({folder}): set JSEG_CACHE to another folder")
    original, version = Path(toolchain.jittor_folder()), toolchain.package_version("jittor")
    key = hashlib.sha256(repr(fixes).encode()).hexdigest()[:8]
    with whole_folder(folder / f"jittor-{version}-{key}") as new:
        if new:
            shutil.copytree(original, new / "jittor", ignore=shutil.ignore_patterns("__pycache__", "test"))
            for fix in fixes:
                path = new / "jittor" / fix.file
                text = path.read_text(encoding="utf-8") if path.is_file() else ""
                if text.count(fix.old) != fix.count:
                    remedy = f"pip install {toolchain.JITTOR}, or use a CUDA 11.8-12 toolkit"
                    raise UserError(f"Jittor {version} cannot be fixed for this CUDA ({fix.file} differs): {remedy}")
                path.write_text(text.replace(fix.old, fix.new), encoding="utf-8")
    return folder / f"jittor-{version}-{key}"


def nvcc_version(nvcc: str | Path) -> tuple[int, int] | None:
    """(major, minor) of the CUDA toolkit of `nvcc`; None when it does not run."""
    found = re.search(r"release (\d+)\.(\d+)", output_of(nvcc, "--version"))
    return (int(found.group(1)), int(found.group(2))) if found else None


def installed() -> Iterator[Path]:
    """Paths of nvcc of all toolkits and wheels that are installed, the preferred one first."""
    places = [*(folder / "bin" / "nvcc" for folder in wheel_folders()), Path(shutil.which("nvcc") or "none")]
    for folder in SYSTEM_FOLDERS:
        places += [folder / "cuda" / "bin" / "nvcc", *sorted(folder.glob("cuda-*/bin/nvcc"), reverse=True)]
    return (place for place in places if place.is_file())


def wheel_folders() -> list[Path]:
    """Folders in which pip wheels unpack CUDA."""
    places = (Path(entry, "nvidia", name) for entry in sys.path if entry for name in WHEEL_FOLDERS)
    return [place for place in places if place.is_dir()]


def home_of(nvcc: Path) -> Path:
    """Folder of nvcc's toolkit; where `nvcc` is a script that calls another one, that one's."""
    home = nvcc.resolve().parent.parent
    if (home / "include" / "cuda_runtime.h").is_file():
        return home
    found = re.search(r"^#\$ TOP=(.+)$", output_of(nvcc, "--dryrun", "-x", "cu", os.devnull), re.MULTILINE)
    return Path(os.path.normpath(found.group(1).strip())) if found else home


def _examine(nvcc: Path, driver: tuple[int, int]) -> Toolkit:
    """The toolkit of `nvcc`; raises UserError when a part is missing or it does not fit the driver or g++."""
    version, another = nvcc_version(nvcc), f"(install a CUDA 11.8-13 toolkit, or {WHEELS})"
    if version is None:
        raise UserError(f"{nvcc} does not run {another}")
    toolkit = Toolkit(nvcc, home_of(nvcc), version)
    if not (11, 8) <= version < (14, 0):
        raise UserError(f"{toolkit.name} does not fit Jittor 1.3.11 {another}")
    if version[0] > driver[0] or driver < (12, 1) <= version:  # since CUDA 12.1 our kernels take more arguments
        newest = f"the NVIDIA driver, which runs CUDA up to {driver[0]}.{driver[1]}"
        raise UserError(f"{toolkit.name} is too new for {newest} (update the driver, for CUDA 13 to 580 or newer)")
    includes, libraries, home = [], [], toolkit.home
    for part, header in PARTS.items():  # in the toolkit itself or in wheels for the same CUDA
        soname = f"lib{part}.so.{10 if part == 'curand' else version[0]}*"
        for folder in [home, *([] if home == Path("/usr") else wheel_folders())]:
            names = [f"lib{part}.so", soname] if folder == home else [soname]
            found = (path for place in LIBRARY_FOLDERS for name in names for path in (folder / place).glob(name))
            if (folder / "include" / header).is_file() and (library := next(found, None)):
                includes.append(folder / "include")
                libraries.append(library)
                break
        else:
            raise UserError(f"{toolkit.name} comes without {part} (install the whole toolkit, or {WHEELS} for CUDA 13)")
    header = includes[0] / "crt" / "host_config.h"
    text = header.read_text("utf-8", "replace") if header.is_file() else ""
    newest = re.search(r"__GNUC__ > (\d+)", text)
    gnu = output_of(toolchain.find_compiler(), "-dumpversion").partition(".")[0].strip()
    if newest and gnu.isdigit() and int(gnu) > int(newest.group(1)):
        older = f"g++-{newest.group(1)}"
        raise UserError(f"{toolkit.name} cannot use g++ {gnu} (apt-get install {older}; set cc_path=/usr/bin/{older})")
    return toolkit._replace(includes=tuple(dict.fromkeys(includes)), libraries=tuple(libraries))


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
    if not (folder / "include" / "npp.h").exists():  # a toolkit without NVIDIA's image library
        shutil.copy(Path(__file__).with_name("npp.h"), folder / "include" / "npp.h")


def has_gpu_device() -> bool:
    """Whether this system (or container) shows a GPU: `/dev/nvidia0`…, `/dev/dxg` under Windows' WSL, or the driver."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists() or bool(capabilities())


def driver_cuda() -> tuple[int, int] | None:
    """(major, minor) of the newest CUDA that the driver runs; None without a driver."""
    version = ctypes.c_int()
    try:
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except OSError:
        return None
    return (version.value // 1000, version.value % 1000 // 10) if version.value else None


def capabilities() -> list[int]:
    """Compute capabilities of the visible GPUs, each once and in order: 80 for 8.0, 90 for 9.0; starts the driver."""
    try:
        driver, count = ctypes.CDLL("libcuda.so.1"), ctypes.c_int()
    except OSError:
        return []
    driver.cuInit(0)
    driver.cuDeviceGetCount(ctypes.byref(count))
    found = set()
    for index in range(count.value):
        device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        driver.cuDeviceGet(ctypes.byref(device), index)
        driver.cuDeviceGetAttribute(ctypes.byref(major), 75, device)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
        driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)  # …_MINOR
        found.add(10 * major.value + minor.value)
    return sorted(found)


def used_memory() -> int:
    """Bytes of the GPU's memory that are in use, by any process; call it once Jittor computes on the GPU."""
    unused, total = ctypes.c_size_t(), ctypes.c_size_t()
    if error := ctypes.CDLL("libcuda.so.1").cuMemGetInfo_v2(ctypes.byref(unused), ctypes.byref(total)):
        raise UserError(f"the GPU's memory is not known: the driver returns CUresult {error}")
    return total.value - unused.value
