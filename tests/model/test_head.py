"""The head: region alignment, the two-way decoder and the recovery decoder."""

import jittor as jt
import numpy as np
import pytest

from jseg.model import head
from jseg.model.clip_rc import set_training
from jseg.model.head import DecoderLayer, _DecoderInputs
from jseg.ops import layers
from jseg.ops.bilinear import grid_interpolation_matrix
from tests.ops.reference import random_vars

DEPTH = 8


@pytest.mark.parametrize("grids", [((2, 2), (4, 6)), ((3, 3), (5, 4)), ((1, 1), (3, 3)), ((0, 0), (2, 3))])
@pytest.mark.parametrize("classes", [1, 5])
def test_inputs_of_the_decoder(grids: tuple, classes: int) -> None:
    """And their gradient, against a concatenation of parts."""
    (rows, columns), (height, width) = grids
    sizes, (text,) = [1, height * width, rows * columns], random_vars((classes, DEPTH))
    (tokens,) = random_vars((2, sum(sizes), DEPTH))
    queries, pixels, _ = _DecoderInputs.apply(tokens, text, *grids, "float32")
    whole, patches, regions = (tokens[:, sum(sizes[:i]) : sum(sizes[: i + 1])] for i in range(3))
    both = ((regions + whole if sizes[2] else whole).unsqueeze(2) * text).reshape(2, -1, DEPTH)
    matrix = jt.array(grid_interpolation_matrix(*grids))
    maps = [jt.matmul(matrix.broadcast((2, *matrix.shape)), regions)] * bool(sizes[2])
    expected_pixels = jt.concat([*maps, whole.broadcast(patches.shape), patches], 2)
    expected_queries = jt.concat([both, jt.array(np.tile(text.numpy(), (2, max(1, sizes[2]), 1)))], 2)
    results = []
    for of_queries, of_pixels in ((queries, pixels), (expected_queries, expected_pixels)):
        loss = of_queries.pow(3).sum() + of_pixels.pow(3).sum()
        results.append([x.numpy() for x in (of_queries, of_pixels, jt.grad(loss, tokens))])
    for computed, expected in zip(*results, strict=True):
        np.testing.assert_allclose(computed, expected, atol=1e-5, rtol=1e-6 if jt.flags.use_cuda else 1e-7)


def test_four_dropouts_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention weights; after proj; after ReLU; after linear2: on a CPU, where each of these is a call of its own."""
    rates, jt.flags.use_cuda = [], 0
    monkeypatch.setattr(layers, "dropout", lambda x, rate: rates.append((tuple(x.shape), rate)) or x)
    attention = head.cross_attention
    monkeypatch.setattr(
        head, "cross_attention", lambda *inputs: rates.append(("weights", inputs[-1])) or attention(*inputs)
    )
    layer = DecoderLayer(16, 4, 2, 0.1)
    set_training(layer, True)
    layer((jt.randn(2, 6, 16),) * 2, (jt.randn(2, 9, 16),) * 2)
    assert rates == [("weights", 0.1), ((2, 6, 16), 0.1), ((2, 6, 32), 0.1), ((2, 6, 16), 0.1)]
