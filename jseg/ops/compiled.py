"""Calls the kernels of jseg/ops/kernels, which Jittor compiles for this machine when they are first used.

C++ kernels (`*.h`) run on CPU, CUDA kernels (`*.cuh`) on GPUs that have them. Where an operator has no kernel for the
device, or with the environment variable `JSEG_KERNELS=plain`, the same formulae run as plain Jittor operators;
`implementation()` says which of the two runs.
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
VARIABLE = "JSEG_KERNELS"
CHOICES = ("auto", "plain")
CUDA_ARCHITECTURE = 80  # the oldest that the CUDA kernels are written for: mma.sync on bfloat16, cp.async


def implementation(cuda: bool = False) -> str:
    """`compiled` or `plain`: what an operator of this package runs on now.

    Args:
        cuda: whether the operator has a CUDA kernel for its inputs; all have a C++ one.

    Raises:
        UserError: `JSEG_KERNELS` is set to something unknown.
    """
    choice = os.environ.get(VARIABLE, "auto")
    if choice not in CHOICES:
        raise UserError(f"{VARIABLE}={choice!r}: choose from {', '.join(CHOICES)}")
    if choice == "auto" and jt.flags.use_cuda:
        cuda = cuda and min(jt.flags.cuda_archs, default=0) >= CUDA_ARCHITECTURE
    return "compiled" if choice == "auto" and (cuda or not jt.flags.use_cuda) else "plain"


def compiled(cuda: bool = False) -> bool:
    """Whether a compiled kernel runs; `cuda` as in `implementation`."""
    return implementation(cuda) == "compiled"


def _with_included(name: str) -> set[str]:
    """Names of a kernel file and of all files of the same folder that it includes."""
    included = re.findall(r'^#include "(.+)"', (FOLDER / name).read_text(), re.MULTILINE)
    return {name}.union(*map(_with_included, included))


@lru_cache
def _laid_out(name: str) -> tuple[str, Path]:
    """Hash of a kernel file with its includes, and a folder of the cache that holds a copy of these files.

    Jittor compiles again when the path of an included file changes: with copies, all checkouts of the same kernels
    share the compiled programs.
    """
    texts = {included: (FOLDER / included).read_bytes() for included in sorted(_with_included(name))}
    version = hashlib.sha256(b"".join(texts.values())).hexdigest()[:15]
    folder = cache_folder() / "kernels" / version
    for included, text in texts.items():
        if not (folder / included).exists():
            write_whole(folder / included, text)
    return version, folder


def call(
    header: str,
    function: str,
    inputs: Sequence[jt.Var],
    shapes: Sequence[Sequence[int]],
    numbers: dict[str, float] | None = None,
    dtypes: Sequence[str] | None = None,
    cuda: tuple[str, str] | None = None,
) -> list[jt.Var]:
    """Runs `function(number, inputs…, outputs…)` of a kernel file, all pointers; `number("name")` is one of `numbers`.

    Args:
        header: name of a C++ file of jseg/ops/kernels.
        function: name of one of its functions, with template arguments if it has any.
        inputs: of the types that the kernel takes; on CPU float32 or int32.
        shapes: of the outputs; the function sets every element of them.
        dtypes: of the outputs, float32 by default.
        cuda: header and function likewise for CUDA; the function runs on the host and launches.

    Returns:
        The outputs.
    """
    device, (name, function) = ("cuda", cuda) if jt.flags.use_cuda and cuda else ("cpu", (header, function))
    version, folder = _laid_out(name)
    pointers = [f"in{i}_p" for i in range(len(inputs))] + [f"out{i}_p" for i in range(len(shapes))]
    # the version makes Jittor compile again when the kernels change
    source = f"""using namespace jseg; constexpr int64 version = 0x{version}; (void)version;
        {function}([&](const char* name) {{ return data[name]; }}, {", ".join(pointers)});"""
    with jt.flag_scope(compile_options={f'FLAGS: -I"{folder}" ': 1}):
        outputs = jt.code(
            [list(shape) for shape in shapes],
            list(dtypes or ["float32"] * len(shapes)),
            list(inputs),
            data={key: float(value) for key, value in (numbers or {}).items()},
            **{f"{device}_header": f'#include "{name}"\n', f"{device}_src": source},
        )
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
