"""Learned prompts."""

from __future__ import annotations

import jittor as jt
import numpy as np
from jittor import nn

from jseg.clip.blocks import Dropout
from jseg.model.image_encoder import project_prompts, random_prompt_weights


def test_dropout_differs_between_images() -> None:
    projection, dropout = nn.Linear(64, 64), Dropout(0.5)
    embeddings = jt.ones((4, 64))
    without = project_prompts(embeddings, projection, dropout, batch=2).numpy()
    np.testing.assert_array_equal(without[0], without[1])
    dropout.active = True
    dropped = project_prompts(embeddings, projection, dropout, batch=2).numpy()
    assert ((dropped[0] == 0) != (dropped[1] == 0)).any()


def test_initial_prompts() -> None:
    weights = random_prompt_weights(4, 50, 128, 16, np.random.default_rng(0))
    bound = (6 / (3 * 256 + 128)) ** 0.5
    for name, shape in (("prompt_embeddings", (1, 50, 128)), ("deep_prompt_embeddings", (3, 50, 128))):
        assert weights[name].shape == shape
        assert bound * 0.99 < np.abs(weights[name]).max() <= bound
        assert abs(weights[name].std() - bound / 3**0.5) < 0.01 * bound
    assert abs(weights["prompt_proj.weight"].std() - (2 / 128) ** 0.5) < 0.003
    assert 0.9 * 128**-0.5 < np.abs(weights["prompt_proj.bias"]).max() <= 128**-0.5
    assert (weights["prompt_norm.weight"] == 1).all()
    assert (weights["prompt_norm.bias"] == 0).all()


def test_a_single_layer_has_no_deep_prompts() -> None:
    assert "deep_prompt_embeddings" not in random_prompt_weights(1, 5, 8, 16, np.random.default_rng(0))


def test_in_evaluation_all_images_share_their_prompts() -> None:
    projection, dropout, embeddings = nn.Linear(8, 8), Dropout(0.5), jt.ones((4, 8))
    with jt.no_grad():
        assert project_prompts(embeddings, projection, dropout, batch=3).shape == (1, 4, 8)
        dropout.active = True
        assert project_prompts(embeddings, projection, dropout, batch=3).shape == (3, 4, 8)
