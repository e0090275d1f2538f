"""Tests of the folder for machines without Internet: a small one of made-up wheels, and the real one (slow)."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from jseg.errors import UserError
from jseg.runtime import cuda, toolchain
from tests.standin_gpu import build
from tools import pack_wheels

PYTHON = f"3.{sys.version_info.minor}"


def make_wheel(folder: Path, name: str, files: dict[str, bytes]) -> None:
    """A wheel of a made-up release 0.0.1 of `name`."""
    info = f"{name}-0.0.1.dist-info"
    files = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.0.1\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"]).encode()
    with zipfile.ZipFile(folder / f"{name}-0.0.1-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        for path, data in files.items():
            wheel.writestr(path, data)


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """A folder with a made-up jseg and its install.sh."""
    folder = tmp_path / "air gap"
    folder.mkdir()
    make_wheel(folder, "jseg", {"jseg/__init__.py": b"", "jseg/runtime/__main__.py": b"print('report')"})
    make_wheel(folder, "other", {"other.py": b"x = 1"})
    (folder / "install.sh").write_text(pack_wheels.install_script(PYTHON, ["jseg", "other<1"]))
    return folder


def install(folder: Path, target: Path, **variables: str) -> subprocess.CompletedProcess:
    """Runs install.sh as on the other machine: no package index, no settings of pip's."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    environment |= {"PYTHON": sys.executable, "PIP_CONFIG_FILE": os.devnull, **variables}
    command = ["sh", str(folder / "install.sh"), str(target)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd="/", timeout=1800)


def test_pip_is_asked_for_the_other_machines_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(pack_wheels, "pip", lambda *arguments: calls.append(arguments))
    wanted = pack_wheels.pack(tmp_path / "out", "3.12", ["cuda13"], ["pytest"])
    assert wanted == ["jseg-clip[cuda13]", "pytest"]
    built, downloaded = calls
    assert built[0] == "wheel" and built[-2:] == (str(pack_wheels.REPOSITORY), "jittor==1.3.11.0")
    assert downloaded[0] == "download" and downloaded[-2:] == ("jseg-clip[cuda13]", "pytest")
    text = " ".join(downloaded)
    for words in ("--only-binary :all:", "--python-version 3.12", "--abi cp312 ", "--platform manylinux_2_28_x86_64",
                  f"--find-links {tmp_path / 'out'}"):  # fmt: skip
        assert words in text
    (tmp_path / "out" / "x.whl").write_bytes(b"")
    with pytest.raises(UserError, match="holds wheels already"):
        pack_wheels.pack(tmp_path / "out", "3.12", [], [])


def test_failure_of_pip_is_one_line() -> None:
    with pytest.raises(UserError, match="pip failed"):
        pack_wheels.pip("no-such-command")


def test_install_script_needs_nothing_else(packed: Path, tmp_path: Path) -> None:
    done = install(packed, tmp_path / "venv")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "report"
    code = "import other; print(other.x)"
    done = subprocess.run([str(tmp_path / "venv/bin/python"), "-I", "-c", code], capture_output=True, text=True)
    assert done.stdout == "1\n"


def test_install_script_refuses_another_python(packed: Path, tmp_path: Path) -> None:
    (packed / "install.sh").write_text(pack_wheels.install_script("3.9", ["jseg"]))
    done = install(packed, tmp_path / "venv")
    assert done.returncode == 2
    assert done.stderr == "these wheels are for Python 3.9: set PYTHON=/path/python3.9\n"
    assert not (tmp_path / "venv").exists()


def test_packages_that_the_other_machine_has(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such wheel"):
        pack_wheels.leave_out(packed, ["numpy"])
    make_wheel(packed, "opencv_python_headless", {})
    pack_wheels.leave_out(packed, ["OpenCV-Python.headless"])
    assert sorted(wheel.name[:5] for wheel in packed.glob("*.whl")) == ["jseg-", "other"]
    machine = tmp_path / "another environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", machine], check=True)
    make_wheel(machine, "theirs", {"theirs.py": b"", "other.py": b"x = 2"})
    with zipfile.ZipFile(machine / "theirs-0.0.1-py3-none-any.whl") as wheel:
        wheel.extractall(machine / "source")
    (machine / "lib" / f"python{PYTHON}" / "site-packages" / "edited.pth").write_text(str(machine / "source"))
    (packed / "install.sh").write_text(pack_wheels.install_script(PYTHON, ["jseg", "other", "theirs"], complete=False))
    done = install(packed, tmp_path / "venv", PYTHON=str(machine / "bin" / "python"))
    assert done.returncode == 0, done.stderr
    code = "import theirs, other; print(other.x)"  # its own packages come first
    assert subprocess.check_output([tmp_path / "venv" / "bin" / "python", "-c", code], text=True) == "1\n"


def test_kernels_are_packed_and_unpacked(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, headers = tmp_path / "kernels", tmp_path / "nvidia" / "include" / "cublas_v2.h"
    ahead, asked = toolchain.compiled_ahead(cache / "jittor"), {}
    compiled = ahead / "jseg_90" / "cu13.0.88_sm_90" / "jit" / "op.so"

    def compile_one(command: list[str], env: dict[str, str]) -> None:  # as gpu_report.py on the stand-in
        if not asked:
            compiled.parent.mkdir(parents=True)
            compiled.write_bytes(b"kernel")
            (ahead / "cuda-13.0").symlink_to("/opt/cuda")
        asked.update(env)

    monkeypatch.setenv("JITTOR_HOME", "/another")
    monkeypatch.setattr(build, "find_nvcc", lambda: Path("/cuda/bin/nvcc"))
    monkeypatch.setattr(build, "standin_gpu", lambda _: {"JSEG_CUDA_HOME": "/standin"})
    monkeypatch.setattr(cuda, "wheel_folders", lambda: [tmp_path / "nvidia"])
    monkeypatch.setattr(pack_wheels.subprocess, "call", lambda *_, **__: None)
    with pytest.raises(UserError, match="pip install 'nvidia-cuda-nvcc"):
        pack_wheels.compile_kernels(packed, "9.0", cache)
    headers.parent.mkdir(parents=True)
    headers.write_text("")
    with pytest.raises(UserError, match="no kernel was compiled"):
        pack_wheels.compile_kernels(packed, "9.0", cache)
    monkeypatch.setattr(pack_wheels.subprocess, "call", compile_one)
    pack_wheels.compile_kernels(packed, "9.0", cache)
    assert (asked["STANDIN_CAPABILITY"], asked["JSEG_CUDA_HOME"]) == ("90", "/standin")
    assert asked["JSEG_CACHE"] == str(cache) and "JITTOR_HOME" not in asked
    with tarfile.open(packed / "kernels.tar.gz") as archive:
        names = {Path(name).name for name in archive.getnames()}
    assert {"op.so", "Python.h", "pyconfig.h"} <= names and "cuda-13.0" not in names
    monkeypatch.undo()
    shutil.rmtree(cache)
    (packed / "install.sh").write_text(pack_wheels.install_script(PYTHON, ["jseg"], cache=cache))
    done = install(packed, tmp_path / "venv")
    assert done.returncode == 0, done.stderr
    assert compiled.read_bytes() == b"kernel"
    assert os.readlink(tmp_path / "venv" / "jseg_cache") == str(cache)


def test_kernels_that_cannot_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    other = "3.10" if PYTHON != "3.10" else "3.11"
    for python, kernels, words in (
        (PYTHON, ("9", "/c"), "plain absolute path"), (PYTHON, ("9.0", "c"), "plain absolute path"),
        (other, ("9.0", "/c"), f"run this with python{other}"),
    ):  # fmt: skip
        monkeypatch.setattr(sys, "argv", ["pack_wheels.py", "--python", python, "--kernels", *kernels, "/dev/null/out"])
        with pytest.raises(UserError, match=words):
            pack_wheels.main()


def compiled_files(cache: Path) -> dict[Path, int]:
    """Times at which the files that compilers write were written."""
    return {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.suffix in (".so", ".o")}


@pytest.mark.slow
def test_carried_kernels_need_no_compiler(tmp_path: Path) -> None:
    """Compiles Jittor's core and attention for CUDA, then starts from the archive on a host of another name."""
    nvcc, cache = build.find_nvcc(), tmp_path / "kernels"
    if not nvcc or not any((folder / "include/cublas_v2.h").is_file() for folder in cuda.wheel_folders()):
        pytest.skip("no wheels of CUDA 13 (the extra cuda13 in pyproject.toml)")
    part = ("--only", "attention, bf16", "--size", "shapes")
    pack_wheels.compile_kernels(tmp_path, "9.0", cache, part)
    assert {path.name for path in cache.rglob("jseg.h.gch/*")} == {"core", "kernels"}
    shutil.rmtree(cache)
    with tarfile.open(tmp_path / "kernels.tar.gz") as archive:
        archive.extractall(cache, filter="tar")
    before = compiled_files(cache)
    environment = {
        **os.environ, **build.standin_gpu(nvcc), "JSEG_CACHE": str(cache),
        "PYTHONPATH": str(pack_wheels.REPOSITORY),
    }  # fmt: skip
    command = [sys.executable, "tools/gpu_report.py", "--part", "attention", "--precision", "bf16", "--batch", "2",
               "--size", "shapes"]  # fmt: skip
    script = 'hostname another && [ "$(hostname)" = another ] && exec "$@"'
    done = subprocess.run(["unshare", "--uts", "sh", "-c", script, "sh", *command], env=environment,
                          capture_output=True, text=True, cwd=pack_wheels.REPOSITORY)  # fmt: skip
    assert '"forward_seconds"' in done.stdout, done.stderr
    assert len(before) > 100 and compiled_files(cache) == before


@pytest.mark.slow
def test_real_folder_installs_without_an_index(tmp_path: Path) -> None:
    """Downloads 140 MB, builds Jittor's wheel, installs and imports it offline."""
    folder = tmp_path / "wheels"
    command = [sys.executable, "tools/pack_wheels.py", "--python", PYTHON, str(folder)]
    subprocess.run(command, check=True, timeout=1800, cwd=pack_wheels.REPOSITORY)
    done = install(folder, tmp_path / "venv", JSEG_CACHE=str(tmp_path / "cache"), nvcc_path="")
    assert done.returncode == 0, done.stderr
    assert "Jittor:         1.3.11.0" in done.stdout
    assert "oneDNN:         2021.2.0" in done.stdout
    code = "import jseg, cv2, numpy, PIL, ftfy, regex, tqdm, safetensors; print(jseg.__file__)"
    done = subprocess.run([str(tmp_path / "venv/bin/python"), "-I", "-c", code], capture_output=True, text=True)
    assert str(tmp_path / "venv") in done.stdout, done.stderr
