"""Tests of `python -m jseg.runtime`."""

from pathlib import Path

import pytest

from jseg.runtime import __main__ as command
from jseg.runtime import toolchain
from jseg.runtime.prepare import Preparation


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Preparation:
    """Findings of a machine with everything but CUDA."""
    found = Preparation(jittor_home=tmp_path, onednn=True, cuda_note="no nvcc (install it)")
    monkeypatch.setattr(command, "prepare", lambda: found)
    monkeypatch.setattr("sys.argv", ["jseg.runtime"])
    return found


def test_report_names_every_part_and_the_remedy_of_missing_ones(
    found: Preparation, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found.onednn, found.problem = False, "cannot write the cache folder: set JSEG_CACHE"
    monkeypatch.setattr(toolchain, "package_version", lambda _: "")
    for name in ("find_compiler", "python_headers"):
        monkeypatch.setattr(toolchain, name, lambda *_: "")
    assert command.main() == 1
    text = capsys.readouterr().out
    for line in (
        "missing: Jittor: pip install jittor==1.3.11.0",
        "missing: NumPy: pip install 'numpy<2'",
        "missing: C++ compiler: apt-get install g++",
        "missing: Python headers: apt-get install python3.",
        "optional: oneDNN: pip install onednn-cpu-gomp==2021.2.0 onednn-devel-cpu-gomp==2021.2.0",
        "optional: CUDA toolkit: no nvcc (install it)",
        "missing: cache folder: cannot write the cache folder: set JSEG_CACHE",
    ):
        assert line in text
