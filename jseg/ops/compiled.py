"""Calls the kernels of jseg/ops/kernels, which Jittor compiles for this machine when they are first used.

C++ kernels (`*.h`) run on CPU, CUDA kernels (`*.cuh`) on GPUs that have them. Elsewhere, or with the environment
variable `JSEG_KERNELS=plain`, the same formulae run as plain Jittor operators.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import jittor as jt

from jseg.errors import UserError
from jseg.files import cache_folder, write_whole

FOLDER = Path(__file__).parent / "kernels"
CUDA_ARCHITECTURE = 80  # the oldest that the CUDA kernels are written for: mma.sync on bfloat16, cp.async
CUDA_TYPES = {"float32": "Float32", "bfloat16": "BFloat16", "float16": "Float16"}  # their names of number types


def compiled(cuda: bool = False) -> bool:
    """Whether an operator runs on a kernel now; `cuda`: it has a CUDA kernel for its inputs (all have a C++ one)."""
    choice = os.environ.get("JSEG_KERNELS", "auto")
    if choice not in ("auto", "plain"):
        raise UserError(f"JSEG_KERNELS={choice!r}: choose from auto, plain")
    if jt.flags.use_cuda:
        cuda = cuda and min(jt.flags.cuda_archs, default=0) >= CUDA_ARCHITECTURE
    return choice == "auto" and (cuda or not jt.flags.use_cuda)


def _with_included(name: str) -> set[str]:
    """Names of a kernel file and of all files of the same folder that it includes."""
    included = re.findall(r'^#include "(.+)"', (FOLDER / name).read_text(), re.MULTILINE)
    return {name}.union(*map(_with_included, included))


@lru_cache
def _laid_out(name: str) -> Path:
    """A cache folder with copies of a kernel file and its includes, named by their hash: checkouts share programs."""
    texts = {included: (FOLDER / included).read_bytes() for included in sorted(_with_included(name))}
    version = hashlib.sha256(b"".join(texts.values())).hexdigest()[:15]
    folder = cache_folder() / "kernels" / version
    for included, text in texts.items():
        if not (folder / included).exists():
            write_whole(folder / included, text)
    return folder


@lru_cache(maxsize=1000)
def _program(device: str, name: str, function: str, inputs: int, outputs: int, tensors: bool) -> dict[str, str]:
    """Header and source for `jt.code` that call a function of a kernel file."""
    pointers = [f"in{i}_p" for i in range(inputs)] + [f"out{i}_p" for i in range(outputs)]
    listing = ""
    if tensors:
        pointers.insert(0, "tensors")
        listing = f"""Tensors tensors; for (Var* var : inputs()) tensors.push_back({{var->mem_ptr, var->num,
                var->dtype() == ns_bfloat16 ? BFLOAT16 : var->dtype() == ns_float16 ? FLOAT16 : FLOAT32}});
            tensors.erase(tensors.begin(), tensors.begin() + {inputs});"""
    source = f"""using namespace jseg; {listing}
        {function}([&](const char* name) {{ return data[name]; }}, {", ".join(pointers)});"""
    # in quotes, Jittor would look for included files itself
    return {f"{device}_header": f"#include <{_laid_out(name) / name}>\n", f"{device}_src": source}


def call(
    header: str,
    function: str,
    inputs: Sequence[jt.Var],
    shapes: Sequence[Sequence[int]],
    numbers: dict[str, float] | None = None,
    dtypes: Sequence[str] | None = None,
    cuda: tuple[str, str] | None = None,
    tensors: Sequence[jt.Var] = (),
) -> list[jt.Var]:
    """Runs `function(number, inputs…, outputs…)` of a kernel file, all pointers; `number("name")` is one of `numbers`.

    `shapes` and `dtypes` (default float32) are those of the outputs; `cuda`: header and function that launch on CUDA.
    `tensors`: any number of Vars, which the function gets after `number` as a list, and may change. Jittor does not
    know that they change, so all that reads their old values is started first; on CUDA it need not have ended.
    """
    device, (name, function) = ("cuda", cuda) if jt.flags.use_cuda and cuda else ("cpu", (header, function))
    if tensors:  # no inputs of `jt.code`, by whose number and shapes Jittor would compile a kernel for each model
        jt.sync(list(tensors))
        jt.sync_all()
    outputs = jt.code(
        [list(shape) for shape in shapes],
        list(dtypes or ["float32"] * len(shapes)),
        list(inputs),
        data={key: float(value) for key, value in (numbers or {}).items()},
        **_program(device, name, function, len(inputs), len(shapes), bool(tensors)),
    )
    outputs = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
    if tensors:
        outputs[0]._add_dependency(list(tensors))
    return outputs
