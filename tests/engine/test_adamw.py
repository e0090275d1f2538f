"""AdamW against PyTorch's, compiled and plain."""

from __future__ import annotations

import jittor as jt
import numpy as np
import pytest
import torch

from jseg.config import OptimizerConfig
from jseg.engine.optimizer import AdamW

SHAPES = {"decode_head.q_proj.weight": (37, 513), "backbone.prompt_norm.weight": (5,), "decode_head.q_proj.bias": (1,)}
CONFIG = OptimizerConfig(lr=1e-2, weight_decay=0.3, warmup_iterations=0, groups="stated")


@pytest.mark.parametrize("kernels", ["auto", "plain"])
def test_the_same_steps_as_pytorch(kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five steps with gradients of many sizes, two groups and a resume in between."""
    monkeypatch.setenv("JSEG_KERNELS", kernels)
    generator = np.random.default_rng(0)
    start = {name: generator.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    weights = {name: jt.array(value) for name, value in start.items()}
    own = AdamW(list(weights.items()), CONFIG)
    theirs = {name: torch.nn.Parameter(torch.from_numpy(value.copy())) for name, value in start.items()}
    groups = [
        {"params": [value], "weight_decay": 0.0 if "norm" in name else CONFIG.weight_decay}
        for name, value in theirs.items()
    ]
    other = torch.optim.AdamW(groups, lr=1.0, betas=CONFIG.betas, eps=CONFIG.eps)
    for iteration in range(5):
        lr = own.set_learning_rate(iteration, 20, CONFIG)
        gradients = {
            name: (10.0 ** generator.integers(-9, 3) * generator.standard_normal(shape)).astype(np.float32)
            for name, shape in SHAPES.items()
        }
        waiting = weights["decode_head.q_proj.bias"] * 2  # computed later, from the weights as they are now
        before = weights["decode_head.q_proj.bias"].numpy()
        own.step([jt.array(gradients[name]) for name in own.names])
        assert waiting.numpy() == 2 * before
        for name, value in theirs.items():
            value.grad = torch.from_numpy(gradients[name])
        for group in other.param_groups:
            group["lr"] = lr
        other.step()
        for name, value in theirs.items():
            np.testing.assert_allclose(weights[name].numpy(), value.detach().numpy(), rtol=2e-6, atol=2e-7)
            assert not weights[name].is_stop_grad()
        if iteration == 2:
            state = own.state()
            own = AdamW(list(weights.items()), CONFIG)
            own.load_state(state)
    m, v = (torch.cat([other.state[value][key].flatten() for value in theirs.values()]).numpy()
            for key in ("exp_avg", "exp_avg_sq"))  # fmt: skip
    state = own.state()
    np.testing.assert_allclose(np.concatenate([state.m[name].ravel() for name in theirs]), m, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(np.concatenate([state.v[name].ravel() for name in theirs]), v, rtol=1e-5, atol=1e-12)
