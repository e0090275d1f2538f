"""nvcc compiles the CUDA kernels without a GPU: registers, spills and shared memory as ptxas reports them."""

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
PASSES = {  # kernels that read memory once: calls with numbers n, floats p, whole numbers i
    "layers.cuh": "norm_forward<X, Y>(n, p, p, p, p, p, p); norm_backward<X, Y>(n, p, p, p, p, p, p, p, p, p);"
    "linear_epilogue<Y, X>(n, p, p, p, p, p); linear_slopes<Y, X>(n, p, p, p, p, p, p, p, p);",
    "losses.cuh": "mask_sums(n, p, i, p, p, p, p, p, p, p); mask_gradient(n, p, i, p, p, p, p, p, p);"
    "recovery(n, p, p, p, p, p, p, p); recovery_gradient(n, p, p, p, p, p, p, p, p);",
    "optimizer.cuh": "square_sums(n, Tensors(), p, p); adamw(n, Tensors(), i, p, p, i);"
    "step_factor(n, p, (double*)p, p);",
}
ARCHITECTURES = [pytest.param(80, marks=pytest.mark.slow), 90]
NVCC = next(iter(cuda_home.installed()), None)


def compile_kernels(text: str, standard: str, architecture: int, folder: Path) -> list[int]:
    """Registers of each kernel of a source, none of which spills."""
    source = folder / "kernels.cu"
    source.write_text(text)
    command = [str(NVCC), f"-std={standard}", "--use_fast_math", "-w", f"-arch=compute_{architecture}"]
    command += [f"-code=sm_{architecture}", "-Xptxas", "-v", f"-I{KERNELS}", "-c", str(source)]
    done = subprocess.run([*command, "-o", str(folder / "kernels.o")], capture_output=True, text=True)
    pattern = r"(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers"
    kernels = re.findall(pattern, done.stderr, re.DOTALL)
    assert done.returncode == 0 and all(stores == loads == "0" for stores, loads, _ in kernels), done.stderr
    return [int(registers) for *_, registers in kernels]


@pytest.mark.skipif(NVCC is None, reason="no nvcc")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("variant,standard", MAIN)
def test_main_kernels_compile_without_spills(variant: str, standard: str, architecture: int, tmp_path: Path) -> None:
    element = variant.split(",")[0]
    text = (
        '#include "attention_calls.cuh"\nusing namespace jseg;\n'
        f"template void jseg::attention_forward<{variant}>(ForwardArguments<{element}>);\n"
        f"template void jseg::attention_backward<{variant}>(BackwardArguments<{element}>);\n"
    )
    kernels = compile_kernels(text, standard, architecture, tmp_path)
    # blocks at once, as the launch bounds ask
    assert len(kernels) == 3 and all(REGISTERS // (registers * THREADS) >= 2 for registers in kernels)


@pytest.mark.skipif(NVCC is None, reason="no nvcc")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("header", PASSES)
def test_other_kernels_leave_room_for_many_threads(header: str, architecture: int, tmp_path: Path) -> None:
    """1024 threads of a multiprocessor at once, which hide the time that memory takes."""
    text = f'''#include "{header}"
        using namespace jseg;
        struct Names {{ double operator()(const char*) const; }};
        {"typedef Float32 X; typedef BFloat16 Y;" * (header == "layers.cuh")}
        void all(Names n, float* p, int32_t* i) {{ {PASSES[header]} }}'''
    kernels = compile_kernels(text, "c++14" if architecture == 80 else "c++17", architecture, tmp_path)
    assert len(kernels) == {"layers.cuh": 4, "losses.cuh": 4, "optimizer.cuh": 3}[header]
    assert all(registers <= REGISTERS // 1024 for registers in kernels)
