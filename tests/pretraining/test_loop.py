"""The pre-training loop: the loss falls, the same seed gives the same weights, a resumed run goes on exactly."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from jseg.engine import checkpoint
from jseg.engine.run_log import RunLog, read_log
from jseg.errors import UserError
from jseg.pretraining.batches import picture_batches
from jseg.pretraining.loop import Pretraining, train
from jseg.pretraining.pictures import picture_batch
from jseg.pretraining.settings import Settings


def trained(settings: Settings, work_dir: Path, stop: int, resume: bool = False) -> dict[str, np.ndarray]:
    """Weights after `stop` steps."""
    work_dir.mkdir(exist_ok=True)
    run = Pretraining(settings)
    if resume:
        run.resume(checkpoint.newest_whole(work_dir)[0])
    batches = picture_batches(settings, run.tokenizer, run.iteration)
    train(run, batches, RunLog(work_dir, settings.iterations, run.iteration), work_dir, stop)
    batches.close()
    assert run.iteration == stop
    return run.clip.tensors()


def assert_same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> None:
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)


def test_same_seed_same_weights_and_resumed_run_the_same(tiny: Settings, tmp_path: Path) -> None:
    whole = trained(tiny, tmp_path / "whole", 6)
    assert_same(whole, trained(tiny, tmp_path / "again", 6))
    trained(tiny, tmp_path / "parts", 4)  # the break lies after the change of stage
    assert_same(whole, trained(tiny, tmp_path / "parts", 6, resume=True))
    other = trained(dataclasses.replace(tiny, seed=1), tmp_path / "other", 6)
    assert not np.array_equal(whole["visual.proj"], other["visual.proj"])
    losses = [
        line["losses"]["total"] for line in read_log(tmp_path / "parts" / "log.jsonl") if line["event"] == "train"
    ]
    assert len(losses) == 3 and np.isfinite(losses).all()


def test_every_weight_trains_and_the_loss_falls(tiny: Settings) -> None:
    run = Pretraining(tiny)
    before = run.clip.tensors()
    batch = picture_batch(tiny, run.tokenizer, 0)
    settings = dataclasses.replace(tiny.optimizer, warmup_iterations=0, lr=3e-3)
    run.settings = dataclasses.replace(
        tiny, optimizer=settings, stages=(dataclasses.replace(tiny.stages[0], iterations=20),)
    )
    losses = [run.step(batch)[0] for _ in range(20)]
    assert losses[-1] < 0.6 * losses[0]
    after = run.clip.tensors()
    assert [name for name in before if np.array_equal(before[name], after[name])] == []


def test_resuming_with_other_settings_is_refused(tiny: Settings, tmp_path: Path) -> None:
    run = Pretraining(tiny)
    run.save(tmp_path)
    file = checkpoint.newest_whole(tmp_path)[0]
    with pytest.raises(UserError, match="seed=0"):
        Pretraining(dataclasses.replace(tiny, seed=1)).resume(file)
    more_workers = dataclasses.replace(tiny, workers=3)
    Pretraining(more_workers).resume(file)  # does not change the result


def test_stages_follow_each_other(tiny: Settings) -> None:
    assert tiny.iterations == 6
    assert [tiny.stage(iteration).pixels for iteration in (0, 2, 3, 5, 9)] == [16, 16, 24, 24, 24]
