"""What was found of the things that Jittor needs, and for each missing one the command that mends it.

`python -m jseg.runtime` prints it; nothing here fails because something is missing.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from jseg.runtime import toolchain
from jseg.runtime.cuda import driver_cuda, has_gpu_device
from jseg.runtime.prepare import INSTALL, VERSION, Preparation, prepare


@dataclass
class Finding:
    """One line of the report."""

    name: str
    found: str  # what was found; "" = nothing
    mend: str = ""  # the command that mends it; "" = nothing to mend
    needed: bool = False  # whether jseg cannot run without it


def driver_version() -> str:
    """Version of the NVIDIA driver and the newest CUDA that it runs, "" when there is no driver."""
    cuda, path = driver_cuda(), Path("/proc/driver/nvidia/version")
    if cuda is None:
        return ""
    found = re.search(r"\b(\d{3}\.\d+(?:\.\d+)?)\b", path.read_text(errors="replace") if path.is_file() else "")
    return f"{found.group(1) if found else 'present'}, runs CUDA up to {cuda[0]}.{cuda[1]}"


def gpu_names() -> str:
    """Names and memory of the GPUs as nvidia-smi tells them, "" when there are none."""
    if not has_gpu_device():
        return ""
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        text = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return "present, but nvidia-smi does not list it"
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())


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
    compiler = toolchain.find_compiler()
    python_config = toolchain.find_python_config()
    version = f"python3.{sys.version_info.minor}"
    toolkit = preparation.toolkit
    cuda = f"{toolkit.version[0]}.{toolkit.version[1]}, {toolkit.nvcc}" if toolkit else ""
    return [
        Finding("Python", f"{platform.python_version()}, {sys.executable}"),
        Finding("Jittor", toolchain.jittor_version(), f"pip install {toolchain.JITTOR}", needed=True),
        Finding("C++ compiler", compiler and f"{toolchain.compiler_version(compiler)}, {compiler}",
                "apt-get install g++, or set cc_path=/…/bin/g++", needed=True),
        Finding("Python headers", python_config, f"apt-get install {version}-dev", needed=True),
        Finding("oneDNN", VERSION if preparation.onednn else "", INSTALL),
        Finding("NVIDIA driver", driver_version()),
        Finding("GPU", gpu_names()),
        Finding("CUDA toolkit", cuda, preparation.cuda_note),
        Finding("operators", _operators(preparation), "JSEG_KERNELS must be auto or plain", needed=True),
        Finding("cache folder", "" if preparation.problem else str(preparation.jittor_home), preparation.problem,
                needed=True),
    ]  # fmt: skip


def write_report() -> int:
    """Prints the report; returns the exit code: 0 when jseg can run here, 1 when something needed is missing."""
    preparation = prepare()
    lines = findings(preparation)
    for line in lines:
        print(f"{line.name + ':':16}{line.found or 'no'}")
    for line in lines:
        if not line.found and line.mend:
            print(f"{'missing' if line.needed else 'optional'}: {line.name}: {line.mend}")
    return int(any(line.needed and not line.found for line in lines))
