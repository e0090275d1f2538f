"""Tests of training with real processes: killed at any moment, stopped by signals, with a disk that fills up."""

import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jseg.engine import checkpoint
from tests.tools.training_process import SECONDS, TrainingProcess, assert_same_run

ITERATIONS = 18
LONG = 260  # enough for 20 kills of up to 16 steps each, mostly fewer


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work folder of a whole run."""
    work_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    TrainingProcess(work_dir, f"train.iterations={ITERATIONS}").finish()
    return work_dir


def kill_at_a_random_moment(running: TrainingProcess, moment: str, rng: random.Random) -> None:
    """Kills while starting, between any two instructions of a step or an evaluation, or in the middle of a save."""
    steps = len(running.events("train")) + (0 if moment == "start" else rng.randint(0, 16))
    assert running.wait_until(lambda: len(running.events("train")) >= steps), running.shown()
    if moment == "save":
        assert running.wait_until(running.is_saving), running.shown()
        time.sleep(rng.uniform(0, 0.003))
    else:  # a fast machine must not reach the end of the run meanwhile
        until = time.monotonic() + rng.uniform(0, 4 if moment == "start" else 0.2)
        running.wait_until(lambda: time.monotonic() > until or len(running.events("train")) > steps + 2)
    running.kill()


@pytest.mark.parametrize(
    "kills, iterations", [(2, ITERATIONS), pytest.param(20, LONG, marks=pytest.mark.slow)], ids=["2", "20"]
)
def test_a_run_survives_kills_at_random_moments(undisturbed: Path, tmp_path: Path, kills: int, iterations: int) -> None:
    """The final weights, moments and logs equal those of an undisturbed run, bit for bit."""
    whole, work_dir, rng = undisturbed, tmp_path / "run", random.Random(5)
    if iterations != ITERATIONS:
        whole = tmp_path / "whole" / "run"
        TrainingProcess(whole, f"train.iterations={iterations}").finish()
    moments = ["save", "step", "save", "start", "step"] if kills > 2 else ["save", "start"]
    for number in range(kills):
        resume = ["--resume"] if checkpoint.checkpoints_in(work_dir) else []
        running = TrainingProcess(work_dir, f"train.iterations={iterations}", *resume)
        kill_at_a_random_moment(running, moments[number % len(moments)], rng)
    TrainingProcess(work_dir, f"train.iterations={iterations}", "--resume").finish()
    assert_same_run(whole, work_dir, iterations)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_to_every_process_saves_and_tells_how_to_go_on(undisturbed: Path, tmp_path: Path, name: str) -> None:
    """Of a scheduler or a closed terminal: the workers and the fork server get it as well, and must not die of it."""
    running = TrainingProcess(tmp_path / "run", f"train.iterations={ITERATIONS}", "train.save_every=1000")
    assert running.wait_until(lambda: len(running.events("train")) >= 1)
    os.killpg(running.process.pid, signal.Signals[name])
    shown = running.finish()
    saved = checkpoint.checkpoints_in(running.work_dir)
    assert len(saved) == 1 and f"{name}: finishing this step" in shown
    assert f"{name}: saved after iteration" in shown
    assert "Traceback" not in shown and not (running.work_dir / checkpoint.WEIGHTS_NAME).exists()
    assert "--resume" in shown and "evaluate:" not in shown
    command = shlex.split(shown.splitlines()[-1])
    assert command[1].endswith("run_net.py") and command[-1] == "--resume"
    resumed = subprocess.run([sys.executable, *command[1:]], capture_output=True, text=True, timeout=SECONDS)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(undisturbed, running.work_dir, ITERATIONS)


@pytest.mark.parametrize("output", ["> /dev/full 2>&1", "2>&- | head -1"])
def test_a_run_goes_on_when_nothing_can_be_printed(undisturbed: Path, tmp_path: Path, output: str) -> None:
    """A full disk for the log, a reader that has gone, a closed stderr; with evaluations and their progress bars."""
    running = TrainingProcess(tmp_path / "run", f"train.iterations={ITERATIONS}", output=output)
    running.finish()
    assert_same_run(undisturbed, running.work_dir, ITERATIONS)


def test_a_run_whose_workers_are_killed_saves_and_tells_how_to_go_on(undisturbed: Path, tmp_path: Path) -> None:
    running = TrainingProcess(tmp_path / "run", f"train.iterations={ITERATIONS}", "train.save_every=1000")
    assert running.wait_until(lambda: len(running.events("train")) >= 3)
    running.process.send_signal(signal.SIGSTOP)  # a fast machine must not end the run meanwhile
    main = str(running.process.pid)
    found = subprocess.run(["ps", "-o", "pid=,ppid=", "-s", main], capture_output=True, text=True, check=True)
    workers = [pid for pid, parent in map(str.split, found.stdout.splitlines()) if main not in (pid, parent)]
    assert len(workers) == 2  # children of the fork server
    for pid in workers:
        os.kill(int(pid), signal.SIGKILL)
    running.process.send_signal(signal.SIGCONT)
    lines = running.finish(2).splitlines()
    assert len(checkpoint.checkpoints_in(running.work_dir)) == 1
    assert lines[-1].startswith("error: a worker process ended unexpectedly") and lines[-2].endswith(" --resume")
    TrainingProcess(tmp_path / "run", f"train.iterations={ITERATIONS}", "--resume").finish()
    assert_same_run(undisturbed, running.work_dir, ITERATIONS)
