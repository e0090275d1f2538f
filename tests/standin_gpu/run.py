"""`python -m tests.standin_gpu.run SCRIPT [ARGUMENT…]`: runs a script on the stand-in GPU, from the repository root.

STANDIN_CAPABILITY=80 in the environment stands for a GPU of compute capability 8.0; the default is 9.0.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys

from tests.standin_gpu.build import find_nvcc, standin_gpu

STARTED = "STANDIN_GPU_STARTED"


def main() -> int:
    """Runs the script in a process whose driver and toolkit are the stand-ins; returns its exit code."""
    nvcc = find_nvcc()
    if nvcc is None:
        print("no nvcc of CUDA 13", file=sys.stderr)
        return 2
    environment = {**os.environ, **standin_gpu(nvcc), STARTED: "1"}
    command = [sys.executable, "-m", "tests.standin_gpu.run", *sys.argv[1:]]
    return subprocess.run(command, env=environment).returncode


def run_script() -> None:
    """Shows the stand-in GPU to jseg and runs the script."""
    from jseg.runtime import cuda, prepare

    cuda.has_gpu_device = lambda: True  # there is no /dev/nvidia0
    prepare._prepared = None
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    if os.environ.get(STARTED):
        run_script()
    else:
        sys.exit(main())
