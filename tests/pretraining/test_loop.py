"""The pre-training loop: the loss falls, the same seed gives the same weights, a resumed run goes on exactly."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from jseg.engine import checkpoint
from jseg.engine.log import RunLog, read_log
from jseg.errors import UserError
from jseg.pretraining.batches import picture_batches
from jseg.pretraining.loop import Pretraining, train
from jseg.pretraining.pictures import picture_batch
from jseg.pretraining.settings import Round, Settings


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


def test_same_seed_same_weights_and_resumed_runs_the_same(tiny: Settings, tmp_path: Path) -> None:
    whole = trained(tiny, tmp_path / "whole", 8)
    assert_same(whole, trained(tiny, tmp_path / "again", 8))
    for stop in (4, 5, 7):  # after a change of stage, between the rounds, within the second round
        work_dir = tmp_path / f"parts{stop}"
        trained(tiny, work_dir, stop)
        assert_same(whole, trained(tiny, work_dir, 8, resume=True))
    lines = [line for line in read_log(tmp_path / "parts5" / "log.jsonl") if line["event"] == "train"]
    assert [line["iteration"] for line in lines] == [2, 4, 5, 6, 8]
    assert np.isfinite([line["losses"]["total"] for line in lines]).all()
    other = trained(dataclasses.replace(tiny, seed=1), tmp_path / "other", 8)
    assert not np.array_equal(whole["visual.proj"], other["visual.proj"])


def test_every_weight_trains_and_the_loss_falls(tiny: Settings) -> None:
    run = Pretraining(tiny)
    before = run.clip.tensors()
    batch = picture_batch(tiny, run.tokenizer, 0)
    arc = Round(3e-3, 0, (dataclasses.replace(tiny.stage(0), iterations=20),))
    run.settings = dataclasses.replace(tiny, rounds=(arc,))
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
    with pytest.raises(UserError, match="rounds"):
        Pretraining(dataclasses.replace(tiny, rounds=tiny.rounds[1:])).resume(file)
    more = dataclasses.replace(tiny, workers=3, rounds=(*tiny.rounds, tiny.rounds[0]))
    Pretraining(more).resume(file)  # leaves the steps so far as they are


def test_stages_and_rounds_follow_each_other(tiny: Settings) -> None:
    assert tiny.iterations == 8
    assert [tiny.stage(iteration).pixels for iteration in (0, 2, 3, 7, 9)] == [16, 16, 24, 24, 24]
    assert [tiny.round(iteration).lr for iteration in (0, 4, 5, 7)] == [1e-3, 1e-3, 5e-4, 5e-4]
    assert [tiny.round_start(iteration) for iteration in (0, 4, 5, 7)] == [0, 0, 5, 5]


def test_a_round_warms_up_and_decays(tiny: Settings) -> None:
    first = dataclasses.replace(tiny.rounds[0], arc=10)
    run = Pretraining(dataclasses.replace(tiny, rounds=(first, tiny.rounds[1])))
    rates = [run.step(picture_batch(run.settings, run.tokenizer, iteration))[1] for iteration in range(8)]
    np.testing.assert_allclose(rates[:5], [1e-5, 9.01e-4, 8.02e-4, 7.03e-4, 6.04e-4], rtol=1e-6)
    np.testing.assert_allclose(rates[5:], [5e-6, 1e-5 + 4.9e-4 * 2 / 3, 1e-5 + 4.9e-4 / 3], rtol=1e-6)
