"""Tests of what is set before Jittor is imported: environment, oneDNN, and what Jittor needs to compile."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from jseg.runtime import cuda, prepare, toolchain

VARIABLES = ("JITTOR_HOME", "JSEG_CACHE", "XDG_CACHE_HOME", "nvcc_path", "use_mkl", "kernel_flags", "cache_name",
             "log_silent", "GOMP_SPINCOUNT", "JSEG_CUDA_HOME", "OMP_NUM_THREADS",
             *prepare.CUDA_VARIABLES)  # fmt: skip
TOOLKIT = cuda.Toolkit(Path("/cuda/bin/nvcc"), Path("/cuda"), (12, 4), (), ())


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], prepare.Preparation]:
    """Runs `prepare` as in a new process with the cache `tmp_path / "cache"`; the environment is put back later."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that what `prepare` sets is undone, too
        monkeypatch.delenv(name)
    monkeypatch.setenv("JSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    return prepare.prepare.__wrapped__


def test_everything_jittor_reads_is_set(fresh: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "choose", lambda: (None, "no NVIDIA driver (install it)"))
    found = fresh()
    assert (found.problem, found.cuda_note) == ("", "no NVIDIA driver (install it)")
    assert os.environ["JITTOR_HOME"] == str(tmp_path / "cache" / "jittor") == str(found.jittor_home)
    assert os.environ["nvcc_path"] == ""  # nvcc without a driver would abort Jittor
    assert not set(prepare.CUDA_VARIABLES) & set(os.environ)
    assert "-fno-finite-math-only" in os.environ["kernel_flags"]
    assert os.environ["cache_name"] == prepare.CACHE_NAME
    assert os.environ["log_silent"] == "1"


def test_variables_of_the_user_are_kept(fresh: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = {"JITTOR_HOME": str(tmp_path / "mine with a space"), "kernel_flags": " -O1 ", "use_mkl": "1"}
    for name, value in mine.items():
        monkeypatch.setenv(name, value)
    assert fresh().jittor_home.is_dir()
    assert {name: os.environ[name] for name in mine} == mine
    assert "cache_name" not in os.environ  # ours is for kernels built with our flags


def test_more_threads_than_cores_are_capped(fresh: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "100000")
    fresh()
    assert os.environ["OMP_NUM_THREADS"] == str(len(os.sched_getaffinity(0)))


def test_toolkit_that_was_chosen_is_passed_on(fresh: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "choose", lambda: (TOOLKIT, ""))
    assert fresh().toolkit == TOOLKIT
    assert os.environ["JSEG_CUDA_HOME"] == "/cuda"  # child processes choose the same one
    assert os.environ["nvcc_path"] == ""
    assert set(prepare.CUDA_VARIABLES) <= set(os.environ)  # Jittor would download these libraries


def test_unusable_cache_folder_is_one_line(fresh: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as read_only:
        read_only.setattr(os, "access", lambda *_: False)
        assert "cannot write the cache folder" in fresh().problem
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JSEG_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.delenv("JITTOR_HOME")
    assert f"{tmp_path}/file/cache/jittor: set JSEG_CACHE" in fresh().problem


def test_import_of_jseg_imports_no_jittor_and_survives_an_unusable_cache() -> None:
    code = "import sys, jseg; print(sorted({'jittor', 'jittor_utils', 'torch', 'numpy'} & set(sys.modules)))"
    environment = {**os.environ, "JSEG_CACHE": "/dev/null/cache", "PYTHONPATH": str(Path(__file__).parents[2])}
    environment.pop("JITTOR_HOME", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def make_onednn(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes the files that oneDNN's two wheels bring below `root`, as if pip had installed them."""
    libraries, headers = ("lib/libmkldnn.so", "lib/libdnnl.so.2"), ("include/dnnl.hpp", "include/oneapi/dnnl/dnnl.h")
    for name in (*libraries, *headers, "doc/LICENSE"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(str(root))
    files = dict(zip(prepare.ONEDNN_PACKAGES, ((*libraries, "doc/LICENSE"), headers), strict=True))
    monkeypatch.setattr(prepare, "installed_files", lambda package: [root / name for name in files[package]])


def test_onednn_lies_where_jittor_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home with space"
    folder = home / ".cache" / "jittor" / "mkl" / "dnnl_lnx_2.2.0_cpu_gomp"
    for name in ("env include", "another"):  # links follow the environment
        make_onednn(tmp_path / name, monkeypatch)
        assert prepare.lay_out_onednn(home)
        assert prepare.lay_out_onednn(home)  # nothing to do the second time
        assert (folder / "lib" / "libmkldnn.so").read_text() == str(tmp_path / name)
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {"lib/libmkldnn.so", "lib/libdnnl.so.2", "include/dnnl.hpp", "include/oneapi/dnnl/dnnl.h"}
    (tmp_path / "another/lib/libmkldnn.so").unlink()  # links of an environment that was removed do not count
    monkeypatch.setattr(prepare, "installed_files", lambda _: [])
    assert not prepare.lay_out_onednn(home)


@pytest.mark.parametrize(("name", "value", "words"), [
    ("jittor_folder", "", "pip install jittor==1.3.11.0"),
    ("jittor_folder", "/home/a b/lib/jittor", "/home/a b/lib/jittor"),
    ("package_version", "2.1.3", "NumPy 2.1.3: pip install 'numpy<2'"),
    ("find_compiler", "", "apt-get install g++"),
    ("find_compiler", "/dev/null", "apt-get install g++"),
    ("python_headers", "", "-dev"),
])  # fmt: skip
def test_missing_parts_come_with_a_remedy(monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str) -> None:
    there = {"jittor_folder": "/venv/lib/jittor", "package_version": "1.26.4", "find_compiler": sys.executable,
             "python_headers": "/usr/include/python3.11"}  # fmt: skip
    for function, found in there.items():
        monkeypatch.setattr(toolchain, function, lambda *_, found=found: found)
    assert toolchain.problem(Path("cache")) == ""
    monkeypatch.setitem(sys.modules, "numpy", SimpleNamespace(__version__="2.2"))  # one that pip does not know of
    assert "cannot use NumPy 2.2" in toolchain.problem(Path("cache"))
    monkeypatch.delitem(sys.modules, "numpy")
    monkeypatch.setattr(toolchain, name, lambda *_: value)
    assert words in toolchain.problem(Path("cache"))
    assert "\n" not in toolchain.problem(Path("cache"))


@pytest.mark.parametrize("sign", ["'", "$", "\\", ",", ">"])
def test_a_cache_whose_path_is_no_word_for_a_shell_is_refused(tmp_path: Path, sign: str) -> None:
    folder = tmp_path / f"a{sign}b"
    code = "from jseg.runtime.command_line import run; from jseg.runtime.start import start; run(lambda: start('cpu'))"
    environment = {**os.environ, "JSEG_CACHE": str(folder), "PYTHONPATH": str(Path(__file__).parents[2])}
    environment.pop("JITTOR_HOME", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and not list(folder.rglob("*core*"))
    assert f"error: Jittor cannot compile in a path with {sign} ({folder}/jittor/" in done.stderr
