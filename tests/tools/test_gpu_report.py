"""Tests of `make test-gpu` on parts that need no GPU."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from jseg import benchmark
from jseg.errors import UserError
from jseg.runtime import start
from jseg.runtime.cuda import Toolkit
from jseg.runtime.prepare import prepare
from tools import gpu_report

PARTS = {
    "good one": ("-c", "print('first'); print('a | b')"),
    "bad one": ("-c", "import os; print('so far', flush=True); os.abort()"),
    "last one": ("-c", "pass"),
}


def test_every_part_is_tried_and_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prepare(), "toolkit", Toolkit(Path("/cuda/bin/nvcc"), Path("/cuda"), (13, 0), (), ()))
    monkeypatch.setattr(gpu_report, "parts", lambda _: PARTS)
    report = tmp_path / "folder" / "report.md"
    monkeypatch.setattr(sys, "argv", ["gpu_report.py", "--report", str(report)])
    assert gpu_report.main() == 1
    head, *_, good, bad, last = report.read_text().splitlines()
    assert "/cuda/bin/nvcc (CUDA 13.0)" in head
    assert good.startswith("| good one | ok |") and good.endswith("| a / b |")
    assert bad.startswith("| bad one | FAILED (-6) |") and bad.endswith("| so far |")
    assert last.startswith("| last one | ok |")
    assert "first" in (tmp_path / "folder" / "00_good_one.log").read_text()
    assert len(capsys.readouterr().out.splitlines()) == 4
    monkeypatch.setattr(sys, "argv", ["gpu_report.py", "--report", str(report), "--only", "last"])
    assert gpu_report.main() == 0
    monkeypatch.setattr(sys, "argv", ["gpu_report.py", "--only", "nothing"])
    with pytest.raises(UserError, match="no part"):
        gpu_report.main()
    monkeypatch.setattr(prepare(), "toolkit", None)
    with pytest.raises(UserError, match="no GPU to try"):
        gpu_report.main()


def test_long_run_notices_growing_memory(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked, used = [], iter([2**30, 2**30, 2**30 + gpu_report.ALLOWED_GROWTH, 2**30, 2**31])
    monkeypatch.setattr(start, "start", lambda device: device)
    step = (lambda: asked.append(None), 0.0)
    monkeypatch.setitem(benchmark.TASKS, "train", lambda sizes: asked.append(sizes.batch) or step)
    monkeypatch.setattr(gpu_report.cuda, "used_memory", lambda: next(used))
    assert gpu_report.long_run(60, "bf16") == 0
    assert asked[0] == 16 and len(asked) == 61
    assert '"growth": 67108864' in capsys.readouterr().out
    assert gpu_report.long_run(40, "bf16") == 1
