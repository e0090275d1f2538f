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


def compile_kernels(folder: Path, variant: str, standard: str, architecture: int) -> list[tuple[str, int, int]]:
    """Compiles forward and backward of one variant as Jittor would: name, registers, spilled bytes."""
    element = variant.split(",")[0]
    source = folder / "kernels.cu"
    source.write_text(
        '#include "attention_calls.cuh"\nusing namespace jseg;\n'
        f"template void jseg::attention_forward<{variant}>(ForwardArguments<{element}>);\n"
        f"template void jseg::attention_backward<{variant}>(BackwardArguments<{element}>);\n"
    )
    command = [str(NVCC), f"-std={standard}", "--use_fast_math", "-w", f"-arch=compute_{architecture}"]
    command += [f"-code=sm_{architecture}", "-Xptxas", "-v", f"-I{KERNELS}", "-c", str(source)]
    done = subprocess.run([*command, "-o", str(folder / "kernels.o")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pattern = (
        r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers"
    )
    found = re.findall(pattern, done.stderr, re.DOTALL)
    return [(name, int(registers), int(stores) + int(loads)) for name, stores, loads, registers in found]


@pytest.mark.skipif(NVCC is None, reason="no nvcc")
@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("variant,standard", MAIN)
def test_main_kernels_compile_without_spills(variant: str, standard: str, architecture: int, tmp_path: Path) -> None:
    kernels = compile_kernels(tmp_path, variant, standard, architecture)
    assert len(kernels) == 3
    for name, registers, spilled in kernels:
        assert spilled == 0, name
        assert REGISTERS // (registers * THREADS) >= 2, name  # blocks at once, as the launch bounds ask
