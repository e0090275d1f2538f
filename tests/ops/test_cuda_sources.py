"""nvcc compiles the CUDA kernels without a GPU: registers, spills and shared memory as ptxas reports them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from jseg.runtime import cuda as cuda_home

KERNELS = Path(__file__).parents[2] / "jseg/ops/kernels"
REGISTERS, THREADS = 65536, 128  # of a multiprocessor; of a block
# what the released models run: the encoder, the decoder in training; the text tower, the encoder in float32
MAIN = [
    ("BFloat16, 64, REGIONS, false", "c++17"),
    ("BFloat16, 32, FULL, true", "c++14"),  # Jittor's standard for nvcc before 13
    pytest.param("BFloat16, 64, FULL, false", "c++17", marks=pytest.mark.slow),
    pytest.param("Float32, 64, REGIONS, false", "c++17", marks=pytest.mark.slow),
]
NVCC = next(iter(cuda_home.installed()), None)


@pytest.mark.skipif(NVCC is None, reason="no nvcc")
@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("variant,standard", MAIN)
def test_main_kernels_compile_without_spills(variant: str, standard: str, architecture: int, tmp_path: Path) -> None:
    element, source = variant.split(",")[0], tmp_path / "kernels.cu"
    source.write_text(
        '#include "attention_calls.cuh"\nusing namespace jseg;\n'
        f"template void jseg::attention_forward<{variant}>(ForwardArguments<{element}>);\n"
        f"template void jseg::attention_backward<{variant}>(BackwardArguments<{element}>);\n"
    )
    command = [str(NVCC), f"-std={standard}", "--use_fast_math", "-w", f"-arch=compute_{architecture}"]
    command += [f"-code=sm_{architecture}", "-Xptxas", "-v", f"-I{KERNELS}", "-c", str(source)]
    done = subprocess.run([*command, "-o", str(tmp_path / "kernels.o")], capture_output=True, text=True)
    pattern = r"(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers"
    kernels = re.findall(pattern, done.stderr, re.DOTALL)
    assert len(kernels) == 3, done.stderr
    for stores, loads, registers in kernels:
        assert stores == loads == "0"
        assert REGISTERS // (int(registers) * THREADS) >= 2  # blocks at once, as the launch bounds ask
