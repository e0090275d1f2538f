"""Tests of the environment that is set before Jittor is imported."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jseg.runtime import cuda as cuda_home

prepare_module = importlib.import_module("jseg.runtime.prepare")
onednn = importlib.import_module("jseg.runtime.prepare")
VARIABLES = ("JITTOR_HOME", "JSEG_CACHE", "XDG_CACHE_HOME", "nvcc_path", "use_mkl", "kernel_flags", "cache_name",
             "log_silent", "GOMP_SPINCOUNT", "JSEG_CUDA_HOME", *prepare_module.CUDA_VARIABLES)  # fmt: skip


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], prepare_module.Preparation]:
    """Runs `prepare` as in a new process with the cache `tmp_path / "cache"`; the environment is put back later."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that what `prepare` sets is undone, too
        monkeypatch.delenv(name)
    monkeypatch.setenv("JSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setattr(prepare_module, "_prepared", None)
    return prepare_module.prepare


TOOLKIT = cuda_home.Toolkit(Path("/cuda/bin/nvcc"), Path("/cuda"), (12, 4), (), ())


def test_everything_jittor_reads_is_set(fresh: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_home, "choose", lambda: (None, "no NVIDIA driver (install it)"))
    found = fresh()
    assert found.problem == ""
    assert os.environ["JITTOR_HOME"] == str(tmp_path / "cache" / "jittor") == str(found.jittor_home)
    assert os.environ["nvcc_path"] == ""  # nvcc without a driver would abort Jittor
    assert found.cuda_note == "no NVIDIA driver (install it)"
    assert not set(prepare_module.CUDA_VARIABLES) & set(os.environ)
    assert "-fno-finite-math-only" in os.environ["kernel_flags"]
    assert os.environ["cache_name"] == "jseg"
    assert os.environ["log_silent"] == "1"
    assert os.environ["GOMP_SPINCOUNT"] == prepare_module.SPIN_COUNT
    assert prepare_module.prepare() is found


def test_variables_of_the_user_are_kept(fresh: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JITTOR_HOME", str(tmp_path / "mine with a space"))
    monkeypatch.setenv("kernel_flags", " -O1 ")
    monkeypatch.setenv("use_mkl", "1")
    found = fresh()
    assert found.jittor_home == tmp_path / "mine with a space"
    assert found.jittor_home.is_dir()
    assert os.environ["kernel_flags"] == " -O1 "
    assert "cache_name" not in os.environ  # ours is for kernels built with our flags
    assert os.environ["use_mkl"] == "1"


def test_toolkit_that_was_chosen_is_passed_on(fresh: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_home, "choose", lambda: (TOOLKIT, ""))
    found = fresh()
    assert found.toolkit == TOOLKIT
    assert os.environ["JSEG_CUDA_HOME"] == "/cuda"  # child processes choose the same one
    assert os.environ["nvcc_path"] == ""
    for name in prepare_module.CUDA_VARIABLES:  # Jittor would download these libraries
        assert name in os.environ


def test_missing_onednn_is_said_and_not_downloaded(fresh: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "installed_files", lambda _: [])
    found = fresh()
    assert os.environ["use_mkl"] == "0"
    assert found.problem == ""
    assert any("pip install onednn-cpu-gomp==2021.2.0" in note for note in found.notes)


def test_unwritable_cache_folder_is_one_line(fresh: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JSEG_CACHE", str(tmp_path / "file" / "cache"))
    found = fresh()
    assert str(tmp_path / "file" / "cache") in found.problem
    assert "JSEG_CACHE" in found.problem
    assert "\n" not in found.problem


def test_read_only_cache_folder_is_found(fresh: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "cannot write the cache folder" in fresh().problem


def test_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("JSEG_CACHE", "~/cache")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert prepare_module.cache_folder() == Path("/home/somebody/cache")
    monkeypatch.delenv("JSEG_CACHE")
    assert prepare_module.cache_folder() == Path("/xdg/jseg")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert prepare_module.cache_folder() == Path("/home/somebody/.cache/jseg")


def test_import_of_jseg_imports_no_jittor_and_survives_an_unusable_cache() -> None:
    code = "import sys, jseg; print(sorted({'jittor', 'jittor_utils', 'torch', 'numpy'} & set(sys.modules)))"
    environment = {**os.environ, "JSEG_CACHE": "/dev/null/cache", "PYTHONPATH": str(Path(__file__).parents[2])}
    environment.pop("JITTOR_HOME", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
