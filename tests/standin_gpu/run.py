"""`python -m tests.standin_gpu.run [PART…]`: has Jittor compile for CUDA all that training and evaluation run.

A part is `evaluation` or `SETTING:PRECISION`, such as `inductive:bf16`; all of them by default. Prints a line for each.
STANDIN_CAPABILITY=80 in the environment stands for a GPU of compute capability 8.0; the default is 9.0.
"""

import os
import subprocess
import sys

from tests.standin_gpu.build import find_nvcc, standin_gpu

STARTED = "STANDIN_GPU_STARTED"
SETTINGS = ("inductive", "transductive", "supervised")
PARTS = ["evaluation", *(f"{setting}:{precision}" for precision in ("fp32", "bf16", "fp16") for setting in SETTINGS)]


def start_on_standin() -> None:
    """Shows the stand-in GPU to jseg and starts Jittor on it."""
    from jseg.runtime import cuda
    from jseg.runtime.prepare import prepare
    from jseg.runtime.start import start

    cuda.has_gpu_device = lambda: True  # there is no /dev/nvidia0
    prepare.cache_clear()
    assert start("cuda") == "cuda"


def compile_parts(parts: list[str]) -> None:
    """Compiles the parts."""
    start_on_standin()
    print("device cuda", flush=True)
    from tests.standin_gpu import hot_path

    for part in parts:
        hot_path.evaluate() if part == "evaluation" else hot_path.train(*part.split(":"))
        print("compiled", part, flush=True)


if __name__ == "__main__":
    if os.environ.get(STARTED):
        compile_parts(sys.argv[1:] or PARTS)
    else:  # in a process whose driver and toolkit are the stand-ins
        environment = {**os.environ, **standin_gpu(find_nvcc()), STARTED: "1"}
        command = [sys.executable, "-m", "tests.standin_gpu.run", *sys.argv[1:]]
        sys.exit(subprocess.run(command, env=environment).returncode)
