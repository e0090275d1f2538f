"""A CUDA 13 toolkit and driver without a GPU: nvcc is real, the libraries are stand-ins that compute nothing.

With it Jittor compiles, through its own JIT and nvcc, all that a run on a GPU would compile. This proves that it
compiles, and nothing about results or speed. A computing one has an nvcc that compiles for the CPU, and libraries that
compute: results are those of the CUDA branches, kernels by tests/cuda_emulation; slow, and no proof for real nvcc.
"""

import hashlib
import shlex
import subprocess
from pathlib import Path

import pytest

from jseg.files import cache_folder, whole_folder
from jseg.runtime import cuda, toolchain

HERE = Path(__file__).parent
# stand-in -> (its sources, its place, its other name)
LIBRARIES = {
    "libcudart.so.13": ("cudart.c", "toolkit/lib64", "libcudart.so"),
    "libcublas.so.13": ("cublas.c", "toolkit/lib64", "libcublas.so"),
    "libcublasLt.so.13": ("cublas.c", "toolkit/lib64", "libcublasLt.so"),
    "libcurand.so.10": ("curand.c", "toolkit/lib64", "libcurand.so"),
    "libcuda.so.1": ("driver.c", "driver", "libcuda.so"),
}


def find_nvcc() -> Path | None:
    """nvcc of a CUDA 13 toolkit or wheel; None when there is none."""
    return next((nvcc for nvcc in cuda.installed() if (cuda.nvcc_version(nvcc) or (0, 0))[0] == 13), None)


def nvcc_or_skip() -> Path:
    """As `find_nvcc`; skips the test where there is none."""
    return find_nvcc() or pytest.skip("no nvcc of CUDA 13 (pip install -e '.[cuda13]', or install the toolkit)")


def standin_gpu(nvcc: Path, computing: bool = False) -> dict[str, str]:
    """Builds driver and toolkit, or finds them in the cache; returns the environment in which jseg finds them."""
    real = [folder / "include" for folder in cuda.wheel_folders() if (folder / "include" / "cublas_v2.h").is_file()]
    headers = [cuda.home_of(nvcc) / "include", *real[:1], HERE / "include"]
    folders = [HERE, HERE.with_name("cuda_emulation")] if computing else [HERE]
    sources = [path for folder in folders for path in sorted(folder.rglob("*")) if path.suffix not in ("", ".pyc")]
    sources += [HERE / "computing" / name for name in ("nvcc", "calls")]
    state = repr((str(nvcc), [str(path) for path in headers], [path.read_text() for path in sources], computing))
    folder = cache_folder() / f"standin_gpu-{hashlib.sha256(state.encode()).hexdigest()[:8]}"
    with whole_folder(folder) as new:
        if new:
            _build(new, nvcc, headers, computing)
    found = {"JSEG_CUDA_HOME": str(folder / "toolkit"), "LD_LIBRARY_PATH": str(folder / "driver")}
    if computing:
        found["JITTOR_HOME"] = str(folder / "jittor")  # kernels for a CPU do not mix with others
    return found


def _build(folder: Path, nvcc: Path, headers: list[Path], computing: bool) -> None:
    cuda.link_toolkit(folder / "toolkit", nvcc, headers)
    if computing:
        _compile_for_cpu(folder / "toolkit", nvcc)
    include = folder / "toolkit" / "include"
    runtime = next(cuda.home_of(nvcc).rglob("libcudadevrt.a"))  # every kernel is linked with it
    (folder / "toolkit" / "lib64" / runtime.name).symlink_to(runtime)
    for name, (source, place, other) in LIBRARIES.items():
        library = folder / place / name
        library.parent.mkdir(exist_ok=True)
        symbols = folder / "symbols"  # programs ask for the symbols with the library's name as their version
        symbols.write_text(f"{name} {{ global: *; }};\n")
        options = ["-DCOMPUTING", "-O3", "-ffast-math", "-fno-finite-math-only", "-march=native"] if computing else []
        command = [toolchain.find_compiler(), "-x", "c", "-shared", "-fPIC", "-w", f"-I{include}", str(HERE / source),
                   "-o", str(library), f"-Wl,-soname,{name}", f"-Wl,--version-script={symbols}", "-lm",
                   *options]  # fmt: skip
        subprocess.run(command, check=True)
        (library.parent / other).symlink_to(name)


def _compile_for_cpu(toolkit: Path, nvcc: Path) -> None:
    """Puts the computing nvcc in the place of the real one, with the header of Jittor that launches a kernel."""
    computing = HERE / "computing"
    header = toolkit / "computing" / "misc" / "cuda_atomic.h"
    header.parent.mkdir(parents=True)
    original = Path(toolchain.jittor_folder(), "src", "misc", header.name)
    header.write_bytes(subprocess.run([computing / "calls", original], check=True, capture_output=True).stdout)
    known = shlex.join([str(computing / "nvcc"), str(nvcc)])
    (toolkit / "bin" / "nvcc").write_text(f'#!/bin/sh\nexec {known} "$(dirname "$0")/../computing" "$@"\n')
