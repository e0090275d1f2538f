"""What the CUDA branches compute, on the stand-in GPU that computes: see tests/standin_gpu/build.py."""

import ctypes
import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.standin_gpu.build import nvcc_or_skip, standin_gpu

ROOT = Path(__file__).parents[2]
KERNEL = """
#include <cuda_runtime.h>
#include "misc/cuda_atomic.h"
__global__ void scale(float* x, int count, float* highest) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) atomicMax((int*)highest, __float_as_int(x[i] *= 3));
}
extern "C" void run(float* x, int count, float* highest) { scale<<<dim3(count / 32 + 1), 32>>>(x, count, highest); }
"""


@pytest.fixture(scope="module")
def toolkit() -> Path:
    return Path(standin_gpu(nvcc_or_skip(), computing=True)["JSEG_CUDA_HOME"])


def test_its_nvcc_compiles_kernels_for_the_cpu(toolkit: Path, tmp_path: Path) -> None:
    (tmp_path / "kernel.cu").write_text(KERNEL)
    (tmp_path / "common.h").write_text("#include <algorithm>\n")  # in the place of Jittor's
    program = tmp_path / "kernel.so"
    command = [toolkit / "bin" / "nvcc", tmp_path / "kernel.cu", f"-I{tmp_path}", f"-I{toolkit / 'include'}", "-shared",
               "-Xcompiler", "-fPIC", "-x", "cu", "--use_fast_math", "-arch=compute_90", "-o", program]  # fmt: skip
    subprocess.run(command, check=True)
    x, highest = np.arange(100, dtype=np.float32), np.zeros(1, np.float32)
    ctypes.CDLL(str(program)).run(x.ctypes, 100, highest.ctypes)
    assert (x == 3 * np.arange(100)).all() and highest == 297


@pytest.mark.parametrize(("transposed_a", "transposed_b"), list(itertools.product((False, True), repeat=2)))
def test_its_cublas_multiplies_matrices_in_columns(transposed_a: bool, transposed_b: bool, toolkit: Path) -> None:
    generator = np.random.default_rng(0)
    a = generator.standard_normal((3, 5) if transposed_a else (5, 3), np.float32)  # its columns are these rows
    b = generator.standard_normal((5, 4) if transposed_b else (4, 5), np.float32)
    c, one, nothing = np.ones((4, 3), np.float32), ctypes.c_float(1), ctypes.c_float(0)
    status = ctypes.CDLL(str(toolkit / "lib64" / "libcublas.so")).cublasSgemm_v2(
        None, int(transposed_a), int(transposed_b), 3, 4, 5, ctypes.byref(one), a.ctypes, a.shape[1], b.ctypes,
        b.shape[1], ctypes.byref(nothing), c.ctypes, 3,
    )  # fmt: skip
    expected = (b.T if transposed_b else b) @ (a.T if transposed_a else a)
    np.testing.assert_allclose(c, expected, rtol=1e-5, atol=1e-6)
    assert status == 0


@pytest.mark.slow
def test_recorded_outputs_of_the_released_model(toolkit: Path) -> None:
    command = [sys.executable, "-m", "tests.standin_gpu.compute"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    # there are 38,000 products; tests that ran on the CPU made none
    assert done.returncode == 0 and int(done.stdout.split()[-2]) > 30_000, done.stdout + done.stderr
