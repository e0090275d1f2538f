"""Calls the C++ kernels of jseg/ops/kernels, which Jittor compiles for this machine when they are first used.

They run on CPU. On CUDA, or with the environment variable `JSEG_KERNELS=plain`, the same formulae run as plain Jittor
operators; `implementation()` tells which of the two it is.
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


def implementation() -> str:
    """`compiled` or `plain`: what the operators of this package run on, as things stand.

    Raises:
        UserError: `JSEG_KERNELS` is set to something unknown.
    """
    choice = os.environ.get(VARIABLE, "auto")
    if choice not in CHOICES:
        raise UserError(f"{VARIABLE}={choice!r}: choose from {', '.join(CHOICES)}")
    return "compiled" if choice == "auto" and not jt.flags.use_cuda else "plain"


def compiled() -> bool:
    """Whether the C++ kernels run."""
    return implementation() == "compiled"


@lru_cache(maxsize=1)
def _version() -> str:
    """Hash of all kernel files: edited ones are compiled anew."""
    texts = b"".join(path.read_bytes() for path in sorted(FOLDER.glob("*.h")))
    return hashlib.sha256(texts).hexdigest()[:15]


def call(
    header: str,
    body: str,
    inputs: Sequence[jt.Var],
    shapes: Sequence[Sequence[int]],
    numbers: dict[str, float] | None = None,
) -> list[jt.Var]:
    """Runs a kernel.

    Args:
        header: name of a file of jseg/ops/kernels.
        body: C++ statements: `in0_p`, … and `out0_p`, … are pointers, `number("name")` is one of `numbers`.
        inputs: float32 or int32.
        shapes: of the float32 outputs; `body` sets every element of them.

    Returns:
        The outputs.
    """
    source = "using namespace jseg;\nconst auto number = [&](const char* name) { return data[name]; };\n(void)number;\n"
    source += "\n".join([f"constexpr int64 kernels = 0x{_version()};", "(void)kernels;", body])
    with jt.flag_scope(compile_options={f"FLAGS: -I{FOLDER} ": 1}):
        outputs = jt.code(
            [list(shape) for shape in shapes],
            ["float32"] * len(shapes),
            list(inputs),
            cpu_header=f'#include "{header}"\n',
            cpu_src=source,
            data={name: float(value) for name, value in (numbers or {}).items()},
        )
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


def draw_seed() -> jt.Var:
    """(2,) float32 from Jittor's generator, whose bits seed a kernel's random numbers (`seed_of` in C++)."""
    return jt.random((2,)).stop_grad()
