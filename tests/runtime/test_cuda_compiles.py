"""That everything compiles for CUDA with nvcc 13: what can be proved without a GPU.

The small tests call nvcc themselves. The slow ones run training and evaluation on the stand-in GPU, so that Jittor
compiles each operator through its own JIT; the first time this compiles Jittor's core for CUDA as well.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jseg.ops.compiled import FOLDER
from jseg.runtime.fixed_jittor import CUDA_13, fixed_copy
from tests.standin_gpu import everything
from tests.standin_gpu.build import find_nvcc, standin_gpu

ROOT = Path(__file__).parents[2]
KERNELS = """
#include "attention_calls.cuh"
using namespace jseg;
double number(const char*) { return 1; }
void all(const float* in, float* out) {
    joint_forward<BFloat16, 64, REGIONS>(number, in, in, out, out);
    joint_backward<BFloat16, 64, REGIONS>(number, in, in, in, in, in, out, out, out);
    cross_forward<Float32, 64, true>(number, in, in, in, in, out, out);
    cross_backward<Float32, 64, true>(number, in, in, in, in, in, in, in, out, out, out, out);
}
"""


@pytest.fixture(scope="module")
def nvcc() -> Path:
    found = find_nvcc()
    if found is None:
        pytest.skip("no nvcc of CUDA 13 (pip install 'jseg[cuda13]', or install the toolkit)")
    return found


@pytest.fixture(scope="module")
def toolkit(nvcc: Path) -> Path:
    """The stand-in toolkit, whose headers are complete."""
    return Path(standin_gpu(nvcc)["JSEG_CUDA_HOME"])


@pytest.mark.parametrize("architecture", [80, 90])
def test_attention_kernels_compile(nvcc: Path, architecture: int, tmp_path: Path) -> None:
    (tmp_path / "kernels.cu").write_text(KERNELS)
    # as Jittor calls it
    command = [nvcc, "-std=c++17", "--use_fast_math", f"-arch=compute_{architecture}", f"-code=sm_{architecture}",
               f"-I{FOLDER}", "-cubin", "-Xptxas=-v", "kernels.cu", "-o", "kernels.cubin"]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"for 'sm_{architecture}'" in done.stderr
    assert (tmp_path / "kernels.cubin").stat().st_size > 10_000


@pytest.mark.parametrize("fixes", [CUDA_13, ()])
def test_fixed_header_compiles_and_the_original_does_not(fixes: tuple, toolkit: Path, tmp_path: Path) -> None:
    """The only part of the core that CUDA 13 changed; all of it is compiled by the slow tests."""
    source = fixed_copy(tmp_path, fixes) / "jittor" / "src"
    command = ["g++", "-std=c++14", "-fsyntax-only", "-w", "-DHAS_CUDA", "-DIS_CUDA", f"-I{source}",
               f"-I{toolkit / 'include'}", f"-I{source.parent / 'extern' / 'cuda' / 'inc'}",
               str(source / "mem" / "allocator" / "cuda_device_allocator.cc")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode == 0) == bool(fixes), done.stderr
    assert fixes or "has no member named" in done.stderr  # computeMode, clockRate


def on_the_standin(script: str, *arguments: str, capability: int = 90) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "STANDIN_CAPABILITY": str(capability)}
    command = [sys.executable, "-m", "tests.standin_gpu.run", script, *arguments]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_everything_compiles_through_jittor(nvcc: Path) -> None:
    done = on_the_standin("tests/standin_gpu/everything.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["device cuda", *(f"compiled {part}" for part in everything.PARTS)]


@pytest.mark.slow
def test_a_training_step_compiles_for_older_gpus(nvcc: Path) -> None:
    done = on_the_standin("tests/standin_gpu/everything.py", "inductive:bf16", capability=80)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_self_check_does_not_believe_a_gpu_that_computes_nothing(nvcc: Path) -> None:
    done = on_the_standin("tests/standin_gpu/self_check.py")
    assert done.returncode == 1, done.stderr
    assert [line[13:21].strip() for line in done.stdout.splitlines()] == ["ok", *3 * ["failed"], "skipped"]
