"""Tests of jseg/engine/log.py, on a full disk too."""

import importlib.util
import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from jseg.config import Config, read_config
from jseg.engine import log as log_module
from jseg.engine.log import RunLog, read_log, write_record


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


def test_time_left_and_compiling(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(log_module.time, "perf_counter", lambda: now)
    log = RunLog(tmp_path, iterations=104)
    for step, seconds in enumerate((60.0, 30.0, 0.5, 0.5, 0.5)):
        now += seconds
        log.add({"total": 1.0}, waited=0.0)
        if not step:
            log.report(0, lr=1e-3)
            assert " left ? " in capsys.readouterr().out  # the only step known has compiled
    log.report(4, lr=1e-3)
    shown = capsys.readouterr().out
    assert "7.875 s/it" in shown and " left 0:00:50 " in shown


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


def test_events_hold_the_numbers_of_the_log(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    log = RunLog(tmp_path, iterations=10, start_iteration=4, tensorboard=None)
    log.write("train", 5, losses={"total": 1.5}, lr=0.25, gpu_memory_gb=None)
    content = next((tmp_path / "tensorboard").iterdir()).read_bytes()
    for name, value in (("train/losses/total", 1.5), ("train/lr", 0.25)):
        assert name.encode() + b"\x15" + struct.pack("<f", value) in content
    assert b"gpu_memory_gb" not in content and b"\x10\x05\x3a\x02\x08\x01" in content  # step 5, session log: START


def test_the_record_holds_every_start_and_the_config_reads_back(tmp_path: Path) -> None:
    config = Config()
    config.train.seed = 8
    for iteration in (40, 0, 40):  # a new run begins a new record
        write_record(tmp_path, config, "cpu", iteration, None)
    assert read_config(tmp_path / "config.json").train.seed == 8
    starts = json.loads((tmp_path / "record.json").read_text())["starts"]
    assert [start["iteration"] for start in starts] == [0, 40]
    assert starts[0]["seed"] == 8 and "git" in starts[0]["environment"] and starts[0]["environment"]["jittor"]


def test_a_disk_that_fills_up_ends_no_run_and_its_lines_are_written_later(tmp_path: Path) -> None:
    """Events too. The lines are whole, and the process ends."""
    program = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from jseg.engine.log import RunLog\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "log = RunLog(Path(sys.argv[1]), 10, tensorboard=None)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 10**9))\n"
        "for i in range(300):\n"
        "    if i == 200: resource.setrlimit(resource.RLIMIT_FSIZE, (10**9, 10**9))\n"
        "    log.write('train', i, **{str(k): k for k in range(20)})\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "cannot write the log (File too large)" in done.stdout, done.stderr
    assert ("no TensorBoard events from" in done.stdout) == bool(importlib.util.find_spec("tensorboardX"))
    assert [line["iteration"] for line in read_log(tmp_path / "log.jsonl")] == list(range(300))
