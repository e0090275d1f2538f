"""Tests of jseg/engine/optimizer.py against the recorded schedules of the released training code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jseg.config import OptimizerConfig
from jseg.engine.optimizer import learning_rate

RUNS = {"voc40k": 40000, "st20k": 20000, "coco80k": 80000}  # prefix of the recorded arrays -> iterations of the run


@pytest.mark.parity
def test_real_schedules(golden: Path) -> None:
    recorded = json.loads((golden / "torch_release" / "lr_schedule_full.json").read_text())
    config = OptimizerConfig()
    for key, rates in recorded.items():
        if key == "its":
            continue
        run, kind = key.split("_lr_")
        initial = config.lr * (config.lr_factor if kind == "trainable" else 1.0)
        ours = [learning_rate(iteration, RUNS[run], initial, config) for iteration in recorded["its"][: len(rates)]]
        assert ours == pytest.approx(rates, rel=1e-12), key


@pytest.mark.parity
def test_trajectory_schedules(golden: Path) -> None:
    files = sorted((golden / "torch_release").glob("trajectory_*.lr.json"))
    assert files
    for file in files:
        run = json.loads(file.read_text())
        config = OptimizerConfig(
            lr=run["base_lr"], power=run["power"], min_lr=run["min_lr"],
            warmup_iterations=run["warmup_iters"], warmup_ratio=run["warmup_ratio"],
        )  # fmt: skip
        for key, initial in (("lr_trainable", run["trainable_initial_lr"]), ("lr_frozen_groups", run["base_lr"])):
            ours = [learning_rate(iteration, run["max_iters"], initial, config) for iteration in range(len(run[key]))]
            assert ours == pytest.approx(run[key], rel=1e-12), file.name


def test_without_warm_up_the_first_step_has_the_full_rate() -> None:
    config = OptimizerConfig(warmup_iterations=0)
    assert learning_rate(0, 10, 1e-3, config) == 1e-3
    assert learning_rate(10, 10, 1e-3, config) == config.min_lr
