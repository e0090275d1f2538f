"""Calls the kernels of jseg/ops/kernels, which Jittor compiles for this machine when they are first used.

C++ kernels (`*.h`) run on CPU, CUDA kernels (`*.cuh`) on GPUs that have them. Where an operator has no kernel for the
device, or with the environment variable `JSEG_KERNELS=plain`, the same formulae run as plain Jittor operators;
`implementation()` tells which of the two it is.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import jittor as jt

from jseg.errors import UserError

FOLDER = Path(__file__).parent / "kernels"
VARIABLE = "JSEG_KERNELS"
CHOICES = ("auto", "plain")
CUDA_ARCHITECTURE = 80  # the oldest that the CUDA kernels are written for: mma.sync on bfloat16, cp.async


def implementation(cuda: bool = False) -> str:
    """`compiled` or `plain`: what an operator of this package runs on, as things stand.

    Args:
        cuda: whether the operator has a CUDA kernel for what it is given; all have a C++ one.

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


@lru_cache(maxsize=2)
def _version(files: str) -> str:
    """Hash of the kernel files whose names match `files`: edited ones are compiled anew."""
    texts = b"".join(path.read_bytes() for path in sorted(FOLDER.glob(files)))
    return hashlib.sha256(texts).hexdigest()[:15]


def _source(body: str, files: str) -> str:
    source = "using namespace jseg;\nconst auto number = [&](const char* name) { return data[name]; };\n(void)number;\n"
    return source + "\n".join([f"constexpr int64 kernels = 0x{_version(files)};", "(void)kernels;", body])


def call(
    header: str,
    body: str,
    inputs: Sequence[jt.Var],
    shapes: Sequence[Sequence[int]],
    numbers: dict[str, float] | None = None,
    dtypes: Sequence[str] | None = None,
    cuda: tuple[str, str] | None = None,
) -> list[jt.Var]:
    """Runs a kernel.

    Args:
        header: name of a C++ file of jseg/ops/kernels.
        body: C++ statements: `in0_p`, … and `out0_p`, … are pointers, `number("name")` is one of `numbers`.
        inputs: of the types that the kernel takes; on CPU float32 or int32.
        shapes: of the outputs; `body` sets every element of them.
        dtypes: of the outputs, float32 by default.
        cuda: header and body likewise for CUDA; its body runs on the host and launches.

    Returns:
        The outputs.
    """
    sources = {"cpu_header": f'#include "{header}"\n', "cpu_src": _source(body, "*.h")}
    if jt.flags.use_cuda and cuda is not None:
        sources = {"cuda_header": f'#include "{cuda[0]}"\n', "cuda_src": _source(cuda[1], "*.cuh")}
    with jt.flag_scope(compile_options={f"FLAGS: -I{FOLDER} ": 1}):
        outputs = jt.code(
            [list(shape) for shape in shapes],
            list(dtypes or ["float32"] * len(shapes)),
            list(inputs),
            data={name: float(value) for name, value in (numbers or {}).items()},
            **sources,
        )
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


def draw_seed() -> jt.Var:
    """(2,) float32 from Jittor's generator, whose bits seed a kernel's random numbers (`seed_of` in C++)."""
    return jt.random((2,)).stop_grad()
