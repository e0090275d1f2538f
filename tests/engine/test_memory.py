"""Memory of long runs stays where it is after a warm-up: of training steps, of evaluations."""

import os
import time
from pathlib import Path

import jittor as jt
import numpy as np
import pytest

from jseg.engine.evaluate import predictions
from jseg.model.clip_rc import build_clip_rc
from jseg.model.initial_weights import initialise
from tests.engine.test_evaluate import NoisyImages, embeddings, small_config
from tests.engine.test_train import NotedSaver, batches, run
from tests.engine.tiny_training import tiny_config, tiny_trainer
from tests.tools.training_process import TrainingProcess


def resident_bytes(process: int | str = "self") -> int:
    """Main memory that a process holds now."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def growth(resident: list[int], warm_up: int) -> float:
    """By what share the memory of the last tenth is above that of the tenth after the warm-up (medians)."""
    tenth = max(1, (len(resident) - warm_up) // 10)
    early, late = np.median(resident[warm_up : warm_up + tenth]), np.median(resident[-tenth:])
    return float(late / early - 1)


def test_training_steps_keep_no_variables_and_no_memory(tmp_path: Path) -> None:
    resident, alive = [], []

    def note(_: int) -> None:
        resident.append(resident_bytes())
        alive.append(jt.liveness_info()["lived_vars"])

    config = tiny_config(iterations=150, log_every=20, save_every=50)
    run(tmp_path, tiny_trainer(config, dropout=True), batches(each=note), NotedSaver())
    assert len(set(alive[20:])) == 1, set(alive)
    assert growth(resident, 50) < 0.01


def test_evaluation_keeps_no_memory() -> None:
    config, rng = small_config(), np.random.default_rng(0)
    model = build_clip_rc(config.model)
    initialise(model, config.model, 0)
    dataset = NoisyImages([tuple(rng.integers(40, 100, 2).tolist()) for _ in range(120)])
    resident = [resident_bytes() for _ in predictions(model, dataset, embeddings(), config)]
    assert growth(resident, 40) < 0.01


@pytest.mark.slow
def test_5000_iterations_keep_no_memory(tmp_path: Path) -> None:
    """A real run: data workers, augmentation, log, checkpoints, evaluations; watched from outside."""
    rest = ("train.iterations=5000", "train.log_every=50", "train.save_every=1000", "train.eval_every=1000")
    process, resident = TrainingProcess(tmp_path / "run", *rest), []
    while process.process.poll() is None:
        lines = process.events("train")
        resident += [resident_bytes(process.process.pid)] * (len(lines) - len(resident))  # one for every 50 steps
        time.sleep(0.2)
    process.finish()
    assert len(resident) >= 95 and growth(resident, 20) < 0.01
