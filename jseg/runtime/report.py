"""What was found of the things that Jittor needs, and for each missing one the command that installs it.

`python -m jseg.runtime` prints it; nothing here fails because something is missing.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from jseg.runtime import prepare as preparing
from jseg.runtime import toolchain
from jseg.runtime.cuda import driver_cuda, has_gpu_device
from jseg.runtime.prepare import Preparation


@dataclass
class Finding:
    """One line of the report."""

    name: str
    found: str  # what was found; "" = nothing
    remedy: str = ""  # the command that installs it; "" = none is needed
    needed: bool = False  # whether jseg cannot run without it


def driver_version() -> str:
    """Version of the NVIDIA driver and the newest CUDA that it runs, "" when there is no driver."""
    cuda, path = driver_cuda(), Path("/proc/driver/nvidia/version")
    if cuda is None:
        return ""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    found = re.search(r"\b(\d{3}\.\d+(?:\.\d+)?)\b", text)
    return f"{found.group(1) if found else 'present'}, runs CUDA up to {cuda[0]}.{cuda[1]}"


def gpu_names() -> str:
    """Names and memory of the GPUs as nvidia-smi lists them, "" when there are none."""
    if not has_gpu_device():
        return ""
    text = toolchain.output_of("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader")
    return "; ".join(line for line in text.splitlines() if "MiB" in line) or "present, but nvidia-smi does not list it"


def _operators(preparation: Preparation) -> str:
    """Which form of the operators of jseg/ops runs; JSEG_KERNELS=plain forces the plain one."""
    forced = os.environ.get("JSEG_KERNELS", "auto")
    if forced != "auto":
        return f"plain Jittor operators (JSEG_KERNELS={forced})" if forced == "plain" else ""
    on_cuda = ", on CUDA those of attention (compute capability 8.0 and up)" if preparation.toolkit else ""
    return "compiled kernels on CPU" + on_cuda


def findings(preparation: Preparation) -> list[Finding]:
    """Looks at everything that Jittor needs or can use.

    Args:
        preparation: what `prepare` decided for this process.
    """
    compiler, toolkit = toolchain.find_compiler(), preparation.toolkit
    headers = f"python3.{sys.version_info.minor}-dev"
    return [
        Finding("Python", f"{platform.python_version()}, {sys.executable}"),
        Finding("Jittor", toolchain.package_version("jittor"), f"pip install {toolchain.JITTOR}", needed=True),
        Finding("NumPy", (toolchain.numpy_fits() and toolchain.package_version("numpy")) or "",
                f"pip install '{toolchain.NUMPY}'", needed=True),
        Finding("C++ compiler", compiler and f"{toolchain.compiler_version(compiler)}, {compiler}",
                "apt-get install g++, or set cc_path=/…/bin/g++", needed=True),
        Finding("Python headers", toolchain.find_python_config(), f"apt-get install {headers}", needed=True),
        Finding("oneDNN", preparing.ONEDNN_VERSION if preparation.onednn else "", preparing.ONEDNN_INSTALL),
        Finding("NVIDIA driver", driver_version()),
        Finding("GPU", gpu_names()),
        Finding("CUDA toolkit", toolkit.name if toolkit else "", preparation.cuda_note),
        Finding("operators", _operators(preparation), "JSEG_KERNELS must be auto or plain", needed=True),
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
