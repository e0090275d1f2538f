"""Training in bfloat16 and float16 against float32: losses, gradients, loss scale, what is saved, how it goes on."""

from pathlib import Path

import numpy as np
import pytest

from jseg.config import Config
from jseg.engine import checkpoint
from jseg.engine import optimizer as loss_scale
from jseg.engine.checkpoint import Progress
from jseg.engine.load import resume
from jseg.engine.log import RunLog
from jseg.engine.optimizer import LossScale
from jseg.engine.signals import StopRequest
from jseg.engine.train import Trainer, Training
from jseg.model.clip_rc import build_clip_rc, is_trained
from jseg.model.precision import COMPUTE_TYPES
from jseg.model.released_weights import load_released
from jseg.ops.half import HALVES, convert, widen
from jseg.weights import record
from jseg.weights.state import state_arrays
from tests.engine.test_train import NotedSaver, batches, run
from tests.engine.tiny_training import UNSEEN, tiny_batch, tiny_config, tiny_trainer, weights

# largest error of loss terms and of gradients (relative to the largest value of each tensor) that rounding may make:
# twice what is measured
ALLOWED = {"bf16": (0.002, 0.16), "fp16": (0.001, 0.03)}


def config_in(precision: str, **train_values: int) -> Config:
    config = tiny_config(**train_values)
    config.precision = precision
    config.model.prompt_dropout = config.model.decoder_dropout = 0.0
    return config


@pytest.mark.parametrize("unseen, lowest", [((), 0), (UNSEEN, -1)])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_losses_and_gradients_equal_float32_but_rounded(precision: str, unseen: tuple[int, ...], lowest: int) -> None:
    """In one batch and in micro-batches; gradients of trained weights are not equal."""
    results = []
    for kind, micro_batch in (("fp32", 0), (precision, 0), (precision, 2)):
        config = config_in(kind, micro_batch=micro_batch)
        config.loss.mask = 1.0  # not the 100 that makes the loss of an untrained model 300
        trainer = tiny_trainer(config, unseen)
        if trainer.loss_scale is not None:
            trainer.loss_scale.scale = 2.0**6
        gradients, sums = trainer.gradients(*tiny_batch(seed=5, lowest=lowest))
        kinds = {str(x.dtype) for x in gradients}  # those of many micro-batches or of a scaled loss are in float32
        assert kinds == {"float32"} | ({"bfloat16"} if micro_batch == 0 and kind == "bf16" else set())
        losses, gradients = trainer.loss.values(sums.numpy()), map(widen, gradients)
        results.append((dict(zip(trainer.optimizer.names, gradients, strict=True)), losses))
    (wide, wide_losses), *others = results
    for half, losses in others:
        loss_error, gradient_error = ALLOWED[precision]
        assert losses == pytest.approx(wide_losses, rel=loss_error) and losses != wide_losses
        for name, expected in wide.items():
            expected, computed = expected.numpy(), half[name].numpy()
            # the true gradient of a key bias is 0; float16 has not all of its digits below 6e-5
            if not name.endswith("multihead_attn.k.bias") and np.abs(expected).max() > 1e-5:
                assert np.abs(computed - expected).max() <= gradient_error * np.abs(expected).max(), name
                assert name.endswith(".bias") or not np.array_equal(computed, expected), name


@pytest.mark.parametrize("kind", ["bf16", "fp16"])
def test_masters_stay_float32_and_frozen_weights_are_held_in_half(kind: str) -> None:
    trainer, whole = tiny_trainer(config_in(kind)), weights(tiny_trainer(config_in("fp32")))
    types = {name: str(var.dtype) for name, var in trainer.model.state_dict().items()}
    assert {types[name] for name in types if is_trained(name)} == {"float32"}
    halved = {name for name, dtype in types.items() if dtype in HALVES}
    assert {f"backbone.transformer.resblocks.1.{name}" for name in ("mlp.c_fc.weight", "attn.in_proj_weight")} <= halved
    assert {"backbone.conv1.weight", "backbone.proj"} <= halved == trainer.frozen.keys()
    saved = state_arrays(trainer.model) | trainer.frozen  # as Training.save does
    assert all(array.dtype == np.float32 and np.array_equal(array, whole[name]) for name, array in saved.items())
    before = weights(trainer)
    trainer.step(*tiny_batch(0), 0)
    assert {str(var.dtype) for var in trainer.optimizer.parameters} == {"float32"}
    pairs = zip(trainer.optimizer.parameters, trainer.optimizer.leaves, strict=True)
    rounded = [(x, leaf) for x, leaf in pairs if leaf is not x]
    assert {str(leaf.dtype) for _, leaf in rounded} == {COMPUTE_TYPES[kind]}
    assert all(np.array_equal(widen(convert(x, str(leaf.dtype))), widen(leaf)) for x, leaf in rounded)
    assert all(np.array_equal(before[name], array) for name, array in weights(trainer).items() if not is_trained(name))


def test_training_follows_float32() -> None:
    """Ten steps in which the loss falls to a tenth: each precision ends within 2 % of float32."""
    ends = {}
    for kind in ("fp32", "bf16", "fp16"):
        config = config_in(kind)
        config.optimizer.lr, config.optimizer.warmup_iterations = 1e-4, 0
        trainer = tiny_trainer(config)
        if trainer.loss_scale is not None:
            trainer.loss_scale.scale = 2.0**6
        reports = [trainer.step(*tiny_batch(0), iteration) for iteration in range(10)]
        assert not any(report.problem for report in reports)
        ends[kind] = [reports[index].losses["total"] for index in (0, -1)]
    assert ends["fp32"][1] < 0.15 * ends["fp32"][0]
    assert all(end == pytest.approx(ends["fp32"][1], rel=0.02) for _, end in ends.values())


def test_small_gradients_survive_float16_through_the_loss_scale() -> None:
    """With losses 10^9 times smaller, gradients are rounded to 0 in float16, unless the loss is scaled."""
    results = {}
    for kind, scale in (("fp32", 1.0), ("fp16", 1.0), ("fp16", 2.0**16)):
        config = config_in(kind)
        config.loss.mask, config.loss.dice, config.loss.recovery = (1e-9 * x for x in (100.0, 1.0, 2.0))
        trainer = tiny_trainer(config)
        if trainer.loss_scale is not None:
            trainer.loss_scale.scale = scale
        gradients = trainer.gradients(*tiny_batch(0))[0]
        results[kind, scale] = dict(zip(trainer.optimizer.names, (x.numpy() for x in gradients), strict=True))
    name = "backbone.deep_prompt_embeddings"
    exact, unscaled, scaled = (results[key][name] for key in results)
    largest = np.abs(exact).max()
    assert 0 < largest < 1e-6
    assert np.abs(scaled - exact).max() < 0.05 * largest
    assert not unscaled.any()


def test_an_overflow_halves_the_scale_and_is_no_bad_step(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    trainer, progress = tiny_trainer(config_in("fp16", iterations=20, max_bad_steps=2)), Progress()
    trainer.loss_scale.scale = 2.0**22
    before = weights(trainer)
    skipped = trainer.step(*tiny_batch(0), 0)
    assert skipped.overflow and "is not finite" in skipped.problem and np.isfinite(skipped.losses["total"])
    assert trainer.loss_scale == LossScale(2.0**21, 0, 1) and trainer.optimizer.steps == 0
    assert all(np.array_equal(array, before[name]) for name, array in weights(trainer).items())
    _, events = run(tmp_path, trainer, batches(), NotedSaver(), progress)
    overflows = [event for event in events if event[0] == "overflow"]
    assert 3 <= len(overflows) == trainer.loss_scale.overflows - 1 == 20 - trainer.optimizer.steps < 20
    assert progress.bad_steps == progress.bad_in_a_row == 0 and progress.iteration == 20
    assert trainer.loss_scale.scale == 2.0 ** (21 - len(overflows))
    assert "float16 overflowed, loss scale is" in capsys.readouterr().out


def test_the_scale_grows_again_and_at_its_lowest_is_not_to_blame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_scale, "DOUBLED_AFTER", 3)
    scale = LossScale(8.0)
    for _ in range(7):
        scale.step()
    assert scale == LossScale(32.0, 1)
    assert scale.lower() and scale == LossScale(16.0, 0, 1)
    lowest = LossScale(1.0, 5, 2)
    assert not lowest.lower() and lowest == LossScale(1.0, 5, 2)


def test_the_next_scale_is_known_before_a_step_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Overflows, a bad step, and good ones that double the scale."""
    monkeypatch.setattr(loss_scale, "DOUBLED_AFTER", 3)
    late, at_once = (tiny_trainer(config_in("fp16", iterations=20)) for _ in range(2))
    late.loss_scale.scale = at_once.loss_scale.scale = 2.0**13
    run(tmp_path, late, batches((9,)), NotedSaver())
    for iteration, batch in zip(range(20), batches((9,)), strict=False):
        at_once.step(batch.images, batch.labels, iteration)
    assert late.loss_scale == at_once.loss_scale and 2 <= late.loss_scale.overflows <= 12
    assert all(np.array_equal(array, weights(late)[name]) for name, array in weights(at_once).items())


def test_float16_goes_on_exactly_after_an_overflow(tmp_path: Path) -> None:
    """Five steps in one run, and in two with a checkpoint between them; weights, moments and scale bit for bit."""
    config, progress = config_in("fp16", iterations=20), Progress(iteration=3)
    straight = tiny_trainer(config)
    straight.loss_scale.scale = 2.0**16
    for iteration in range(3):
        straight.step(*tiny_batch(iteration), iteration)
    assert straight.loss_scale.overflows > 0
    meta = {"format": record.FORMAT}
    Training(straight, RunLog(tmp_path, 20), tmp_path, progress, StopRequest(), meta, {}).save()
    file = checkpoint.read_whole(checkpoint.checkpoint_path(tmp_path, 3), is_resumed=True)
    model = build_clip_rc(config.model)
    load_released(model, record.model_tensors(file))
    resumed = Trainer(model, straight.text.numpy(), (), config)
    resume(resumed.optimizer, resumed.loss_scale, file, config)
    assert resumed.loss_scale == straight.loss_scale != LossScale()
    for trainer in (straight, resumed):
        for iteration in range(3, 14):
            trainer.step(*tiny_batch(iteration), iteration)
    assert resumed.optimizer.steps == straight.optimizer.steps > 0 and resumed.loss_scale == straight.loss_scale
    assert all(np.array_equal(array, weights(resumed)[name]) for name, array in weights(straight).items())
    moments, expected = resumed.optimizer.state(), straight.optimizer.state()
    assert all(np.array_equal(moments[name], array) for name, array in expected.items())
