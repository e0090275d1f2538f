"""The recovery decoder."""

from __future__ import annotations

from collections.abc import Callable

import jittor as jt
import numpy as np
import pytest

from jseg.model.clip_rc import ClipRC


@pytest.mark.parametrize("count", [1, 2])
def test_recovers_the_shapes_of_the_targets(make_model: Callable[..., ClipRC], count: int) -> None:
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
