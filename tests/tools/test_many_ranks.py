"""Tests of training on several ranks with real processes: the run of one, stops, kills, another number on resume."""

import json
import os
import shlex
import signal
from pathlib import Path

import pytest

from jseg.engine import checkpoint
from tests.tools.training_process import TrainingProcess, needs_mpirun

ITERATIONS = 8
OPTIONS = (
    f"train.iterations={ITERATIONS}", "train.batch_size=4", "train.eval_every=4", "model.prompt_dropout=0.0",
    "model.decoder_dropout=0.0",
)  # fmt: skip


def ranks_of(running: TrainingProcess) -> list[int]:
    """Process ids of the ranks in their order: mpirun starts them one after the other."""
    tasks = Path(f"/proc/{running.process.pid}/task").iterdir()
    return sorted(int(pid) for task in tasks for pid in (task / "children").read_text().split())


@needs_mpirun
def test_two_ranks_stop_together_and_one_goes_on_with_their_run(tmp_path: Path) -> None:
    """SIGTERM to the second rank; then the same stream of images on one rank; all like a run of one rank."""
    whole = TrainingProcess(tmp_path / "whole", *OPTIONS)
    together = TrainingProcess(tmp_path / "run", *OPTIONS, "train.save_every=1000", ranks=2)
    assert together.wait_until(lambda: len(together.events("evaluation")) >= 1), together.shown()
    os.kill(ranks_of(together)[1], signal.SIGTERM)
    shown = together.finish()
    assert "batch: 4 images in all (2 processes x 1 micro-batches x 2, gradients added up)" in shown
    assert shown.count("resuming") == 0 and shown.count("iteration 1/") == 1  # one process prints
    (saved,) = checkpoint.checkpoints_in(together.work_dir)
    assert f"stopped: saved after iteration {checkpoint.read_whole(saved).meta['iteration']}" in shown
    command = shlex.split(shown.splitlines()[-1])
    assert command[:3] == ["mpirun", "-np", "2"] and command[-1] == "--resume"
    alone = TrainingProcess(together.work_dir, *OPTIONS, "--resume")
    alone.finish()
    whole.finish()
    assert [line["ranks"] for line in alone.events("start")] == [2, 1]
    for one, other in zip(whole.events("train"), alone.events("train"), strict=True):
        assert one["iteration"] == other["iteration"] and one["lr"] == other["lr"]
        assert one["losses"] == pytest.approx(other["losses"], rel=1e-4)  # sums in another order
    for one, other in zip(whole.events("evaluation"), alone.events("evaluation"), strict=True):
        assert one["iteration"] == other["iteration"]
        assert one["metrics"]["pAcc"] == pytest.approx(other["metrics"]["pAcc"], abs=0.5)
    weights = ["--task", "val", "--weights", str(alone.work_dir / checkpoint.WEIGHTS_NAME)]
    evaluated = TrainingProcess(tmp_path / "val", *OPTIONS, *weights, "--save-dir", str(tmp_path / "images"), ranks=2)
    assert evaluated.finish().count("label maps and overlays of 2 ") == 1
    metrics = json.loads((evaluated.work_dir / "metrics.json").read_text())
    metrics.pop("jseg"), metrics.pop("run")
    assert metrics == alone.events("evaluation")[-1]["metrics"]  # not one pixel's difference: matrices are added up
    assert len(list((tmp_path / "images").iterdir())) == 2 * 2 + 1


@needs_mpirun
def test_the_death_of_a_rank_ends_the_run(tmp_path: Path) -> None:
    running = TrainingProcess(tmp_path / "run", *OPTIONS, "train.iterations=100000", ranks=2)
    assert running.wait_until(lambda: len(running.events("train")) >= 2), running.shown()
    os.kill(ranks_of(running)[1], signal.SIGKILL)
    assert running.process.wait(timeout=120) != 0
    assert "signal 9 (Killed)" in running.shown()
    assert checkpoint.newest_whole(running.work_dir)
