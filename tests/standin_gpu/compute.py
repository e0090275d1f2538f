"""`python -m tests.standin_gpu.compute [ARGUMENT OF PYTEST…]`: tests on the stand-in GPU that computes.

By default those of the model, its operators and its training: among them all recorded outputs of the released models.
The last line says how many products ran on it.
"""

import ctypes
import os
import subprocess
import sys

import pytest

from tests.standin_gpu.build import find_nvcc, standin_gpu
from tests.standin_gpu.run import STARTED, start_on_standin

OPERATORS = [f"tests/ops/test_{name}.py" for name in ("layers", "half", "bilinear", "device")]
TRAINING = [f"tests/engine/test_{name}.py" for name in ("train", "mixed_precision")]
TESTS = ["tests/parity", "tests/model", *OPERATORS, *TRAINING]

if __name__ == "__main__":
    arguments = sys.argv[1:] or TESTS
    if os.environ.get(STARTED):
        start_on_standin()
        failed = pytest.main(["-q", "-p", "no:xdist", *arguments])
        print(ctypes.c_long.in_dll(ctypes.CDLL("libcublas.so.13"), "jseg_products").value, "products")
        sys.exit(failed)
    environment = {**os.environ, **standin_gpu(find_nvcc(), computing=True), STARTED: "1", "JSEG_TEST_DEVICE": "cuda"}
    sys.exit(subprocess.call([sys.executable, "-m", "tests.standin_gpu.compute", *arguments], env=environment))
