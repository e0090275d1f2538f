"""Sliding windows and averaged views against restatements, for images of every size."""

from types import SimpleNamespace

import jittor as jt
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from jseg.config import TestConfig as InferenceConfig  # pytest would take its own name for a test
from jseg.data.loader import check_cost
from jseg.engine import sliding_window
from jseg.engine.sliding_window import ImageScores, mean_bands, predict_views, segments, window_starts
from jseg.errors import UserError

PATCH, CLASSES, SEEN, GAMMA = 16, 6, (0, 2, 3), 0.1
TOLERANCE = 2e-6  # of scores in [-0.1, 1]
TEXT = jt.zeros((CLASSES, 4))


class PatchMeans:
    """A model whose logits are different mixtures of the mean colours of each patch."""

    backbone = SimpleNamespace(conv1=SimpleNamespace(patch_size=PATCH), region_grid=(2, 2))

    weights = 8 * np.random.default_rng(1).standard_normal((CLASSES, 3)).astype(np.float32)

    def __call__(self, images: jt.Var, text: jt.Var) -> jt.Var:
        images = images.numpy()
        count, _, height, width = images.shape
        patches = images.reshape(count, 3, height // PATCH, PATCH, width // PATCH, PATCH).mean(axis=(3, 5))
        return jt.array(np.einsum("cd,bdhw->bchw", self.weights, patches).astype(np.float32))


def random_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((3, height, width)).astype(np.float32)


def oracle(model: PatchMeans, image: np.ndarray, config: InferenceConfig, size: tuple[int, int]) -> np.ndarray:
    """Sums of window scores and a count of windows at full size, then bilinear to `size`: (C, H', W')."""
    height, width = image.shape[1:]
    crop, stride = (config.crop_size, config.stride) if config.mode == "slide" else ((height, width), (height, width))
    total, count = torch.zeros(1, CLASSES, height, width), torch.zeros(1, 1, height, width)
    for row in range(max(height - crop[0] + stride[0] - 1, 0) // stride[0] + 1):
        for column in range(max(width - crop[1] + stride[1] - 1, 0) // stride[1] + 1):
            bottom, right = min(row * stride[0] + crop[0], height), min(column * stride[1] + crop[1], width)
            place = (..., slice(max(bottom - crop[0], 0), bottom), slice(max(right - crop[1], 0), right))
            part = image[place]
            padded = [-(-length // PATCH) * PATCH for length in part.shape[1:]]
            window = np.zeros((1, 3, *padded), np.float32)
            window[0, :, : part.shape[1], : part.shape[2]] = part
            logits = torch.from_numpy(model(jt.array(window), TEXT).numpy())
            scores = functional.interpolate(logits, size=padded, mode="bilinear", align_corners=False).sigmoid()
            scores[:, SEEN] -= GAMMA
            total[place] += scores[..., : part.shape[1], : part.shape[2]]
            count[place] += 1
    assert count.min() >= 1
    return functional.interpolate(total / count, size=size, mode="bilinear", align_corners=False)[0].numpy()


CASES = {
    "several windows each way, enlarged": ((100, 131), (150, 197)), "shrunk": ((100, 131), (77, 60)),
    "lower than a window, not whole patches": ((50, 131), (200, 97)),
    "exactly one window": ((64, 64), (64, 64)), "smaller than a window": ((33, 40), (66, 41)),
    "narrow": ((40, 300), (13, 100)),
}  # fmt: skip


@pytest.mark.parametrize("mode", ["slide", "whole"])
@pytest.mark.parametrize(("shape", "size"), CASES.values(), ids=CASES)
def test_scores_and_labels_equal_the_restatement(
    shape: tuple[int, int], size: tuple[int, int], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = InferenceConfig(mode=mode, crop_size=(64, 64), stride=(53, 53))
    model, image = PatchMeans(), random_image(*shape)
    expected = oracle(model, image, config, size)
    for band_values in (sliding_window.BAND_VALUES, 3000):  # the second makes bands of few rows
        monkeypatch.setattr(sliding_window, "BAND_VALUES", band_values)
        scores = ImageScores(model, image, TEXT, SEEN, GAMMA, config)
        np.testing.assert_allclose(scores.scores(size), expected, rtol=0, atol=TOLERANCE)
        np.testing.assert_array_equal(scores.scores(), scores.scores(shape))  # the image's own size is the default
        assert all(np.prod(band.shape) <= band_values for _, band in scores.bands(size))
        top_two = np.sort(expected, axis=0)[-2:]
        decided = top_two[1] - top_two[0] > 2 * TOLERANCE
        np.testing.assert_array_equal(scores.labels(size)[decided], expected.argmax(axis=0)[decided])
        assert decided.mean() > 0.99


@given(st.integers(1, 1200), st.integers(1, 512), st.data())
@settings(max_examples=100)
def test_windows_cover_a_side(length: int, crop: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, crop))
    starts = window_starts(length, crop, stride)
    side = min(crop, length)
    assert starts[0] == 0 and starts[-1] + side == length and starts == sorted(set(starts))
    covered = np.zeros(length, int)
    for start in starts:
        covered[start : start + side] += 1
    assert covered.min() >= 1
    assert window_starts(939, 512, 426) == [0, 426, 427]  # as published
    parts = segments(starts, side)
    assert [start for start, _, _ in parts] + [length] == [0] + [stop for _, stop, _ in parts]
    for start, stop, windows in parts:
        assert (covered[start:stop] == len(windows)).all()


@pytest.mark.parametrize("band_values", [sliding_window.BAND_VALUES, 2000])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [(64, 90), (130, 41)])
def test_mean_of_views(band_values: int, flip: bool, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """At two scales, and mirrored (the image is not symmetric)."""
    config = InferenceConfig(crop_size=(64, 64), stride=(48, 48), flip=flip)
    images, shares = [random_image(64, 90), random_image(96, 135)], []
    views = []
    for image in images:
        for step in (1, -1) if flip else (1,):
            view = np.ascontiguousarray(image[:, :, ::step])
            views.append((ImageScores(PatchMeans(), view, TEXT, SEEN, GAMMA, config), step == -1))
            powers = np.exp(views[-1][0].scores(size)[:, :, ::step].astype(np.float64))
            shares.append(powers / powers.sum(axis=0))
    expected = np.mean(shares, axis=0)
    monkeypatch.setattr(sliding_window, "BAND_VALUES", band_values)
    found = np.concatenate([band.numpy() for _, band in mean_bands(views, size)], axis=1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
    labels = predict_views(PatchMeans(), [jt.array(image) for image in images], TEXT, SEEN, GAMMA, config, size)
    decided = np.diff(np.sort(expected, axis=0)[-2:], axis=0)[0] > 2 * TOLERANCE
    assert decided.mean() > 0.99
    np.testing.assert_array_equal(labels[decided], expected.argmax(axis=0)[decided])


def test_an_excluded_seen_class_gets_no_share() -> None:
    """The strict protocol's large penalty leaves a softmax over the unseen classes."""
    config = InferenceConfig(crop_size=(64, 64), stride=(48, 48))
    image = random_image(64, 64)
    views = [(ImageScores(PatchMeans(), view, TEXT, SEEN, 100.0, config), True) for view in (image, image[:, :, ::-1])]
    (_, shares), *_ = mean_bands(views, (64, 64))
    assert np.abs(shares.numpy()[list(SEEN)]).max() < 1e-30
    np.testing.assert_allclose(shares.numpy().sum(axis=0), 1, atol=1e-5)


def test_images_of_the_usual_sizes_are_taken_and_absurd_ones_are_not() -> None:
    check_cost((3000, 40000), InferenceConfig(), "panorama")
    long = {"short_side": 10**5}
    for changes in (long, {"mode": "whole", **long}, {"scales": (1000.0,)}):
        with pytest.raises(UserError, match=r"photo: 2000x1000 .*test\.short_side"):
            check_cost((1000, 2000), InferenceConfig(**changes), "photo")
