"""Tests of the search for a CUDA toolkit, on toolkits that are made up: a script for nvcc, empty libraries."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib

from jseg.errors import UserError
from jseg.runtime import cuda, toolchain

ALL = tuple(cuda.PARTS)
NVCC = "#!/bin/sh\necho 'Cuda compilation tools, release {}.{}, V{}.{}.88'\n"


def make_toolkit(home: Path, version: tuple[int, int] = (13, 0), parts: tuple[str, ...] = ALL, **other: object) -> Path:
    """Makes a toolkit as NVIDIA's installers lay it out; `nvcc=False`, `npp=False`, `lib="lib"`, `gnu=11` change it."""
    include, library = home / "include", home / str(other.get("lib", "lib64"))
    for folder in (home / "bin", include / "crt", library):
        folder.mkdir(parents=True, exist_ok=True)
    if other.get("nvcc", True):
        nvcc = home / "bin" / "nvcc"
        nvcc.write_text(NVCC.format(*version, *version))
        nvcc.chmod(0o755)
    if other.get("npp", True):
        (include / "npp.h").write_text("")
    for part in parts:
        (include / cuda.PARTS[part]).write_text("")
        soname = f"lib{part}.so.{10 if part == 'curand' else version[0]}"
        (library / soname).write_text("")
        if library.name == "lib64":
            (library / f"lib{part}.so").symlink_to(soname)
    if "cudart" in parts:
        (library / "libcudadevrt.a").write_text("")
        (include / "crt" / "host_config.h").write_text(f"#if __GNUC__ > {other.get('gnu', 99)}\n#error\n#endif\n")
    return home


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine with an H100, a driver for CUDA 13.0, g++, and no CUDA toolkit."""
    for name in ("JSEG_CUDA_HOME", "nvcc_path", "CUDA_VISIBLE_DEVICES", cuda.NOTE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site-packages")])
    monkeypatch.setattr(cuda, "SYSTEM_FOLDERS", (tmp_path / "local",))
    monkeypatch.setattr(cuda.shutil, "which", lambda _: None)
    monkeypatch.setattr(cuda, "driver_cuda", lambda: (13, 0))
    monkeypatch.setattr(cuda, "has_gpu_device", lambda: True)
    monkeypatch.setattr(cuda, "capabilities", lambda: [90])
    monkeypatch.setattr(toolchain, "find_compiler", lambda: "/usr/bin/g++")


def chosen() -> Path:
    """Home of the toolkit that is chosen; fails when there is none."""
    toolkit, note = cuda.choose()
    assert toolkit is not None, note
    assert note == ""
    return toolkit.home


def refusal() -> str:
    """Why there is no CUDA; fails when there is."""
    toolkit, note = cuda.choose()
    assert toolkit is None
    assert note and "\n" not in note and "(" in note  # in brackets: what helps
    return note


def ready(tmp_path: Path) -> cuda.Ready:
    return cuda.make_ready(cuda.choose()[0], tmp_path / "cache")


def test_no_driver_no_gpu_no_toolkit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    extra = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
    assert shlex.split(cuda.WHEELS)[2:] == extra["optional-dependencies"]["cuda13"]
    assert refusal().startswith(f"no nvcc ({cuda.WHEELS} with driver 580")
    make_toolkit(tmp_path / "local" / "cuda")
    monkeypatch.setattr(cuda, "has_gpu_device", lambda: False)  # a login node of a cluster
    assert "no GPU" in refusal()
    monkeypatch.setattr(cuda, "driver_cuda", lambda: None)
    assert "no NVIDIA driver" in refusal()


@pytest.mark.parametrize("version", [(11, 8), (12, 0), (12, 9)])
def test_system_toolkit_is_used_as_it_is(tmp_path: Path, version: tuple[int, int]) -> None:
    home = make_toolkit(tmp_path / "local" / "cuda", version)
    assert chosen() == home
    folder = tmp_path / "cache" / f"cuda-{version[0]}.{version[1]}"
    assert ready(tmp_path) == cuda.Ready(folder / "bin" / "nvcc", "90", None)


@pytest.mark.parametrize(("version", "driver", "words", "fits"), [
    ((11, 7), (14, 4), "CUDA 11.7) does not fit Jittor 1.3.11 (install a CUDA 11.8-13 toolkit", (12, 6)),
    ((13, 0), (12, 4), "runs CUDA up to 12.4 (update the driver", (12, 6)),  # within 12.1-12.9 any driver does
    ((12, 1), (12, 0), "runs CUDA up to 12.0 (update the driver", (11, 8)),
])  # fmt: skip
def test_versions_that_fit_neither_jittor_nor_the_driver(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: tuple, driver: tuple, words: str, fits: tuple
) -> None:
    monkeypatch.setattr(cuda, "driver_cuda", lambda: driver)
    make_toolkit(tmp_path / "local" / "cuda", version)
    assert words in refusal()
    older = make_toolkit(tmp_path / "local" / f"cuda-{fits[0]}.{fits[1]}", fits)
    assert chosen() == older


def test_named_toolkit_goes_first_and_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make_toolkit(tmp_path / "local" / "cuda")
    mine, other = (make_toolkit(tmp_path / name, (12, 4)) for name in ("mine", "other"))
    monkeypatch.setenv("nvcc_path", str(mine / "bin" / "nvcc"))
    assert chosen() == mine
    monkeypatch.setenv("JSEG_CUDA_HOME", str(other))
    monkeypatch.setenv("nvcc_path", "")  # what a parent process leaves there
    assert chosen() == other
    monkeypatch.setenv("JSEG_CUDA_HOME", str(tmp_path / "none"))
    assert f"{tmp_path}/none/bin/nvcc does not run" in refusal()


def test_wheels_of_cuda_13(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "fixed_copy", lambda *_: None)
    home = make_toolkit(tmp_path / "site-packages" / "nvidia" / "cu13", lib="lib", npp=False)
    assert chosen() == home
    assert (ready(tmp_path).nvcc.parents[1] / "lib64" / "libcudadevrt.a").exists()  # each kernel is linked with it


def test_parts_from_wheels_of_the_same_cuda(tmp_path: Path) -> None:
    home = make_toolkit(tmp_path / "local" / "cuda", (12, 4), ("cudart",))
    wheels = tmp_path / "site-packages" / "nvidia"
    make_toolkit(wheels / "cu13", (13, 0), nvcc=False, lib="lib")  # PyTorch's, for another CUDA
    assert "comes without cublas" in refusal()
    make_toolkit(wheels / "cublas", (12, 4), ("cublas", "cublasLt"), nvcc=False, lib="lib")
    make_toolkit(wheels / "curand", (12, 4), ("curand",), nvcc=False, lib="lib")
    assert chosen() == home
    library = ready(tmp_path).nvcc.parents[1] / "lib64" / "libcublas.so.12"
    assert library.resolve() == wheels / "cublas" / "lib" / "libcublas.so.12"


def test_compiler_too_new_for_nvcc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "g++"
    compiler.write_text("#!/bin/sh\necho 13\n")
    compiler.chmod(0o755)
    monkeypatch.setattr(toolchain, "find_compiler", lambda: str(compiler))
    make_toolkit(tmp_path / "local" / "cuda", (12, 2), gnu=12)
    assert "cannot use g++ 13 (apt-get install g++-12; set cc_path=/usr/bin/g++-12)" in refusal()
    newer = make_toolkit(tmp_path / "local" / "cuda-12.4", (12, 4), gnu=13)
    assert chosen() == newer


def test_assembled_folder_is_what_jittor_looks_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = make_toolkit(tmp_path / "with a blank" / "cuda", (12, 4), npp=False)
    monkeypatch.setenv("JSEG_CUDA_HOME", str(home))
    nvcc = ready(tmp_path).nvcc
    assert " " not in str(nvcc)
    assert cuda.nvcc_version(nvcc) == (12, 4)
    folder = nvcc.parents[1]
    for part, header in cuda.PARTS.items():
        assert (folder / "include" / header).samefile(home / "include" / header)
        for name in (f"lib{part}.so", f"lib{part}.so.{10 if part == 'curand' else 12}"):
            assert (folder / "lib64" / name).resolve().parent == home / "lib64"
    assert "NPP_MAX_64U" in (folder / "include" / "npp.h").read_text()
    before = nvcc.stat().st_mtime_ns
    assert ready(tmp_path).nvcc.stat().st_mtime_ns == before  # found, not made anew
    (home / "lib64" / "libcudart.so").write_text("new")  # the toolkit was changed
    assert ready(tmp_path).nvcc == nvcc  # at the same place, which Jittor's keys for compiled files hold
    assert nvcc.stat().st_mtime_ns != before


@pytest.mark.parametrize(("version", "capabilities", "words"), [
    ((13, 0), [80, 70], "compute capability 7.0 needs CUDA 12 or older"),
    ((12, 4), [80, 100], "compute capability 10.0 needs CUDA 12.8 or newer"),
    ((12, 4), [], "the driver shows no GPU"),
    ((11, 8), [35, 80], r"capability 3\.5 is too old \(5\.0 is needed\): use --device cpu"),
    ((13, 0), [90], "cannot make .*: choose a folder that can be written"),
])  # fmt: skip
def test_toolkit_that_cannot_be_made_ready(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: tuple[int, int], capabilities: list[int], words: str
) -> None:
    make_toolkit(tmp_path / "local" / "cuda", version)
    (tmp_path / "cache").write_text("")  # no folder
    monkeypatch.setattr(cuda, "capabilities", lambda: capabilities)
    with pytest.raises(UserError, match=words):
        ready(tmp_path)


def test_machine_without_a_driver_has_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()

    def fail(_: str) -> None:
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(cuda.ctypes, "CDLL", fail)
    monkeypatch.setattr(cuda, "Path", lambda *_: Path("/nowhere"))
    assert (cuda.driver_cuda(), cuda.capabilities(), cuda.has_gpu_device()) == (None, [], False)


def test_driver_is_asked_through_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path(__file__).parents[1] / "standin_gpu" / "driver.c"
    library = tmp_path / "libcuda.so.1"
    subprocess.run(["g++", "-x", "c", "-w", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    monkeypatch.undo()  # the functions themselves
    code = "from jseg.runtime import cuda as d; print(d.driver_cuda(), d.capabilities(), d.has_gpu_device())"
    for capability in (80, 120):
        environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "STANDIN_CAPABILITY": str(capability),
                       "PYTHONPATH": str(Path(__file__).parents[2])}  # fmt: skip
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout == f"(13, 0) [{capability}] True\n"
