"""Attention by the CUDA kernels of jseg/ops/kernels, run on the CPU by emulation.h, on NumPy arrays."""

import ctypes
import os
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

HERE = Path(__file__).parent
KERNELS = HERE.parents[1] / "jseg/ops/kernels"
ORDERS = range(4)  # emulation::Order
TYPES = {"Float32": torch.float32, "TensorFloat32": torch.float32, "BFloat16": torch.bfloat16, "Float16": torch.float16}
FULL, CAUSAL, REGIONS = range(3)


@cache
def compile_library(source: str, folder: Path, options: tuple[str, ...]) -> ctypes.CDLL:
    """Compiles a file of this folder with the kernels at hand."""
    target = folder / ("_".join([Path(source).stem, *options]).replace("=", "_") + ".so")
    command = [os.environ.get("cc_path", "g++"), "-std=c++17", "-O2", "-Wall", "-Werror", "-Wno-unknown-pragmas"]
    command += ["-fsanitize=alignment", "-fno-sanitize-recover", "-fno-strict-aliasing", "-shared", "-fPIC"]
    command += ["-DJSEG_EMULATION", f"-I{HERE}", f"-I{KERNELS}"]
    subprocess.run([*command, *options, str(HERE / source), "-o", str(target)], check=True)
    return ctypes.CDLL(str(target))


class Library:
    """Runs kernels; tensors are torch tensors on the CPU."""

    def __init__(self, library: ctypes.CDLL, offset: int = 0, order: int = 0) -> None:
        """`offset`: numbers by which the start of every tensor misses an alignment of 16 bytes."""
        self.library, self.offset, self.order = library, offset, order
        self.barriers = self.waits = True  # False: they do nothing, to see that their absence is noticed

    def run(
        self, kind: str, numbers: dict[str, float], inputs: Sequence[Tensor], outputs: Sequence[Tensor], kept: int = 0
    ) -> list[Tensor]:
        """Runs a function by its name; it changes the last `kept` outputs and writes the others."""
        names = (ctypes.c_char_p * len(numbers))(*(name.encode() for name in numbers))
        values = (ctypes.c_double * len(numbers))(*numbers.values())
        inputs = [x.contiguous() for x in inputs]

        def places(tensors: Sequence[Tensor]) -> tuple:
            count = len(tensors)
            sizes = (ctypes.c_size_t * count)(*(x.numel() * x.element_size() for x in tensors))
            offsets = (ctypes.c_size_t * count)(*(self.offset * x.element_size() for x in tensors))
            return count, (ctypes.c_void_p * count)(*(x.data_ptr() for x in tensors)), sizes, offsets

        self.library.run(
            kind.encode(), len(numbers), names, values, *places(inputs), *places(outputs),
            kept, self.order, int(self.barriers), int(self.waits),
        )  # fmt: skip
        return list(outputs)


class Emulation(Library):
    """Attention kernels of one number type and depth."""

    def __init__(self, number_type: str, depth: int, folder: Path, offset: int = 0, order: int = 0) -> None:
        self.type, self.depth = TYPES[number_type], depth
        options = f"-DTYPE_X={number_type}", f"-DTYPE_Y={(depth + 15) // 16 * 16}"
        super().__init__(compile_library("attention_calls.cpp", folder, options), offset, order)

    def joint(
        self, projected: Tensor, prompts: Tensor | None, heads: int, mask: int, structure: tuple, grad_out: Tensor,
        frozen: bool = False,
    ) -> list[Tensor]:  # fmt: skip
        """Output and gradients of `projected` (unless `frozen`) and `prompts`; structure: leading, grids."""
        batch, length, width = projected.shape[0], projected.shape[1], projected.shape[2] // 3
        names = ("leading", "rows", "columns", "region_rows", "region_columns")
        numbers = {"batch": batch, "heads": heads, "depth": self.depth, "tokens": length, "mask": mask}
        numbers |= {"prompts": 0, "shared": 0, "frozen": frozen, **dict(zip(names, structure, strict=True))}
        if prompts is not None:
            numbers |= {"prompts": prompts.shape[1], "shared": prompts.shape[0] < batch}
        inputs = [projected, torch.empty(1, dtype=self.type) if prompts is None else prompts]
        results = self._both("joint", numbers, inputs, grad_out, (batch, length, width), inputs)
        return results if prompts is not None else results[:2]

    def cross(self, qkv: list[Tensor], heads: int, grad_out: Tensor, dropout: float, seed: int) -> list[Tensor]:
        """Output and gradients of q, k and v."""
        q, k, _ = qkv
        numbers = {"batch": len(q), "heads": heads, "depth": self.depth, "queries": q.shape[1], "keys": k.shape[1]}
        inputs = [*qkv, torch.tensor([seed])]
        return self._both("cross", numbers | {"dropout": dropout}, inputs, grad_out, q.shape, qkv)

    def _both(
        self, kind: str, numbers: dict, inputs: list, grad_out: Tensor, shape: Sequence[int], trained: list
    ) -> list[Tensor]:
        """Output of this shape, and the gradients of `trained`."""
        outputs = [torch.empty(shape, dtype=self.type), torch.empty((shape[0], numbers["heads"], shape[1]))]
        out, log_sums = self.run(f"{kind}_forward", numbers, inputs, outputs)
        gradients = [torch.empty_like(x) for x in (*trained, log_sums)]
        return [out, *self.run(f"{kind}_backward", numbers, [*inputs, out, log_sums, grad_out], gradients)[:-1]]
