"""The head: region alignment, the two-way decoder and the recovery decoder."""

import jittor as jt
import numpy as np
import pytest

from jseg.clip.blocks import Linear, unit_length
from jseg.model import head
from jseg.model.clip_rc import set_training
from jseg.model.head import DecoderLayer, class_queries, pixel_features, pixels, query_features
from jseg.model.image_encoder import ImageFeatures
from jseg.ops import layers

DEPTH = 8


def random_features(patch_grid: tuple[int, int], region_grid: tuple[int, int]) -> ImageFeatures:
    generator = np.random.default_rng(0)

    def vectors(*shape: int) -> jt.Var:
        return unit_length(jt.array(generator.standard_normal((*shape, DEPTH)).astype(np.float32)))

    patches, regions = patch_grid[0] * patch_grid[1], region_grid[0] * region_grid[1]
    return ImageFeatures(vectors(2), vectors(2, regions), vectors(2, patches), patch_grid, region_grid)


def random_text(classes: int) -> jt.Var:
    return jt.array(np.random.default_rng(1).standard_normal((classes, DEPTH)).astype(np.float32))


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


def test_four_dropouts_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention weights; after proj; after ReLU; after linear2."""
    rates = []
    monkeypatch.setattr(layers, "dropout", lambda x, rate: rates.append((tuple(x.shape), rate)) or x)
    attention = head.cross_attention
    monkeypatch.setattr(
        head, "cross_attention", lambda *inputs: rates.append(("weights", inputs[-1])) or attention(*inputs)
    )
    layer = DecoderLayer(16, 4, 2, 0.1)
    set_training(layer, True)
    layer((jt.randn(2, 6, 16),) * 2, (jt.randn(2, 9, 16),) * 2)
    assert rates == [("weights", 0.1), ((2, 6, 16), 0.1), ((2, 6, 32), 0.1), ((2, 6, 16), 0.1)]
