"""Tests of the precompiled headers: the compiler takes them for kernels and for Jittor's core."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import jittor as jt
import pytest
from jittor import compiler


@pytest.mark.parametrize("name", ["kernels", "core"])
def test_compiler_takes_the_precompiled_header(name: str, tmp_path: Path) -> None:
    folder = Path(jt.flags.cache_path) / "jseg.h.gch"
    assert sorted(path.name for path in folder.iterdir()) == ["core", "kernels"]
    source = tmp_path / "kernel.cc"
    kernel = (
        "#define JIT 1\n#define JIT_cpu 1\n#include <cmath>\n" if name == "kernels" else ""
    )  # as Jittor writes them
    source.write_text(kernel + '#include "var.h"\n')
    flags = jt.flags.cc_flags if name == "kernels" else compiler.cc_flags + compiler.opt_flags
    command = [os.environ["cc_path"], *shlex.split(flags), "-H", "-fsyntax-only", str(source)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert f"! {folder / name}" in shown.splitlines()  # GCC's sign for a precompiled header that is used
    assert "var.h" not in shown.replace("jseg.h", "")  # so it is not read again
