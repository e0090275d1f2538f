"""Tests of jseg/engine/log.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jseg.engine.log import RunLog, duration, environment, read_log


def test_reports_are_means_since_the_last_one(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    log = RunLog(tmp_path, iterations=4)
    for loss in (1.0, 3.0):
        log.add({"mask": loss, "total": loss + 1}, waited=0.5)
    log.report(2, lr=1e-3)
    log.add({"mask": 5.0, "total": 6.0}, waited=0.0)
    log.report(3, lr=1e-4)
    first, second = read_log(log.path)
    assert first["losses"] == {"mask": 2.0, "total": 3.0} and first["waited"] == 0.5 and first["lr"] == 1e-3
    assert second["losses"] == {"mask": 5.0, "total": 6.0} and second["iteration"] == 3
    assert first["memory_gb"] > 0.01
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("iteration 2/4  loss 3.0000 (mask 2)  lr 1.00e-03") and len(shown) == 2


def test_a_resumed_log_drops_what_came_after_and_half_written_lines(tmp_path: Path) -> None:
    log = RunLog(tmp_path, iterations=20)
    for iteration in (0, 5, 6, 10):
        log.write("train", iteration)
    with log.path.open("a") as file:
        file.write('{"event": "train", "iter')
    RunLog(tmp_path, iterations=20, start_iteration=5).write("start", 5)
    assert [(line["event"], line["iteration"]) for line in read_log(log.path)] == [
        ("train", 0), ("train", 5), ("start", 5),
    ]  # fmt: skip
    assert all(json.loads(line) for line in log.path.read_text().splitlines())


def test_a_new_run_starts_an_empty_log(tmp_path: Path) -> None:
    RunLog(tmp_path, iterations=2).write("train", 1)
    assert read_log(RunLog(tmp_path, iterations=2).path) == []


def test_the_environment_is_told() -> None:
    found = json.loads(json.dumps(environment("cpu")))
    assert found["jittor"].startswith("1.3.") and found["device"] == "cpu" and found["python"].count(".") == 2


@pytest.mark.parametrize(
    "seconds, text", [(0.2, "0:00:00"), (59.6, "0:01:00"), (3725.2, "1:02:05"), (360000, "100:00:00")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
