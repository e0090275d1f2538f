"""`jseg.ops.compiled.call` with the CUDA kernels run by emulation.h: operators run as on a GPU, but for cuBLAS."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jittor as jt
import pytest
import torch

from jseg.engine import optimizer
from jseg.model import losses
from jseg.ops import compiled, layers
from jseg.ops.half import cast, is_half, widen
from tests.cuda_emulation.emulated_attention import Library, compile_library

KINDS = ("float32", "bfloat16", "float16")  # as numbered in optimizer_rule.h


class _Jittor:
    """Jittor whose flags say that CUDA is used."""

    class flags:
        use_cuda, use_tensorcore, cuda_archs = 1, 0, [90]
        no_grad = False

    def __getattr__(self, name: str) -> Any:
        return getattr(jt, name)


def to_torch(x: jt.Var) -> torch.Tensor:
    """A Var of any type on the CPU as a tensor of the same type."""
    return torch.from_numpy((widen(x) if is_half(x) else x).numpy()).to(getattr(torch, str(x.dtype)))


def pretend_cuda(
    monkeypatch: pytest.MonkeyPatch, folder: Path, modules: Sequence[Any], offset: int, order: int
) -> None:
    """Has `modules` call CUDA kernels, in sums of few slices and blocks; offset and order as for `Library`."""
    run_on_cpu = compiled.call

    def call(
        header: str, function: str, inputs: list[jt.Var], shapes: list, numbers: dict, dtypes: Any = None,
        cuda: tuple[str, str] | None = None, tensors: Sequence[jt.Var] = (),
    ) -> list[jt.Var]:  # fmt: skip
        if cuda is None:  # conversions between number types
            return run_on_cpu(header, function, inputs, shapes, numbers, dtypes)
        name, *types = re.findall(r"\w+", cuda[1])
        options = tuple(f"-DTYPE_{letter}={kind}" for letter, kind in zip("XY", types, strict=False))
        library = Library(compile_library(cuda[0].replace(".cuh", ".cpp"), folder, options), offset, order)
        dtypes = dtypes or ["float32"] * len(shapes)
        outputs = [torch.empty(tuple(x), dtype=getattr(torch, dtype)) for x, dtype in zip(shapes, dtypes, strict=True)]
        changed = [to_torch(x) for x in tensors]
        kinds = {f"kind{i}": KINDS.index(str(x.dtype)) for i, x in enumerate(tensors)}
        library.run(name, numbers | kinds, [to_torch(x) for x in inputs], outputs + changed, len(changed))
        for variable, x in {id(x): (x, new) for x, new in reversed(list(zip(tensors, changed, strict=True)))}.values():
            variable.update(cast(jt.array(x.float().numpy()), str(variable.dtype)))  # the first place of each
        floats = [jt.array(x.float().numpy()) for x in outputs]
        return [x.int32() if dtype == "int32" else cast(x, dtype) for x, dtype in zip(floats, dtypes, strict=True)]

    for module in (compiled, *modules):
        monkeypatch.setattr(module, "jt", _Jittor())
    monkeypatch.setattr(compiled, "call", call)
    monkeypatch.setattr(layers, "SLICES", 3)
    monkeypatch.setattr(losses, "RECOVERY_BLOCKS", 3)
    monkeypatch.setattr(optimizer, "BLOCKS", 2)
