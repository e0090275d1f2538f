"""The contrastive loss against PyTorch's cross-entropy, forward and gradient."""

from __future__ import annotations

import jittor as jt
import numpy as np
import pytest

from jseg.pretraining.contrastive import contrastive_loss

torch = pytest.importorskip("torch")
functional = torch.nn.functional

VALUE_RTOL = 1e-5
GRADIENT_ATOL_OF_MAX = 1e-5


def torch_loss(pictures: torch.Tensor, captions: torch.Tensor, scale: torch.Tensor, true: np.ndarray) -> torch.Tensor:
    """CLIP's pseudo-code in float64, other true pairs excluded."""
    logits = scale * functional.normalize(pictures, dim=1) @ functional.normalize(captions, dim=1).T
    others = torch.from_numpy(true) & ~torch.eye(len(true), dtype=torch.bool)
    logits = logits.masked_fill(others, -torch.inf)
    own = torch.arange(len(true))
    return (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2


@pytest.mark.parametrize("share_true", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("scale", [14.3, 100.0])
def test_value_and_gradients_as_pytorch(share_true: float, scale: float) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((7, 5)).astype(np.float32) for _ in range(2)]
    true = rng.random((7, 7)) < share_true
    ours = [jt.array(array) for array in (*arrays, np.float32([scale]))]
    theirs = [torch.tensor(array, dtype=torch.float64, requires_grad=True) for array in (*arrays, [scale])]
    loss, expected = contrastive_loss(*ours, true), torch_loss(*theirs, true)
    np.testing.assert_allclose(loss.item(), expected.item(), rtol=VALUE_RTOL, atol=2e-5)
    for found, wanted in zip(jt.grad(loss, ours), torch.autograd.grad(expected, theirs), strict=True):
        tolerance = GRADIENT_ATOL_OF_MAX * float(wanted.abs().max()) + 1e-6
        np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=0, atol=tolerance)


def test_other_true_captions_take_no_part() -> None:
    """Two pictures of the same thing with the same caption: nothing to tell apart, so no loss and no gradient."""
    rows = jt.array(np.float32([[1, 0], [1, 0]]))
    same = np.ones((2, 2), bool)
    loss = contrastive_loss(rows, rows, jt.array(np.float32([10])), same)
    assert abs(loss.item()) < 1e-5
    counted = contrastive_loss(rows, rows, jt.array(np.float32([10])), np.eye(2, dtype=bool))
    np.testing.assert_allclose(counted.item(), np.log(2), rtol=1e-5)
