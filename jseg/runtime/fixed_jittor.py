"""A copy of Jittor 1.3.11 whose sources are fixed for CUDA 13 and for GPUs newer than it knows.

The installed Jittor is never touched: the package is copied into the cache, fixed there, and put first on `sys.path`.
Each text to be replaced has to be there as often as expected, so that another Jittor is refused and not half fixed.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import NamedTuple

from jseg.errors import UserError
from jseg.files import whole_folder
from jseg.runtime import toolchain


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


def fixed_copy(folder: Path, fixes: tuple[Fix, ...]) -> Path:
    """Makes, or finds, the fixed copy of the installed Jittor below `folder`; returns what to put on `sys.path`."""
    installed, version = Path(toolchain.jittor_folder()), toolchain.package_version("jittor")
    key = hashlib.sha256(repr((str(installed), installed.stat().st_mtime_ns, fixes)).encode()).hexdigest()[:8]
    with whole_folder(folder / f"jittor-{version}-{key}") as new:
        if new:
            shutil.copytree(installed, new / "jittor", ignore=shutil.ignore_patterns("__pycache__", "test"))
            for fix in fixes:
                path = new / "jittor" / fix.file
                text = path.read_text(encoding="utf-8") if path.is_file() else ""
                if text.count(fix.old) != fix.count:
                    remedy = f"pip install {toolchain.JITTOR}, or use a CUDA 11.8-12 toolkit"
                    raise UserError(f"Jittor {version} cannot be fixed for this CUDA ({fix.file} differs): {remedy}")
                path.write_text(text.replace(fix.old, fix.new), encoding="utf-8")
    return folder / f"jittor-{version}-{key}"
