"""Tests of jseg/engine/log.py and run_record.py, and of a log whose disk is full."""

from __future__ import annotations

import errno
import importlib.util
import json
import struct
from pathlib import Path

import pytest

from jseg.config import Config, read_config
from jseg.engine import log as events
from jseg.engine import log as run_log
from jseg.engine.log import RunLog, read_log, write_record
from jseg.errors import CannotWrite, UserError
from jseg.files import write_whole


def test_events_hold_the_numbers_of_the_log(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    log = RunLog(tmp_path, iterations=10, start_iteration=4)
    log.events = events.make_events(None, tmp_path, 4)
    log.write("train", 5, losses={"total": 1.5}, lr=0.25, gpu_memory_gb=None)
    log.write("saved", 5, file="a")
    found = []
    content = next((tmp_path / "tensorboard").iterdir()).read_bytes()
    while content:  # records: length, its checksum, data, their checksum
        (length,) = struct.unpack("<Q", content[:8])
        found.append(Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    values = {(event.step, value.tag): value.simple_value for event in found for value in event.summary.value}
    assert values == {(5, "train/losses/total"): 1.5, (5, "train/lr"): 0.25}
    assert [event.step for event in found if event.HasField("session_log")] == [5]


def test_a_folder_that_cannot_be_made_costs_the_events_only(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("tensorboardX")
    (tmp_path / "tensorboard").touch()
    found = events.make_events(None, tmp_path, 0)
    found.write("train", 1, {"lr": 0.25})
    assert "no TensorBoard events from iteration 0 on" in capsys.readouterr().out


def test_events_are_off_without_the_package_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert events.make_events(None, tmp_path, 0) is None and events.make_events(False, tmp_path, 0) is None
    with pytest.raises(UserError, match=r'pip install "jseg\[log\]"'):
        events.make_events(True, tmp_path, 0)


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


def test_a_full_disk_leaves_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole(tmp_path / "a", b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CannotWrite, match=r"No space left on device\): free some space"):
        write_whole(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old" and [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_record_tells_every_start_and_the_config_reads_back(tmp_path: Path) -> None:
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
