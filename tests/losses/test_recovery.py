"""Recovery loss: value, gradient, and targets that stay untouched."""

from __future__ import annotations

from types import SimpleNamespace

import jittor as jt
import numpy as np

from jseg.model.losses import recovery_loss


def test_value_and_gradient() -> None:
    rng = np.random.default_rng(0)
    shapes = {"recovered_queries": (2, 6, 8), "recovered_pixels": (2, 9, 4)}
    recovered = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    targets = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    recovered["recovered_queries"][0, 0, 0] = targets["recovered_queries"][0, 0, 0]  # slope 0 where nothing is missing
    queries, pixels = (jt.array(value) for value in recovered.values())
    query_targets, pixel_targets = (jt.array(value) for value in targets.values())
    outputs = SimpleNamespace(
        recovered_queries=queries, query_targets=query_targets, recovered_pixels=pixels, pixel_targets=pixel_targets
    )
    losses = recovery_loss(outputs)
    for loss, name, variable in zip(losses, shapes, (queries, pixels), strict=True):
        difference = recovered[name] - targets[name]
        np.testing.assert_allclose(loss.item(), np.abs(difference).mean(), rtol=1e-6)
        np.testing.assert_allclose(jt.grad(loss, variable).numpy(), np.sign(difference) / difference.size, rtol=1e-6)
    for gradient in jt.grad(losses[0] + losses[1], [query_targets, pixel_targets]):
        assert not gradient.numpy().any()
