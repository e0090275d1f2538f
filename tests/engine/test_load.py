"""Starting points and batches that keep to the recipe, or do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from jseg.config import Config
from jseg.engine import load
from jseg.errors import UserError
from jseg.weights.reader import WeightFile
from jseg.weights.record import FORMAT


def weights(**meta: object) -> WeightFile:
    return WeightFile({}, meta, "", "", Path("run/weights.safetensors"))


def transductive() -> Config:
    config = Config()
    config.data.setting = "transductive"
    config.train.expected_iteration, config.train.expected_weights = 20000, "the inductive checkpoint"
    return config


@pytest.mark.parametrize("meta", [{"format": FORMAT, "iteration": 20000}, {"iter": 20000, "CLASSES": ("a",)}])
def test_the_expected_iteration_passes(meta: dict) -> None:
    assert load.check_start(weights(**meta), transductive()) == []


@pytest.mark.parametrize("meta", [{"format": FORMAT, "iteration": 40000}, {"iter": 40000}])
def test_another_iteration_is_refused_with_two_ways_out(meta: dict) -> None:
    with pytest.raises(UserError, match=r"after iteration 40000.*20000.*checkpoint_0020000.*expected_iteration=0"):
        load.check_start(weights(**meta), transductive())
    config = transductive()
    config.train.expected_iteration = 0
    assert load.check_start(weights(**meta), config) == []


@pytest.mark.parametrize("iteration", [None, "20000", -1, True])
def test_an_unknown_iteration_is_warned_of(iteration: object) -> None:
    (warning,) = load.check_start(weights(iter=iteration), transductive())
    assert "does not say at which iteration" in warning and "20000" in warning


def test_supervised_weights_are_no_start_for_a_transductive_run() -> None:
    file = weights(format=FORMAT, iteration=20000, setting="supervised")
    with pytest.raises(UserError, match="knows the labels of the unseen classes: start from the inductive checkpoint"):
        load.check_start(file, transductive())
    config = transductive()
    config.data.setting = "supervised"
    assert load.check_start(file, config) == []


def test_batch() -> None:
    config = Config()
    config.train.recipe_batch = 16
    assert load.batch_line(config) == "batch: 16 images in all, as the recipe has it"
    assert load.batch_warning(16, config) == ""
    config.train.micro_batch = 4
    assert load.batch_line(config) == "batch: 16 images in all, as the recipe has it (4 x 4, gradients added up)"
    config.train.batch_size = 8
    assert load.batch_line(config) == "batch: 8 images in all (2 x 4, gradients added up)"
    warning = load.batch_warning(8, config)
    assert "effective batch is 8, the recipe's is 16" in warning and "train.micro_batch" in warning
    config.train.recipe_batch = 0
    assert load.batch_warning(8, config) == ""


def test_the_batch_on_several_processes() -> None:
    config = Config()
    assert load.batch_line(config, 4) == "batch: 16 images in all (4 processes x 4, gradients added up)"
    config.train.micro_batch = 2
    assert load.batch_line(config, 4) == "batch: 16 images in all (4 processes x 2 x 2, gradients added up)"
    load.check_shares(config, 4)
    with pytest.raises(UserError, match="batch_size=16: must be a multiple of the number of processes, 3"):
        load.check_shares(config, 3)
    config.train.micro_batch = 8
    with pytest.raises(UserError, match="micro_batch=8: must divide each process's share of the batch, 16 / 4 = 4"):
        load.check_shares(config, 4)


def test_the_batch_that_weights_record() -> None:
    config = Config()
    config.train.recipe_batch = 16
    file = weights(format=FORMAT, config={"train": {"batch_size": 8}})
    assert "weights.safetensors was trained with another batch: the effective batch is 8" in (
        load.weights_batch_warning(file, config)
    )
    for meta in (
        {"config": {"train": {"batch_size": 8}}},  # not ours: what its config says is not ours to read
        {"format": FORMAT, "config": {"train": {"batch_size": 16}}},
        {"format": FORMAT, "config": {}},
        {"format": FORMAT},
    ):
        assert load.weights_batch_warning(weights(**meta), config) == ""
