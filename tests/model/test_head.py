"""The head: region alignment, the two-way decoder and the recovery decoder."""

from __future__ import annotations

from collections.abc import Callable

import jittor as jt
import numpy as np
import pytest
import torch

from jseg.clip import blocks
from jseg.clip.blocks import Linear, unit_length
from jseg.errors import UserError
from jseg.model import head
from jseg.model.clip_rc import ClipRC, set_training
from jseg.model.head import CrossAttention, DecoderLayer, class_queries, decode, pixel_features, pixels, query_features
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


def random_tokens(*shape: int, seed: int = 0) -> jt.Var:
    return jt.array(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def decoder_layers(count: int) -> list[DecoderLayer]:
    return [DecoderLayer(16, 4, 2, 0.1) for _ in range(count)]


def test_both_sides_see_the_old_values_of_the_other() -> None:
    q_layers, v_layers = decoder_layers(2), decoder_layers(2)
    q, v = random_tokens(2, 6, 16), random_tokens(2, 9, 16, seed=1)
    q1, v1 = q_layers[0](q, v), v_layers[0](v, q)
    expected = q_layers[1](q1, v1).numpy(), v_layers[1](v1, q1).numpy()
    trace: dict[str, jt.Var] = {}
    computed = decode(q_layers, v_layers, q, v, trace)
    for ours, theirs in zip(computed, expected, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-6)
    assert sorted(trace) == ["q1", "q2", "v1", "v2"]
    np.testing.assert_allclose(trace["v1"].numpy(), v1.numpy(), atol=1e-6)
    in_turn = v_layers[0](v, q1).numpy()
    assert np.abs(in_turn - v1.numpy()).max() > 1e-3  # updating one after the other would show


def test_a_layer_equals_pytorch() -> None:
    layer, x, memory = decoder_layers(1)[0], random_tokens(2, 6, 16), random_tokens(2, 9, 16, seed=1)
    own = {name: torch.tensor(var.numpy()) for name, var in layer.state_dict().items()}
    attention = torch.nn.MultiheadAttention(16, 4, batch_first=True)
    attention.load_state_dict(
        {
            "in_proj_weight": torch.cat([own[f"multihead_attn.{name}.weight"] for name in "qkv"]),
            "in_proj_bias": torch.cat([own[f"multihead_attn.{name}.bias"] for name in "qkv"]),
            "out_proj.weight": own["multihead_attn.proj.weight"],
            "out_proj.bias": own["multihead_attn.proj.bias"],
        }
    )
    normalise = torch.nn.functional.layer_norm
    linear = torch.nn.functional.linear
    with torch.no_grad():
        y, other = torch.tensor(x.numpy()), torch.tensor(memory.numpy())
        y = normalise(y + attention(y, other, other)[0], (16,), own["norm2.weight"], own["norm2.bias"])
        inner = torch.relu(linear(y, own["linear1.weight"], own["linear1.bias"]))
        inner = linear(inner, own["linear2.weight"], own["linear2.bias"])
        expected = normalise(y + inner, (16,), own["norm3.weight"], own["norm3.bias"])
    np.testing.assert_allclose(layer(x, memory).numpy(), expected.numpy(), atol=5e-6)


def test_four_dropouts_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention weights; after proj; after ReLU; after linear2."""
    rates = []
    monkeypatch.setattr(blocks, "dropout", lambda x, rate: rates.append((tuple(x.shape), rate)) or x)
    attention = head.cross_attention
    monkeypatch.setattr(
        head, "cross_attention", lambda *inputs: rates.append(("weights", inputs[-1])) or attention(*inputs)
    )
    layer = decoder_layers(1)[0]
    layer(random_tokens(2, 6, 16), random_tokens(2, 9, 16, seed=1))
    assert rates == [("weights", 0.0)]
    rates.clear()
    set_training(layer, True)
    layer(random_tokens(2, 6, 16), random_tokens(2, 9, 16, seed=1))
    assert rates == [("weights", 0.1), ((2, 6, 16), 0.1), ((2, 6, 32), 0.1), ((2, 6, 16), 0.1)]


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(UserError, match=r"model\.decoder_heads=3"):
        CrossAttention(16, 3, 0.0)


@pytest.mark.parametrize("count", [1, 2])
def test_recovered_features_have_the_shapes_of_the_targets(make_model: Callable[..., ClipRC], count: int) -> None:
    model = make_model(recovery_layers=count)
    images = jt.array(np.random.default_rng(0).standard_normal((2, 3, 64, 96)).astype(np.float32))
    outputs = model.training_outputs(images, jt.ones((3, 16)))
    assert tuple(outputs.recovered_queries.shape) == tuple(outputs.query_targets.shape) == (2, 4 * 3, 32)
    assert tuple(outputs.recovered_pixels.shape) == tuple(outputs.pixel_targets.shape) == (2, 24, 16)
    names = [name for name in model.decode_head.recovery_decoder.state_dict() if name.startswith("decouple_q")]
    assert len(names) == count * 16


def test_targets_carry_no_gradient(small_model: ClipRC) -> None:
    images = jt.array(np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(np.float32))
    outputs = small_model.training_outputs(images, jt.ones((3, 16)))
    prompts = small_model.backbone.prompt_embeddings
    targets = (outputs.query_targets**2).sum() + (outputs.pixel_targets * jt.arange(16)).sum()
    recovered = (outputs.recovered_queries**2).sum()
    assert np.abs(jt.grad(targets, prompts).numpy()).max() == 0
    assert np.abs(jt.grad(recovered, prompts).numpy()).max() > 0
