"""Tests of the precompiled headers: the compiler takes them for kernels and for Jittor's core."""

import os
import shlex
import subprocess
from pathlib import Path

import jittor as jt
import pytest
from jittor import compiler

from jseg.runtime import precompiled


@pytest.mark.parametrize("name", ["kernels", "core"])
def test_compiler_takes_the_precompiled_header(name: str, tmp_path: Path) -> None:
    folder = Path(jt.flags.cache_path) / "jseg.h.gch"
    assert sorted(path.name for path in folder.iterdir()) == ["core", "kernels"]
    source = tmp_path / "kernel.cc"
    kernel = "#define JIT 1\n#define JIT_cpu 1\n#include <cmath>\n"  # as Jittor writes them
    source.write_text(f'{kernel if name == "kernels" else ""}#include "var.h"\n')
    flags = jt.flags.cc_flags if name == "kernels" else compiler.cc_flags + compiler.opt_flags
    command = [os.environ["cc_path"], *shlex.split(flags), "-H", "-fsyntax-only", str(source)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert f"! {folder / name}" in shown.splitlines()  # GCC's sign for a precompiled header that is used
    assert "var.h" not in shown.replace("jseg.h", "")  # so it is not read again


def test_another_header_is_precompiled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("cc_path", "true")  # a compiler that does nothing
    loaded, old = tmp_path / "jit_utils_core.so", tmp_path / "jseg.h.gch" / "old"
    for text, remains in (("of another version", False), (None, True)):
        if text:
            (tmp_path / "jseg.h").write_text(text)
        old.parent.mkdir(exist_ok=True)
        for path in (loaded, old):
            path.touch()
        flags = precompiled.lay_out(tmp_path, tmp_path, None, "native", compile_now=False)
        assert flags.split() == ["-include", f'"{tmp_path / "jseg.h"}"']
        assert (tmp_path / "jseg.h").read_text() == precompiled.TEXT
        assert (loaded.exists(), old.exists()) == (remains, remains) and old.parent.is_dir()
