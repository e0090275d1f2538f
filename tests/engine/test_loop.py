"""Tests of jseg/engine/loop.py: what the loop does when, and what it does about bad numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jseg.data.loader import Batch
from jseg.engine.loop import train
from jseg.engine.run_log import RunLog, read_log
from jseg.errors import UserError
from tests.engine.tiny_training import tiny_batch, tiny_config, tiny_trainer, weights


def test_a_loss_that_is_not_finite_stops_before_the_update(tmp_path: Path) -> None:
    trainer = tiny_trainer(tiny_config())
    images, labels = tiny_batch(seed=1)
    images[0] = np.nan
    before = weights(trainer)
    batches = iter([Batch(images, labels, ["bad_picture"] * 4, 0)])
    with pytest.raises(UserError, match=r"iteration 0 \(bad_picture.*loss is nan"):
        train(trainer, batches, RunLog(tmp_path, 10), save=lambda iteration: tmp_path)
    assert all(np.array_equal(array, weights(trainer)[name]) for name, array in before.items())


def test_the_loop_logs_saves_and_evaluates_at_its_intervals(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    config = tiny_config(iterations=5, log_every=2, save_every=3, eval_every=4)
    trainer, saved = tiny_trainer(config), []

    def save(iteration: int) -> Path:
        saved.append(iteration)
        return tmp_path / f"{iteration}.safetensors"

    batches = (Batch(*tiny_batch(i), ["a"] * 4, i) for i in range(5))
    train(trainer, batches, RunLog(tmp_path, 5), save, evaluate=lambda: {"pAcc": 50.0})
    lines = read_log(tmp_path / "log.jsonl")
    events = [(line["event"], line["iteration"]) for line in lines]
    assert events == [("train", 2), ("saved", 3), ("train", 4), ("evaluation", 4), ("train", 5), ("saved", 5)]
    assert saved == [3, 5]
    shown = capsys.readouterr().out
    assert "iteration 5/5" in shown and "lr " in shown and "memory" in shown and "left 0:00:00" in shown
    first = lines[0]
    assert first["losses"]["total"] == pytest.approx(sum(v for k, v in first["losses"].items() if k != "total"))


def test_dropout_differs_between_iterations_and_repeats_for_the_same_seed(tmp_path: Path) -> None:
    """Each iteration draws from its own seed: the same run twice is the same, bit for bit."""
    runs = []
    for _ in range(2):
        trainer = tiny_trainer(tiny_config(iterations=3, log_every=1))
        batches = (Batch(*tiny_batch(0), ["a"] * 4, i) for i in range(3))
        train(trainer, batches, RunLog(tmp_path, 3), save=lambda iteration: tmp_path)
        runs.append(weights(trainer))
    assert all(np.array_equal(array, runs[1][name]) for name, array in runs[0].items())
    trainer = tiny_trainer(tiny_config(), dropout=True)
    assert trainer.gradients(*tiny_batch(0))[1] != trainer.gradients(*tiny_batch(0))[1]
