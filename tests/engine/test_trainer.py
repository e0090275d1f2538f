"""Tests of jseg/engine/trainer.py: recorded trajectories, micro-batches, moments."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from jseg.config import Config, ModelConfig
from jseg.engine.trainer import Trainer
from jseg.errors import UserError
from jseg.model.clip_rc import build_clip_rc
from jseg.model.released_weights import load_released
from tests.engine.tiny_training import UNSEEN, tiny_batch, tiny_config, tiny_trainer, weights


def recorded_run(golden: Path, lr_file: Path) -> tuple[Trainer, np.lib.npyio.NpzFile, np.ndarray, np.ndarray]:
    """The trainer of a recorded trajectory, the recording, its images and training targets."""
    folder, letter = golden / "torch_release", lr_file.name.split(".")[0].split("_")[-1]
    run, recorded = (
        json.loads(lr_file.read_text()),
        np.load(lr_file.with_name(lr_file.name.replace(".lr.json", ".npz"))),
    )
    stored = dict(np.load(folder / f"weights_{letter}.npz"))
    sizes, text = json.loads(str(stored.pop("config_json"))), stored.pop("text_feat")
    config = Config()
    config.model = ModelConfig(
        image_size=sizes["img"], patch_size=sizes["patch"], width=sizes["width"], layers=sizes["layers"],
        heads=sizes["heads"], output_dim=sizes["dim"], prompts=sizes["K"], region_grid=round(sizes["M"] ** 0.5),
        decoder_layers=sizes["decoder_layers"], decoder_heads=sizes["head_heads"], ffn_factor=sizes["ffn_factor"],
        recovery_layers=sizes["recovery_layers"], prompt_dropout=0.0, decoder_dropout=0.0,
    )  # fmt: skip
    config.loss.mask, config.loss.dice, config.loss.recovery = (float(weight) for weight in recorded["weights"])
    config.optimizer.lr, config.optimizer.weight_decay = run["base_lr"], run["base_wd"]
    config.optimizer.warmup_iterations, config.train.iterations = run["warmup_iters"], run["max_iters"]
    config.optimizer.lr_factor = run["trainable_initial_lr"] / run["base_lr"]
    model = build_clip_rc(config.model)
    load_released(model, stored)
    batch = np.load(folder / f"train_batch_{letter}.npz")
    lookup = np.full(256, 255, np.int32)
    lookup[sizes["seen"]] = np.arange(len(sizes["seen"]))
    return Trainer(model, text[sizes["seen"]], (), config), recorded, batch["image"], lookup[batch["labels"][:, 0]]


@pytest.mark.parity
def test_ten_steps_follow_the_released_training(golden: Path) -> None:
    files = sorted((golden / "torch_release").glob("trajectory_*.lr.json"))
    assert files
    compared = 0
    for lr_file in files:
        if not lr_file.with_name(lr_file.name.replace(".lr.json", ".npz")).exists():
            continue
        compared += 1
        trainer, recorded, images, labels = recorded_run(golden, lr_file)
        before, rates = weights(trainer), []
        for iteration, expected in enumerate(recorded["losses"]):
            report = trainer.step(images, labels, iteration)
            ours = [report.losses[name] for name in ("mask", "dice", "recovery_q", "recovery_v", "total")]
            assert ours == pytest.approx(expected.tolist(), rel=1e-4), (lr_file.name, iteration)
            rates.append(report.lr)
        assert rates == pytest.approx(recorded["lr_trainable"].tolist(), rel=1e-6)
        after = weights(trainer)
        tolerance = 2e-4 if "strong" in lr_file.name else 2e-5
        for key in recorded.files:
            if key.startswith("final."):
                name = key.removeprefix("final.")
                # the true gradient of a key bias is 0: Adam turns its rounding noise into steps of full size
                allowed = 2 * sum(rates) if name.endswith("multihead_attn.k.bias") else tolerance
                assert np.abs(after[name] - recorded[key]).max() <= allowed, (lr_file.name, name)
        frozen = [name for name in before if f"final.{name}" not in recorded.files and "attn_mask" not in name]
        assert frozen and all(np.array_equal(before[name], after[name]) for name in frozen)
    assert compared


@pytest.mark.parametrize(
    "setting, unseen, lowest",
    [("inductive", (), 0), ("transductive", UNSEEN, -1), ("supervised without recovery", (), 0)],
)
def test_micro_batches_add_up_to_the_batch(setting: str, unseen: tuple[int, ...], lowest: int) -> None:
    """Gradients within 1e-5 of each tensor's largest value; key biases, whose true gradient is 0, within 1e-6."""
    results = []
    for micro_batch in (0, 2, 1):
        config = tiny_config(micro_batch=micro_batch)
        config.loss.recovery = 0.0 if "without" in setting else 2.0
        config.model.prompt_dropout = config.model.decoder_dropout = 0.0
        trainer = tiny_trainer(config, unseen)
        images, labels = tiny_batch(seed=5, lowest=lowest)
        gradients, losses, num_masks = trainer.gradients(images, labels)
        results.append((dict(zip(trainer.optimizer.names, gradients, strict=True)), losses, num_masks))
    whole, losses, num_masks = results[0]
    largest = {name: np.abs(gradient.numpy()).max() for name, gradient in whole.items()}
    assert max(largest.values()) > 1e-3
    if "without" in setting:
        assert all(value == 0 for name, value in largest.items() if "recovery_decoder" in name)
    for other, other_losses, other_masks in results[1:]:
        assert other_masks == num_masks > 4
        assert other_losses == pytest.approx(losses, rel=1e-5)
        for name, gradient in whole.items():
            allowed = 1e-6 if name.endswith("multihead_attn.k.bias") else 1e-5 * largest[name]
            assert np.abs(gradient.numpy() - other[name].numpy()).max() <= allowed, name


def test_a_wrong_number_of_masks_would_be_seen() -> None:
    """The images of the test above hold different numbers of classes: averaging the parts would not do."""
    trainer = tiny_trainer(tiny_config())
    images, labels = tiny_batch(seed=5)
    whole = trainer.gradients(images, labels)[1]["mask"]
    parts = [trainer.gradients(images[i : i + 1], labels[i : i + 1])[1]["mask"] for i in range(4)]
    assert abs(np.mean(parts) / whole - 1) > 0.05


def test_recovery_decoder_decays_though_its_gradient_is_zero() -> None:
    config = tiny_config()
    config.loss.recovery, config.optimizer.warmup_iterations = 0.0, 0
    trainer = tiny_trainer(config)
    name = "decode_head.recovery_decoder.linear_q_in.weight"
    before = weights(trainer)[name]
    trainer.step(*tiny_batch(seed=1), iteration=0)
    np.testing.assert_allclose(weights(trainer)[name], before * (1 - 1e-3 * 0.01), rtol=1e-6)


def test_moments_of_another_model_are_refused() -> None:
    trainer = tiny_trainer(tiny_config())
    state = trainer.optimizer.state()
    state.m["decode_head.q_proj.weight"] = np.zeros((2, 2), np.float32)
    with pytest.raises(UserError, match=r"decode_head\.q_proj\.weight"):
        trainer.optimizer.load_state(state)
