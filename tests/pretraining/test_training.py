"""Pre-training: the loss against PyTorch's cross-entropy, the same weights from the same seed, learning rates."""

import dataclasses

import jittor as jt
import numpy as np
import pytest

from jseg.pretraining.images import Round, Settings, image_batch, image_batches
from jseg.pretraining.training import Pretraining, contrastive_loss, train

torch = pytest.importorskip("torch")
functional = torch.nn.functional

VALUE_RTOL = 1e-5
GRADIENT_ATOL_OF_MAX = 1e-5


def torch_loss(images: torch.Tensor, captions: torch.Tensor, scale: torch.Tensor, true: np.ndarray) -> torch.Tensor:
    """CLIP's pseudo-code in float64, other true pairs excluded."""
    logits = scale * functional.normalize(images, dim=1) @ functional.normalize(captions, dim=1).T
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


def trained(settings: Settings, stop: int) -> tuple[dict[str, np.ndarray], list[list[float]]]:
    """Weights after `stop` steps, and the recorded losses."""
    run = Pretraining(settings)
    losses = train(run, image_batches(settings, run.tokenizer, stop), stop)
    assert run.iteration == stop
    return run.clip.tensors(), losses


def test_same_seed_same_weights(tiny: Settings) -> None:
    (first, losses), (second, _) = trained(tiny, 8), trained(tiny, 8)
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)
    assert [step for step, _ in losses] == [2, 4, 6, 8] and np.isfinite(losses).all()
    other, losses = trained(dataclasses.replace(tiny, seed=1), 7)
    assert [step for step, _ in losses] == [2, 4, 6, 7]
    assert not np.array_equal(first["visual.proj"], other["visual.proj"])


def test_every_weight_trains_and_the_loss_falls(tiny: Settings) -> None:
    run = Pretraining(tiny)
    before = run.clip.tensors()
    batch = image_batch(tiny, run.tokenizer, 0)
    arc = Round(3e-3, 0, 20, (dataclasses.replace(tiny.at(0)[2], iterations=20),))
    run.settings = dataclasses.replace(tiny, rounds=(arc,))
    losses = [run.step(batch)[0] for _ in range(20)]
    assert losses[-1] < 0.6 * losses[0]
    after = run.clip.tensors()
    assert [name for name in before if np.array_equal(before[name], after[name])] == []


def test_a_round_warms_up_and_decays(tiny: Settings) -> None:
    first = dataclasses.replace(tiny.rounds[0], arc=10)
    run = Pretraining(dataclasses.replace(tiny, rounds=(first, tiny.rounds[1])))
    rates = [run.step(image_batch(run.settings, run.tokenizer, iteration))[1] for iteration in range(8)]
    np.testing.assert_allclose(rates[:5], [1e-5, 9.01e-4, 8.02e-4, 7.03e-4, 6.04e-4], rtol=1e-6)
    np.testing.assert_allclose(rates[5:], [5e-6, 1e-5 + 4.9e-4 * 2 / 3, 1e-5 + 4.9e-4 / 3], rtol=1e-6)
