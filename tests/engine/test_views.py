"""Averaged views against plain arithmetic on whole score maps, and with bands of any height."""

from __future__ import annotations

from types import SimpleNamespace

import jittor as jt
import numpy as np
import pytest

from jseg.config import TestConfig as InferenceConfig  # pytest would take its own name for a test
from jseg.engine import sliding_window
from jseg.engine.sliding_window import AveragedViews, ImageScores, predict_views

PATCH, CLASSES, SEEN, GAMMA = 16, 5, (0, 2), 0.1
TEXT = jt.zeros((CLASSES, 4))
TOLERANCE = 2e-6  # of shares in [0, 1]


class Patches:
    """A model whose logits mix the mean colours of a patch, and are not the same for a mirrored picture."""

    backbone = SimpleNamespace(conv1=SimpleNamespace(patch_size=PATCH), region_grid=(2, 2))

    def __call__(self, images: jt.Var, text: jt.Var) -> jt.Var:
        images = images.numpy()
        count, _, height, width = images.shape
        means = images.reshape(count, 3, height // PATCH, PATCH, width // PATCH, PATCH).mean(axis=(3, 5))
        weights = 8 * np.random.default_rng(1).standard_normal((CLASSES, 3))
        slope = np.linspace(0, 1, means.shape[3])
        return jt.array((np.einsum("cd,bdhw->bchw", weights, means) + slope).astype(np.float32))


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).standard_normal((3, height, width)).astype(np.float32)


def expected(images: list[np.ndarray], config: InferenceConfig, size: tuple[int, int]) -> np.ndarray:
    parts = []
    for image in images:
        for step in (1, -1) if config.flip else (1,):
            view = np.ascontiguousarray(image[:, :, ::step])
            scores = ImageScores(Patches(), view, TEXT, SEEN, GAMMA, config).scores(size)[:, :, ::step]
            powers = np.exp(scores.astype(np.float64))
            parts.append(powers / powers.sum(axis=0))
    return np.mean(parts, axis=0)


@pytest.mark.parametrize("band_values", [sliding_window.BAND_VALUES, 2000])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [(64, 90), (130, 41)])
def test_mean_of_softmaxes(
    band_values: int, flip: bool, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = InferenceConfig(crop_size=(64, 64), stride=(48, 48), flip=flip)
    images = [picture(64, 90), picture(96, 135)]
    wanted = expected(images, config, size)
    monkeypatch.setattr(sliding_window, "BAND_VALUES", band_values)
    views = AveragedViews(Patches(), images, TEXT, SEEN, GAMMA, config)
    found = np.concatenate([band.numpy() for _, band in views.bands(size)], axis=1)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE)
    labels = views.labels(size)
    decided = np.diff(np.sort(wanted, axis=0)[-2:], axis=0)[0] > 2 * TOLERANCE
    assert decided.mean() > 0.99
    np.testing.assert_array_equal(labels[decided], wanted.argmax(axis=0)[decided])


def test_one_view_is_the_plain_prediction() -> None:
    config = InferenceConfig(crop_size=(64, 64), stride=(48, 48))
    found = predict_views(Patches(), [picture(80, 80)], TEXT, SEEN, GAMMA, config, (77, 77))
    plain = ImageScores(Patches(), picture(80, 80), TEXT, SEEN, GAMMA, config).labels((77, 77))
    np.testing.assert_array_equal(found, plain)


def test_a_seen_class_that_is_ruled_out_gets_no_share() -> None:
    """The strict protocol's large penalty leaves a softmax over the unseen classes."""
    config = InferenceConfig(crop_size=(64, 64), stride=(48, 48), flip=True)
    views = AveragedViews(Patches(), [picture(64, 64)], TEXT, SEEN, 100.0, config)
    (_, shares), *_ = views.bands((64, 64))
    assert np.abs(shares.numpy()[list(SEEN)]).max() < 1e-30
    np.testing.assert_allclose(shares.numpy().sum(axis=0), 1, atol=1e-5)
