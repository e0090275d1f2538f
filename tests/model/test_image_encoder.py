"""The image encoder: recorded outputs, and what must hold at other sizes than those that were recorded."""

from collections.abc import Callable

import jittor as jt
import numpy as np
import pytest

from jseg.model.clip_rc import ClipRC
from jseg.model.image_encoder import keep_prompts, project_together
from jseg.weights.state import set_value


def maps_of(model: ClipRC, images: np.ndarray) -> dict[str, np.ndarray]:
    """All that the encoder leaves in a trace."""
    trace: dict[str, jt.Var] = {}
    with jt.no_grad():
        model.backbone(jt.array(images), trace)
        return {name: value.numpy() for name, value in trace.items()}


def random_images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (80, 96)])
@pytest.mark.parametrize("side", [1, 2, 3, 4])
def test_transposed_image_with_transposed_weights_gives_transposed_maps(
    make_model: Callable[..., ClipRC], size: tuple[int, int], side: int
) -> None:
    model = make_model(region_grid=side)
    backbone, images = model.backbone, random_images(1, 3, *size)
    bridge = np.random.default_rng(5).standard_normal((side**2, 32)).astype(np.float32)
    set_value(backbone.region_level_bridge, bridge)
    straight = maps_of(model, images)
    set_value(backbone.conv1.weight, backbone.conv1.weight.numpy().transpose(0, 1, 3, 2))
    positions = backbone.positional_embedding.numpy()
    positions[1:] = positions[1:].reshape(4, 4, -1).transpose(1, 0, 2).reshape(16, -1)
    set_value(backbone.positional_embedding, positions)
    set_value(backbone.region_level_bridge, bridge.reshape(side, side, -1).transpose(1, 0, 2).reshape(side**2, -1))
    turned = maps_of(model, images.transpose(0, 1, 3, 2))
    for name in ("visual", "region"):
        np.testing.assert_allclose(turned[name].transpose(0, 1, 3, 2), straight[name], atol=1e-5, err_msg=name)
    np.testing.assert_allclose(turned["cls"], straight["cls"], atol=1e-5)
    if size[0] == size[1]:  # the weights are not symmetric: the comparison above can fail
        assert np.abs(turned["visual"] - straight["visual"]).max() > 1e-2


def test_a_tower_of_one_layer(make_model: Callable[..., ClipRC]) -> None:
    assert maps_of(make_model(layers=1), random_images(1, 3, 64, 64))["visual"].shape == (1, 16, 4, 4)


def test_prompts_projected_together_as_one_after_the_other(small_model: ClipRC) -> None:
    """As on CUDA, with the gradient."""
    encoder, results = small_model.backbone, []
    prompts = jt.array(random_images(len(encoder.transformer.resblocks), 3, 2, 32))
    together = project_together(list(encoder.transformer.resblocks), prompts, "float32")
    for outputs in (encoder.project_prompts(prompts), together):
        loss = sum((output * output * (i + 1)).sum() for i, output in enumerate(outputs))
        results.append([x.numpy() for x in (*outputs, jt.grad(loss, prompts))])
    for computed, expected in zip(*results, strict=True):
        np.testing.assert_allclose(computed, expected, atol=1e-5 * np.abs(expected).max())


def test_kept_prompts_change_nothing_and_are_given_up(small_model: ClipRC) -> None:
    encoder = small_model.backbone
    images = [jt.array(random_images(batch, 3, 64, 64)) for batch in (1, 3, 2)]
    with jt.no_grad():
        fresh = [encoder(part).tokens.numpy() for part in images]
        with keep_prompts(encoder):
            kept = [encoder(part).tokens.numpy() for part in images]
            assert sorted(encoder.kept_prompts) == [0, 1, 2]
            set_value(encoder.prompt_embeddings, encoder.prompt_embeddings.numpy() + 1)
            same = encoder(images[0]).tokens.numpy()
        changed = encoder(images[0]).tokens.numpy()
    for expected, found in zip(fresh, kept, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_array_equal(same, kept[0])  # so they were not made again
    assert np.abs(changed - same).max() > 1e-3
    with keep_prompts(encoder):
        encoder(images[0]).tokens.sync()  # gradients may be asked for
        assert not encoder.kept_prompts
