"""Tests of jseg/engine/log.py, on a full disk too."""

from __future__ import annotations

import errno
import importlib.util
import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from jseg.config import Config, read_config
from jseg.engine import log as run_log
from jseg.engine.log import RunLog, duration, environment, open_events, read_log, write_record
from jseg.errors import UserError


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


def test_the_environment_is_recorded() -> None:
    found = json.loads(json.dumps(environment("cpu")))
    assert found["jittor"].startswith("1.3.") and found["device"] == "cpu" and found["python"].count(".") == 2


@pytest.mark.parametrize(
    "seconds, text", [(0.2, "0:00:00"), (59.6, "0:01:00"), (3725.2, "1:02:05"), (360000, "100:00:00")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_events_hold_the_numbers_of_the_log(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    log = RunLog(tmp_path, iterations=10, start_iteration=4, tensorboard=None)
    log.write("train", 5, losses={"total": 1.5}, lr=0.25, gpu_memory_gb=None)
    log.write("saved", 5, file="a")
    log._events.close()  # waits for the writer's thread
    found = []
    content = next((tmp_path / "tensorboard").iterdir()).read_bytes()
    while content:  # records: length, its checksum, data, their checksum
        (length,) = struct.unpack("<Q", content[:8])
        found.append(Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    values = {(event.step, value.tag): value.simple_value for event in found for value in event.summary.value}
    assert values == {(5, "train/losses/total"): 1.5, (5, "train/lr"): 0.25}
    assert [event.step for event in found if event.HasField("session_log")] == [5]


def test_events_that_cannot_be_written_cost_the_events_only(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """A folder that cannot be made; a disk that fills up in the middle of a long run, which must not hang."""
    pytest.importorskip("tensorboardX")
    (tmp_path / "tensorboard").touch()
    RunLog(tmp_path, iterations=10, tensorboard=None).write("train", 1, lr=0.25)
    assert "no TensorBoard events" in capsys.readouterr().out
    program = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from jseg.engine.log import RunLog, open_events\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "log = RunLog(Path(sys.argv[1]), 10)\n"
        "log._events = open_events(None, Path(sys.argv[1]) / 'events', 0)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "for i in range(300): log.write('train', i, **{str(k): k for k in range(20)})\n"
        "print('trained')\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "trained" in done.stdout and "no TensorBoard events from" in done.stdout, (
        done.stderr
    )


def test_events_are_off_without_the_package_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert open_events(None, tmp_path, 0) is None and open_events(False, tmp_path, 0) is None
    with pytest.raises(UserError, match=r'pip install "jseg\[log\]"'):
        open_events(True, tmp_path, 0)


def test_a_log_that_cannot_be_written_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    log = RunLog(tmp_path, iterations=10)
    log.write("train", 1)
    whole = run_log.append_whole

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run_log, "append_whole", full)
    log.write("train", 2)
    monkeypatch.setattr(run_log, "append_whole", whole)
    log.write("train", 3)
    assert [line["iteration"] for line in read_log(log.path)] == [1, 2, 3]
    assert "No space left on device): free some space there" in capsys.readouterr().out


def test_the_record_holds_every_start_and_the_config_reads_back(tmp_path: Path) -> None:
    config = Config()
    config.train.seed = 8
    write_record(tmp_path, config, "cpu", 0, None)
    entry = write_record(tmp_path, config, "cpu", 40, None)
    assert read_config(tmp_path / "config.json").train.seed == 8
    starts = json.loads((tmp_path / "record.json").read_text())["starts"]
    assert [start["iteration"] for start in starts] == [0, 40] and starts[1]["command"] == entry["command"]
    assert starts[0]["seed"] == 8 and "git" in starts[0]["environment"] and starts[0]["report"]["C++ compiler"]
    write_record(tmp_path, config, "cpu", 0, None)
    assert len(json.loads((tmp_path / "record.json").read_text())["starts"]) == 1
