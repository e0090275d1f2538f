"""AdamW and sums of squares by their CUDA kernels, run by the emulation, against the C++ kernels."""

from __future__ import annotations

import jittor as jt
import numpy as np
import pytest
import torch

from jseg.config import OptimizerConfig
from jseg.engine.optimizer import AdamW, square_sums
from tests.cuda_emulation.emulated_attention import ORDERS, Library, compile_library

SIZES = [1, 255, 257, 1500, *[3] * 95]  # around those of blocks; more tensors than one launch takes
BLOCKS = 2


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library(compile_library("optimizer.cpp", tmp_path_factory.mktemp("cuda_emulation"), ()))


def random_tensors(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, generator=generator) for size in SIZES]


@pytest.mark.parametrize("order", ORDERS)
def test_square_sums(order: int, kernels: Library) -> None:
    kernels.order, tensors = order, random_tensors(0)
    outputs = [torch.empty(len(SIZES)), torch.empty(len(SIZES), BLOCKS), *tensors]
    sums = kernels.run("square_sums", {"blocks": BLOCKS}, [], outputs, len(SIZES))[0]
    expected = square_sums([jt.array(x.numpy()) for x in tensors]).numpy()
    np.testing.assert_allclose(sums.numpy(), expected, rtol=5e-7)


def test_steps(kernels: Library) -> None:
    """Two steps, the second one clipped; then one that is left out, with gradients that are not finite."""
    config = OptimizerConfig(lr=1e-2, weight_decay=0.3, groups="stated")
    names = [f"norm {i}" if i % 2 else str(i) for i in range(len(SIZES))]
    weights = random_tensors(1)
    own = AdamW([(name, jt.array(x.numpy())) for name, x in zip(names, weights, strict=True)], config)
    m, v = ([torch.zeros_like(x) for x in weights] for _ in range(2))
    steps, numbers = torch.zeros(1, dtype=torch.int32), {"beta_m": 0.9, "beta_v": 0.999, "eps": 1e-8, "lr": own.lr}
    decays = torch.tensor([0.0 if "norm" in name else 0.3 for name in names])
    for seed, factor in ((2, 1.0), (3, 0.25), (4, 0.0)):
        gradients = random_tensors(seed) if factor else [torch.full((size,), torch.nan) for size in SIZES]
        own.step([jt.array(x.numpy()) for x in gradients], jt.array([factor]))
        kept = [*weights, *gradients, *m, *v]
        inputs, outputs = [steps, torch.tensor([factor]), decays], [torch.empty_like(steps), *kept]
        steps = kernels.run("adamw", numbers | {"blocks": BLOCKS}, inputs, outputs, len(kept))[0]
        assert int(steps) == own.steps == min(seed - 1, 2)
        expected = [*own.parameters, *own._m.values(), *own._v.values()]
        for computed, variable in zip([*weights, *m, *v], expected, strict=True):
            np.testing.assert_allclose(computed.numpy(), variable.numpy(), rtol=1e-6, atol=1e-9)
