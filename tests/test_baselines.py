"""Segmentation without learning: both kinds of patch features against a NumPy computation."""

from __future__ import annotations

import jittor as jt
import numpy as np
import pytest

from jseg.baselines import before_last_block, patch_scores
from jseg.clip.image_tower import ImageTower, random_image_weights
from jseg.weights.state import state_arrays, strict_load


@pytest.fixture(params=[1, 2])
def tower(request: pytest.FixtureRequest) -> ImageTower:
    tower = ImageTower(16, 8, 12, request.param, 3, 6)
    rng = np.random.default_rng(0)
    weights = {name: value + rng.standard_normal(value.shape).astype(np.float32) * 0.1
               for name, value in random_image_weights(tower, rng).items()}  # fmt: skip
    strict_load(tower, weights)
    return tower


def layer_norm(x: np.ndarray, weights: dict[str, np.ndarray], name: str) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt(centred.var(-1, keepdims=True) + 1e-5)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(x: np.ndarray, weights: dict[str, np.ndarray], name: str) -> np.ndarray:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def last_block(
    x: np.ndarray, weights: dict[str, np.ndarray], layer: int, value_path: bool, class_token: bool
) -> np.ndarray:
    """Tokens (T, 12) through the last block in plain NumPy, 3 heads."""
    prefix = f"transformer.resblocks.{layer}."
    projected = (
        layer_norm(x, weights, prefix + "ln_1") @ weights[prefix + "attn.in_proj_weight"].T
        + weights[prefix + "attn.in_proj_bias"]
    )
    q, k, v = np.split(projected, 3, axis=-1)
    if not value_path:
        heads = []
        for part in np.split(np.arange(12), 3):
            scores = np.exp(q[:, part] @ k[:, part].T / 2)
            heads.append(scores / scores.sum(-1, keepdims=True) @ v[:, part])
        v = np.concatenate(heads, axis=-1)
    x = (x[:1] if class_token else x) + linear(v, weights, prefix + "attn.out_proj")
    hidden = linear(layer_norm(x, weights, prefix + "ln_2"), weights, prefix + "mlp.c_fc")
    return x + linear(hidden / (1 + np.exp(-1.702 * hidden)), weights, prefix + "mlp.c_proj")


@pytest.mark.parametrize("value_path, class_token", [(False, False), (True, False), (True, True)])
def test_features_and_scores_as_computed_by_hand(tower: ImageTower, value_path: bool, class_token: bool) -> None:
    rng = np.random.default_rng(1)
    images, text = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 3, 16, 24), (4, 6)))
    weights, layer = state_arrays(tower), len(tower.transformer.resblocks) - 1
    tokens = before_last_block(tower, jt.array(images)).numpy()
    expected = np.stack([last_block(row, weights, layer, value_path, class_token) for row in tokens])
    embedded = (layer_norm(expected, weights, "ln_post") @ weights["proj"])[:, 1:]
    embedded /= np.linalg.norm(embedded, axis=-1, keepdims=True)
    expected = np.einsum("bnd,cd->bcn", embedded, text).reshape(2, 4, 2, 3)
    scores = patch_scores(tower, jt.array(images), jt.array(text), value_path, class_token).numpy()
    np.testing.assert_allclose(scores, expected, atol=2e-5)
