"""What was found of the things that Jittor needs, and for each missing one the command that installs it."""

from __future__ import annotations

import os
import platform
import sys
from typing import NamedTuple

from jseg.runtime import prepare as preparing
from jseg.runtime import toolchain
from jseg.runtime.cuda import driver_cuda, has_gpu_device
from jseg.runtime.prepare import Preparation


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
    newest, gpus = driver_cuda(), ""
    if has_gpu_device():
        query = "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"
        text = toolchain.output_of("nvidia-smi", *query)
        gpus = "; ".join(line for line in text.splitlines() if "MiB" in line) or "present, not listed by nvidia-smi"
    plain = os.environ.get("JSEG_KERNELS") == "plain"
    return [
        Finding("Python", f"{platform.python_version()}, {sys.executable}"),
        Finding("Jittor", toolchain.package_version("jittor"), f"pip install {toolchain.JITTOR}", needed=True),
        Finding("NumPy", numpy if numpy.startswith("1.") else "", f"pip install '{toolchain.NUMPY}'", needed=True),
        Finding("C++ compiler", compiler, "apt-get install g++, or set cc_path=/…/bin/g++", needed=True),
        Finding("Python headers", toolchain.find_python_config(),
                f"apt-get install python3.{sys.version_info.minor}-dev", needed=True),
        Finding("oneDNN", preparing.ONEDNN_VERSION if preparation.onednn else "", preparing.ONEDNN_INSTALL),
        Finding("NVIDIA driver", f"runs CUDA up to {newest[0]}.{newest[1]}" if newest else ""),
        Finding("GPU", gpus),
        Finding("CUDA toolkit", toolkit.name if toolkit else "", preparation.cuda_note),
        Finding("operators", "plain Jittor operators (JSEG_KERNELS=plain)" if plain else "compiled kernels"),
        Finding("cache folder", "" if preparation.problem else str(preparation.jittor_home), preparation.problem,
                needed=True),
    ]  # fmt: skip
