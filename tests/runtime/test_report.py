"""Tests of `python -m jseg.runtime`."""

from __future__ import annotations

from pathlib import Path

import pytest

from jseg.runtime import prepare, report, toolchain
from jseg.runtime.prepare import Preparation


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Preparation:
    """Findings of a machine with everything but CUDA."""
    found = Preparation(jittor_home=tmp_path, onednn=True, cuda_note="no nvcc (install it)")
    monkeypatch.setattr(prepare, "prepare", lambda: found)
    return found


def test_report_names_every_part(found: Preparation, capsys: pytest.CaptureFixture[str]) -> None:
    code = report.write_report()
    text = capsys.readouterr().out
    for name in ("Python", "Jittor", "NumPy", "C++ compiler", "oneDNN", "CUDA toolkit", "NVIDIA driver", "GPU"):
        assert f"{name}:" in text
    assert f"cache folder:   {found.jittor_home}" in text
    assert "optional: CUDA toolkit: no nvcc (install it)" in text
    assert code == (1 if toolchain.problem() else 0)


def test_missing_parts_come_with_their_remedy(
    found: Preparation, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found.onednn, found.problem = False, "cannot write the cache folder: set JSEG_CACHE"
    monkeypatch.setattr(toolchain, "package_version", lambda _: "")
    for name in ("find_compiler", "find_python_config"):
        monkeypatch.setattr(toolchain, name, lambda: "")
    assert report.write_report() == 1
    text = capsys.readouterr().out
    for line in (
        "missing: Jittor: pip install jittor==1.3.11.0",
        "missing: NumPy: pip install 'numpy<2'",
        "missing: C++ compiler: apt-get install g++",
        "missing: Python headers: apt-get install python3.",
        "optional: oneDNN: pip install onednn-cpu-gomp==2021.2.0 onednn-devel-cpu-gomp==2021.2.0",
        "missing: cache folder: cannot write the cache folder: set JSEG_CACHE",
    ):
        assert line in text


def test_gpu_that_nvidia_smi_cannot_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "has_gpu_device", lambda: True)
    monkeypatch.setenv("PATH", "")
    assert report.gpu_names() == "present, but nvidia-smi does not list it"


@pytest.mark.parametrize(
    ("forced", "said"), [("auto", "compiled kernels on CPU"), ("plain", "plain Jittor operators (JSEG_KERNELS=plain)")]
)
def test_report_says_which_operators_run(
    found: Preparation, monkeypatch: pytest.MonkeyPatch, forced: str, said: str
) -> None:
    monkeypatch.setenv("JSEG_KERNELS", forced)
    assert said in [line.found for line in report.findings(found)]
