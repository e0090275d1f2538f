"""Starting points and batches that keep to the recipe, or do not."""

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


def test_a_transductive_run_starts_from_the_expected_iteration_of_an_inductive_one() -> None:
    for meta in ({"format": FORMAT, "iteration": 20000}, {"iter": 20000, "CLASSES": ("a",)}, {"iter": 19999}):
        load.check_start(weights(**meta), transductive())
    refusal = r"after iteration (40000|unknown).*20000.*checkpoint_0020000.*expected_iteration=0"
    for meta in ({"format": FORMAT, "iteration": 40000}, {"iter": 40000}, {}):
        with pytest.raises(UserError, match=refusal):
            load.check_start(weights(**meta), transductive())
        config = transductive()
        config.train.expected_iteration = 0
        load.check_start(weights(**meta), config)
    with pytest.raises(UserError, match="labels of unseen classes: start from the inductive checkpoint"):
        load.check_start(weights(format=FORMAT, iteration=20000, setting="supervised"), transductive())
