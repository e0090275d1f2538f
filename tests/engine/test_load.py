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
    load.check_start(weights(**meta), transductive())


@pytest.mark.parametrize("meta", [{"format": FORMAT, "iteration": 40000}, {"iter": 40000}, {}])
def test_another_iteration_is_refused_with_two_ways_out(meta: dict) -> None:
    with pytest.raises(
        UserError, match=r"after iteration (40000|unknown).*20000.*checkpoint_0020000.*expected_iteration=0"
    ):
        load.check_start(weights(**meta), transductive())
    config = transductive()
    config.train.expected_iteration = 0
    load.check_start(weights(**meta), config)


def test_supervised_weights_are_no_start_for_a_transductive_run() -> None:
    file = weights(format=FORMAT, iteration=20000, setting="supervised")
    with pytest.raises(UserError, match="knows the labels of the unseen classes: start from the inductive checkpoint"):
        load.check_start(file, transductive())
    config = transductive()
    config.data.setting = "supervised"
    load.check_start(file, config)


def test_batch() -> None:
    config = Config()
    config.train.recipe_batch = 16
    assert load.batch_lines(config) == "batch: 16 images in all"
    config.train.micro_batch = 4
    assert load.batch_lines(config, 2).endswith("all (2 processes x 2 micro-batches x 4, gradients added up)")
    config.train.batch_size = 8
    assert "\nwarning: the effective batch is 8, the recipe's is 16" in load.batch_lines(config)
    config.train.batch_size = 16
    load.check_shares(config, 4)
    for micro_batch, world in ((0, 3), (8, 4)):
        config.train.micro_batch = micro_batch
        with pytest.raises(UserError, match="batch_size=16: must be a multiple"):
            load.check_shares(config, world)
