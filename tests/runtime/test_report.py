"""Tests of `python -m jseg.runtime`."""

from __future__ import annotations

import pytest

from jseg.runtime import report, toolchain
from jseg.runtime.prepare import Preparation


@pytest.fixture
def found(tmp_path_factory: pytest.TempPathFactory) -> Preparation:
    """Findings of a machine with everything but CUDA."""
    home = tmp_path_factory.mktemp("home")
    return Preparation(jittor_home=home, onednn=True, cuda_note="no nvcc (install it)")


def test_report_names_every_part(
    found: Preparation, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "prepare", lambda: found)
    code = report.write_report()
    text = capsys.readouterr().out
    for name in ("Python", "Jittor", "C++ compiler", "oneDNN", "CUDA toolkit", "NVIDIA driver", "GPU", "cache folder"):
        assert f"{name}:" in text
    assert str(found.jittor_home) in text
    assert "optional: CUDA toolkit: no nvcc (install it)" in text
    assert code == (1 if toolchain.problem() else 0)


def test_missing_parts_come_with_their_mend(
    found: Preparation, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found.onednn, found.problem = False, "cannot write the cache folder: set JSEG_CACHE"
    monkeypatch.setattr(report, "prepare", lambda: found)
    for name in ("jittor_version", "find_compiler", "find_python_config"):
        monkeypatch.setattr(toolchain, name, lambda: "")
    assert report.write_report() == 1
    text = capsys.readouterr().out
    for line in (
        "missing: Jittor: pip install jittor==1.3.11.0",
        "missing: C++ compiler: apt-get install g++",
        "optional: oneDNN: pip install onednn-cpu-gomp==2021.2.0 onednn-devel-cpu-gomp==2021.2.0",
        "missing: cache folder: cannot write the cache folder: set JSEG_CACHE",
    ):
        assert line in text
    assert "missing: Python headers: apt-get install python3." in text


def test_gpu_that_nvidia_smi_cannot_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "has_gpu_device", lambda: True)
    monkeypatch.setenv("PATH", "")
    assert report.gpu_names() == "present, but nvidia-smi does not list it"


def test_report_tells_which_operators_run(found: Preparation, monkeypatch: pytest.MonkeyPatch) -> None:
    def operators() -> str:
        return next(line.found for line in report.findings(found) if line.name == "operators")

    monkeypatch.delenv("JSEG_KERNELS", raising=False)
    assert operators() == "compiled kernels on CPU"
    monkeypatch.setenv("JSEG_KERNELS", "plain")
    assert operators() == "plain Jittor operators (JSEG_KERNELS=plain)"
