"""Tests of the folder for compiled files and of what lies in it."""

import platform
import shutil
import sysconfig
from pathlib import Path

import pytest

from jseg.runtime import toolchain


def test_compile_cache_is_named_by_what_decides_if_files_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, ahead = toolchain.compile_cache(tmp_path), toolchain.compiled_ahead(tmp_path)
    monkeypatch.setattr(platform, "node", lambda: "another")
    assert toolchain.compile_cache(tmp_path) == before
    for name in ("package_version", "jittor_folder", "output_of"):
        with monkeypatch.context() as changed:
            changed.setattr(toolchain, name, lambda *_: "another")
            assert toolchain.compile_cache(tmp_path) not in (before, ahead)
    ahead.mkdir(parents=True)
    monkeypatch.setattr(toolchain, "X86_64_V3", {"an instruction that no CPU has"})
    assert toolchain.compile_cache(tmp_path) == before
    monkeypatch.setattr(toolchain, "X86_64_V3", set())
    assert toolchain.compile_cache(tmp_path) == ahead


def test_python_headers_of_the_cache_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert toolchain.python_headers(tmp_path) == sysconfig.get_path("include")
    monkeypatch.setattr(sysconfig, "get_path", lambda _: "/nowhere")
    assert toolchain.python_headers(tmp_path) == ""
    (tmp_path / toolchain.HEADERS).mkdir()
    (tmp_path / toolchain.HEADERS / "Python.h").write_text("")
    assert toolchain.python_headers(tmp_path) == str(tmp_path / toolchain.HEADERS)


def test_cut_libraries_are_removed(tmp_path: Path) -> None:
    whole = next(Path(sysconfig.get_config_var("DESTSHARED")).glob("_*.so"))
    shutil.copy(whole, tmp_path / "whole.so")
    for cut in (0, 40, 64, -1):
        (tmp_path / f"cut{cut}.so").write_bytes(whole.read_bytes()[:cut])
    (tmp_path / "jit").mkdir()
    (tmp_path / "jit" / "kernel.so").write_bytes(b"")  # Jittor's own error names these
    toolchain.remove_cut_libraries(tmp_path)
    assert {path.name for path in tmp_path.rglob("*.so")} == {"whole.so", "kernel.so"}
