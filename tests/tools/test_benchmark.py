"""The tool that times."""

from __future__ import annotations

import json

import pytest

from tools.benchmark import main


@pytest.mark.parametrize("task", ["forward", "train", "attention", "evaluate"])
def test_small_runs(task: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["benchmark.py", task, "--size", "shapes", "--repeats", "2", "--json"])
    assert main() == 0
    values = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert values["seconds"] > 0
    assert values["floor_seconds"] > 0
    # all three are rounded to five digits after the point
    assert values["achieved"] * values["seconds"] == pytest.approx(values["floor_seconds"], abs=2e-5)
    assert values["kernels"] == {"attention": "compiled", "others": "compiled"}
