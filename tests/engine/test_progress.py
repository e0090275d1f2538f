"""Tests of jseg/engine/progress.py, interruption.py and work_folder.py."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jseg.config import Config
from jseg.engine.progress import Progress, best_metric, progress_of
from jseg.engine.signals import Interrupted, StopRequest
from jseg.engine.work_folder import held
from jseg.errors import UserError


def test_progress_survives_json_and_nonsense_is_refused() -> None:
    progress = Progress(iteration=7, best=12.5, bad_steps=1, log={"sums": {"total": 0.1 + 0.2}})
    meta = json.loads(json.dumps(progress.meta()))
    assert progress_of(meta, "a") == progress
    wrong: list[dict[str, Any]] = [
        {}, {"progress": 3}, {"iteration": 8}, {"progress": {**meta["progress"], "bad_steps": -1}},
        {"progress": {**meta["progress"], "best": "12"}}, {"progress": {**meta["progress"], "log": []}},
    ]  # fmt: skip
    for changes in wrong:
        with pytest.raises(UserError, match=r"a records|a does not record"):
            progress_of({**meta, **changes} if changes else {}, "a")


def test_only_higher_values_are_better() -> None:
    progress, taken = Progress(), []
    for iteration, value in enumerate([None, 1.0, 1.0, float("nan"), 2.0]):
        progress.iteration = iteration
        taken.append(progress.take(value))
    assert taken == [False, True, False, False, True]
    assert (progress.best, progress.best_iteration, progress.without_gain) == (2.0, 4, 0)


def test_the_best_metric_of_a_supervised_run_needs_no_unseen_classes() -> None:
    config = Config()
    assert best_metric(config) == "hIoU"
    config.data.setting = "supervised"
    assert best_metric(config) == "mIoU(S)"
    config.train.best_metric = "pAcc"
    assert best_metric(config) == "pAcc"


def test_the_first_signal_asks_the_second_ctrl_c_ends(capfd: pytest.CaptureFixture) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested and stop.signal_name == "SIGTERM"
        os.kill(os.getpid(), signal.SIGTERM)  # some schedulers send it again and again
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Interrupted), stop.breaks():
            pytest.fail("long work began after the signal")
    assert signal.getsignal(signal.SIGTERM) == before
    assert capfd.readouterr().err.count("finishing this step, then saving") == 1


def test_one_process_at_a_time_and_no_half_written_files(tmp_path: Path) -> None:
    (tmp_path / ".checkpoint_0000001.safetensors.abc.tmp").write_bytes(b"half")
    (tmp_path / "log.jsonl").touch()
    script = (
        "import sys; from pathlib import Path; from jseg.engine.work_folder import held\n"
        "try:\n    with held(Path(sys.argv[1])): print('held')\nexcept Exception as error: print(error)"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with held(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]
        assert "a process is training in" in subprocess.run(command, capture_output=True, text=True).stdout
    assert subprocess.run(command, capture_output=True, text=True).stdout == "held\n"
