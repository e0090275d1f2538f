"""Tests of jseg/engine/optimizer.py: AdamW against PyTorch's, groups and schedules as recorded, norm and clipping."""

import json
from pathlib import Path

import jittor as jt
import numpy as np
import pytest
import torch

from jseg.config import OptimizerConfig
from jseg.engine.optimizer import AdamW, group_settings, learning_rate, square_sums, step_factor
from jseg.errors import UserError

SHAPES = {"decode_head.q_proj.weight": (37, 513), "backbone.prompt_norm.weight": (5,), "decode_head.q_proj.bias": (1,)}
CONFIG = OptimizerConfig(lr=1e-2, weight_decay=0.3, warmup_iterations=0, groups="stated")


@pytest.mark.parametrize("choice", ["auto", "plain"])
def test_the_same_steps_as_pytorch(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five steps with gradients of many sizes, two groups, one left out before each, clipping, a resume in between."""
    monkeypatch.setenv("JSEG_KERNELS", choice)
    generator = np.random.default_rng(0)
    start = {name: generator.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    weights = {name: jt.array(value) for name, value in start.items()}
    own = AdamW(list(weights.items()), CONFIG)
    theirs = {name: torch.nn.Parameter(torch.from_numpy(value.copy())) for name, value in start.items()}
    decays = {name: 0.0 if "norm" in name else CONFIG.weight_decay for name in theirs}
    groups = [{"params": [value], "weight_decay": decays[name]} for name, value in theirs.items()]
    other = torch.optim.AdamW(groups, lr=1.0, betas=CONFIG.betas, eps=CONFIG.eps)
    for iteration in range(5):
        lr = own.lr = learning_rate(iteration, 20, CONFIG)
        gradients = {
            name: (10.0 ** generator.integers(-9, 3) * generator.standard_normal(shape)).astype(np.float32)
            for name, shape in SHAPES.items()
        }
        waiting = weights["decode_head.q_proj.bias"] * 2  # computed later, from the weights as they are now
        before = weights["decode_head.q_proj.bias"].numpy()
        state, bad = own.state(), [jt.full(shape, np.nan) for shape in SHAPES.values()]
        own.step(bad, jt.zeros(1))
        unchanged = [weights["decode_head.q_proj.bias"].numpy() == before, own.steps == iteration]
        assert all(unchanged + [np.array_equal(value, state[name]) for name, value in own.state().items()])
        factor = 0.25 if iteration == 3 else None
        own.step([jt.array(gradients[name]) for name in own.names], factor and jt.array([factor]))
        assert waiting.numpy() == 2 * before and own.steps == iteration + 1
        for name, value in theirs.items():
            value.grad = torch.from_numpy(gradients[name]) * (factor or 1)
        for group in other.param_groups:
            group["lr"] = lr
        other.step()
        for name, value in theirs.items():
            np.testing.assert_allclose(weights[name].numpy(), value.detach().numpy(), rtol=2e-6, atol=2e-7)
            assert not weights[name].is_stop_grad()
        if iteration == 2:
            state = own.state()
            own = AdamW(list(weights.items()), CONFIG)
            own.load_state(state, 3)
    state = own.state()
    for name, value in theirs.items():
        for prefix, key, atol in (("optimizer.m.", "exp_avg", 1e-7), ("optimizer.v.", "exp_avg_sq", 1e-12)):
            np.testing.assert_allclose(state[prefix + name], other.state[value][key], rtol=1e-5, atol=atol)
    state["optimizer.m.decode_head.q_proj.weight"] = np.zeros((2, 2), np.float32)
    with pytest.raises(UserError, match=r"does not fit this model: optimizer\.m\.decode_head\.q_proj\.weight"):
        own.load_state(state, 5)


@pytest.mark.parity
def test_every_released_parameter_has_the_recorded_rate_and_decay(golden: Path) -> None:
    files = sorted((golden / "torch_release").glob("param_groups_full*.json"))
    assert files
    for file in files:
        recorded = json.loads(file.read_text())
        config = OptimizerConfig(lr=recorded["base_lr"], weight_decay=recorded["base_weight_decay"])
        for name, entry in recorded["trainable"].items():
            assert group_settings(name, config) == pytest.approx((entry["lr"], entry["weight_decay"]), rel=1e-12), name


def test_norm_and_clipping() -> None:
    squares = square_sums([jt.array(np.float32([[3.0, 0.0]])), jt.array(np.float32([4.0]))])
    assert squares.numpy().tolist() == [9, 16]
    sums = jt.array64(np.arange(5.0))
    factors = [step_factor(squares, sums, highest).item() for highest in (0.0, 5.0, 7.0, 2.0)]
    assert factors == pytest.approx([1, 1, 1, 0.4])
    for bad in (np.nan, np.inf, -np.inf):
        assert step_factor(squares, jt.array64(np.float64([1, bad])), 2.0).item() == 0


@pytest.mark.parametrize("choice", ["auto", "plain"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_a_value_that_is_not_finite_shows_in_norm(value: float, choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JSEG_KERNELS", choice)
    gradients = [jt.ones((2, 3)), jt.array(np.array([1.0, value], np.float32))]
    squares = square_sums(gradients)
    assert np.isfinite(squares.numpy()).tolist() == [True, False]
    assert [step_factor(squares, jt.zeros((5,), "float64"), highest).item() for highest in (0.0, 2.0)] == [0, 0]


def test_sums_of_many_tensors_keep_their_digits_and_nothing_piles_up() -> None:
    """Sizes around those of pieces and blocks, more tensors than one launch takes; 50 steps leave no Vars behind."""
    generator = np.random.default_rng(2)
    arrays = [generator.standard_normal(size).astype(np.float32) for size in (1, 255, 257, 16384, 70_001, *[3] * 120)]
    gradients = [jt.array(array) for array in arrays]
    expected = [np.square(array, dtype=np.float64).sum() for array in arrays]
    np.testing.assert_allclose(square_sums(gradients).numpy(), expected, rtol=5e-7)
    own, counts = AdamW([(str(i), jt.array(array)) for i, array in enumerate(arrays)], CONFIG), []
    for _ in range(50):
        square_sums(gradients).sync()
        own.step(gradients)
        counts.append(jt.liveness_info()["lived_vars"])
    assert counts[-1] == counts[5]
