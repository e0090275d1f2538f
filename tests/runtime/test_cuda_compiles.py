"""That everything compiles for CUDA with nvcc 13, through Jittor's own JIT: what can be proved without a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jseg.runtime.cuda import CUDA_13, fixed_copy
from tests.standin_gpu import run
from tests.standin_gpu.build import nvcc_or_skip, standin_gpu

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def nvcc() -> Path:
    return nvcc_or_skip()


@pytest.mark.parametrize("fixes", [CUDA_13, ()])
def test_fixed_header_compiles_and_the_original_does_not(fixes: tuple, nvcc: Path, tmp_path: Path) -> None:
    """The only part of the core that CUDA 13 changed; all of it is compiled by the slow tests."""
    toolkit = standin_gpu(nvcc)["JSEG_CUDA_HOME"]
    source = fixed_copy(tmp_path, fixes) / "jittor" / "src"
    command = ["g++", "-std=c++14", "-fsyntax-only", "-w", "-DHAS_CUDA", "-DIS_CUDA", f"-I{source}",
               f"-I{toolkit}/include", f"-I{source.parent / 'extern' / 'cuda' / 'inc'}",
               str(source / "mem" / "allocator" / "cuda_device_allocator.cc")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode == 0) == bool(fixes), done.stderr
    assert fixes or "has no member named" in done.stderr  # computeMode, clockRate


@pytest.mark.slow
@pytest.mark.parametrize(("parts", "capability"), [(run.PARTS, 90), (["inductive:bf16"], 80)])
def test_everything_compiles_through_jittor(parts: list[str], capability: int, nvcc: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "STANDIN_CAPABILITY": str(capability)}
    command = [sys.executable, "-m", "tests.standin_gpu.run", *parts]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["device cuda", *(f"compiled {part}" for part in parts)], done.stderr
