"""What was found of the things that Jittor needs, and for each missing one the command that installs it."""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path
from typing import NamedTuple

from jseg.runtime import prepare as preparing
from jseg.runtime import toolchain
from jseg.runtime.cuda import driver_cuda, has_gpu_device
from jseg.runtime.prepare import Preparation


class Finding(NamedTuple):
    """One line of the report."""

    name: str
    found: str  # what was found; "" = nothing
    remedy: str = ""  # the command that installs it; "" = none is needed
    needed: bool = False  # whether jseg cannot run without it


def findings(preparation: Preparation) -> list[Finding]:
    """Looks at everything that Jittor needs or can use; `preparation` is what `prepare` decided for this process."""
    compiler, toolkit, numpy = toolchain.find_compiler(), preparation.toolkit, toolchain.package_version("numpy")
    if compiler:
        compiler = f"{toolchain.output_of(compiler, '--version').partition(chr(10))[0]}, {compiler}"
    driver, version_file = "", Path("/proc/driver/nvidia/version")
    if newest := driver_cuda():
        text = version_file.read_text(encoding="utf-8", errors="replace") if version_file.is_file() else ""
        version = re.search(r"\b(\d{3}\.\d+(?:\.\d+)?)\b", text)
        driver = f"{version.group(1) if version else 'present'}, runs CUDA up to {newest[0]}.{newest[1]}"
    gpus = ""
    if has_gpu_device():
        text = toolchain.output_of("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader")
        gpus = "; ".join(line for line in text.splitlines() if "MiB" in line) or "present, not listed by nvidia-smi"
    on_cuda = ", on CUDA those of attention (compute capability 8.0 and up)" if toolkit else ""
    operators = {"auto": f"compiled kernels on CPU{on_cuda}", "plain": "plain Jittor operators (JSEG_KERNELS=plain)"}
    return [
        Finding("Python", f"{platform.python_version()}, {sys.executable}"),
        Finding("Jittor", toolchain.package_version("jittor"), f"pip install {toolchain.JITTOR}", needed=True),
        Finding("NumPy", numpy if numpy.startswith("1.") else "", f"pip install '{toolchain.NUMPY}'", needed=True),
        Finding("C++ compiler", compiler, "apt-get install g++, or set cc_path=/…/bin/g++", needed=True),
        Finding("Python headers", toolchain.find_python_config(),
                f"apt-get install python3.{sys.version_info.minor}-dev", needed=True),
        Finding("oneDNN", preparing.ONEDNN_VERSION if preparation.onednn else "", preparing.ONEDNN_INSTALL),
        Finding("NVIDIA driver", driver),
        Finding("GPU", gpus),
        Finding("CUDA toolkit", toolkit.name if toolkit else "", preparation.cuda_note),
        Finding("operators", operators.get(os.environ.get("JSEG_KERNELS", "auto"), ""),
                "JSEG_KERNELS must be auto or plain", needed=True),
        Finding("cache folder", "" if preparation.problem else str(preparation.jittor_home), preparation.problem,
                needed=True),
    ]  # fmt: skip


def write_report() -> int:
    """Prints the report; returns the exit code: 0 when jseg can run here, 1 when something needed is missing."""
    lines = findings(preparing.prepare())
    for line in lines:
        print(f"{line.name + ':':16}{line.found or 'no'}")
    for line in lines:
        if not line.found and line.remedy:
            print(f"{'missing' if line.needed else 'optional'}: {line.name}: {line.remedy}")
    return int(any(line.needed and not line.found for line in lines))
