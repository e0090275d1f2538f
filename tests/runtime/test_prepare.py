"""Tests of the environment that is set before Jittor is imported."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

prepare_module = importlib.import_module("jseg.runtime.prepare")
onednn = importlib.import_module("jseg.runtime.onednn")
VARIABLES = ("JITTOR_HOME", "JSEG_CACHE", "XDG_CACHE_HOME", "nvcc_path", "use_mkl", "kernel_flags", "cache_name",
             "log_silent", "GOMP_SPINCOUNT", "CUDA_VISIBLE_DEVICES", *prepare_module.CUDA_VARIABLES)  # fmt: skip


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


def pretend(monkeypatch: pytest.MonkeyPatch, driver: bool, nvcc: str, version: tuple[int, int] | None) -> None:
    """Fakes what is found of CUDA."""
    monkeypatch.setattr(prepare_module, "has_driver_library", lambda: driver)
    monkeypatch.setattr(prepare_module, "has_gpu_device", lambda: driver)
    monkeypatch.setattr(prepare_module, "find_nvcc", lambda: nvcc)
    monkeypatch.setattr(prepare_module, "nvcc_version", lambda _: version)


def test_everything_jittor_reads_is_set(fresh: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, driver=False, nvcc="/usr/local/cuda/bin/nvcc", version=(12, 4))
    found = fresh()
    assert found.problem == ""
    assert os.environ["JITTOR_HOME"] == str(tmp_path / "cache" / "jittor") == str(found.jittor_home)
    assert os.environ["nvcc_path"] == ""  # nvcc without a driver would abort Jittor
    assert "no NVIDIA driver" in found.cuda_note
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


@pytest.mark.parametrize(
    ("driver", "nvcc", "version", "used", "note"),
    [
        (True, "/cuda/bin/nvcc", (12, 4), "/cuda/bin/nvcc", ""),
        (True, "/cuda/bin/nvcc", (11, 8), "/cuda/bin/nvcc", ""),
        (True, "/cuda/bin/nvcc", (13, 0), "", "is CUDA 13.0"),
        (True, "/cuda/bin/nvcc", None, "", "does not run"),
        (True, "", None, "", "no nvcc"),
        (False, "/cuda/bin/nvcc", (12, 4), "", "no NVIDIA driver"),
    ],
)
def test_cuda_is_used_only_where_it_works(
    fresh: Callable,
    monkeypatch: pytest.MonkeyPatch,
    driver: bool,
    nvcc: str,
    version: tuple[int, int] | None,
    used: str,
    note: str,
) -> None:
    pretend(monkeypatch, driver, nvcc, version)
    found = fresh()
    assert os.environ["nvcc_path"] == found.nvcc == used
    assert note in found.cuda_note
    assert bool(found.cuda_note) != bool(used)
    for name in prepare_module.CUDA_VARIABLES:  # Jittor would download these libraries
        assert (name in os.environ) == bool(used)


@pytest.mark.parametrize(
    ("name", "value"), [("nvcc_path", ""), ("CUDA_VISIBLE_DEVICES", ""), ("CUDA_VISIBLE_DEVICES", "-1")]
)
def test_gpu_can_be_declined(fresh: Callable, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    pretend(monkeypatch, driver=True, nvcc="/cuda/bin/nvcc", version=(12, 4))
    monkeypatch.setenv(name, value)
    found = fresh()
    assert found.nvcc == ""
    assert name in found.cuda_note


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


def test_nvcc_version_is_read(tmp_path: Path) -> None:
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 12.4, V12.4.131'\n")
    nvcc.chmod(0o755)
    assert prepare_module.nvcc_version(str(nvcc)) == (12, 4)
    nvcc.write_text("#!/bin/sh\nexit 3\n")
    assert prepare_module.nvcc_version(str(nvcc)) is None
    assert prepare_module.nvcc_version(str(tmp_path / "none")) is None


def test_import_of_jseg_imports_no_jittor_and_survives_an_unusable_cache() -> None:
    code = "import sys, jseg; print(sorted({'jittor', 'jittor_utils', 'torch', 'numpy'} & set(sys.modules)))"
    environment = {**os.environ, "JSEG_CACHE": "/dev/null/cache", "PYTHONPATH": str(Path(__file__).parents[2])}
    environment.pop("JITTOR_HOME", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
