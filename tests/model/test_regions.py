"""Region alignment: the projections of parts against the projection of the whole."""

from __future__ import annotations

import jittor as jt
import numpy as np
import pytest

from jseg.clip.blocks import Linear, unit_length
from jseg.model.head import class_queries, pixel_features, pixels, query_features
from jseg.model.image_encoder import ImageFeatures

DEPTH = 8


def random_features(patch_grid: tuple[int, int], region_grid: tuple[int, int]) -> ImageFeatures:
    generator = np.random.default_rng(0)

    def vectors(*shape: int) -> jt.Var:
        return unit_length(jt.array(generator.standard_normal((*shape, DEPTH)).astype(np.float32)))

    patches, regions = patch_grid[0] * patch_grid[1], region_grid[0] * region_grid[1]
    return ImageFeatures(vectors(2), vectors(2, regions), vectors(2, patches), patch_grid, region_grid)


def random_text(classes: int) -> jt.Var:
    return jt.array(np.random.default_rng(1).standard_normal((classes, DEPTH)).astype(np.float32))


def test_query_features_are_region_major() -> None:
    features, text = random_features((4, 6), (2, 2)), random_text(3)
    computed = query_features(features, text).numpy()
    assert computed.shape == (2, 4 * 3, 2 * DEPTH)
    region, category = 2, 1
    expected = (features.regions.numpy()[0, region] + features.whole.numpy()[0]) * text.numpy()[category]
    np.testing.assert_allclose(computed[0, region * 3 + category, :DEPTH], expected, atol=1e-6)
    np.testing.assert_array_equal(computed[0, region * 3 + category, DEPTH:], text.numpy()[category])


def test_pixel_features_are_region_whole_patch() -> None:
    features = random_features((4, 6), (2, 2))
    computed = pixel_features(features).numpy()
    np.testing.assert_allclose(computed[1, 0, :DEPTH], features.regions.numpy()[1, 0], atol=1e-6)  # a corner
    np.testing.assert_allclose(computed[1, -1, :DEPTH], features.regions.numpy()[1, 3], atol=1e-6)
    np.testing.assert_array_equal(computed[1, 7, DEPTH : 2 * DEPTH], features.whole.numpy()[1])
    np.testing.assert_array_equal(computed[1, 7, 2 * DEPTH :], features.patches.numpy()[1, 7])


@pytest.mark.parametrize("grids", [((4, 6), (2, 2)), ((5, 4), (3, 3)), ((3, 3), (1, 1))])
@pytest.mark.parametrize("classes", [1, 5])
def test_projecting_parts_equals_projecting_the_whole(grids: tuple, classes: int) -> None:
    features, text = random_features(*grids), random_text(classes)
    q_proj, lateral_proj = Linear(2 * DEPTH, DEPTH), Linear(3 * DEPTH, DEPTH)
    np.testing.assert_allclose(
        class_queries(features, text, q_proj).numpy(), q_proj(query_features(features, text)).numpy(), atol=1e-6
    )
    np.testing.assert_allclose(
        pixels(features, lateral_proj).numpy(), lateral_proj(pixel_features(features)).numpy(), atol=1e-6
    )
