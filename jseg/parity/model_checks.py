"""Checks of the whole model: forward passes, sliding windows, losses, gradients, training trajectories.

A check takes a golden file and returns our arrays under the file's names.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace

import jittor as jt
import numpy as np

from jseg.config import Config, OptimizerConfig
from jseg.data.label_maps import training_classes, training_labels
from jseg.engine.optimizer import learning_rate
from jseg.engine.sliding_window import ImageScores
from jseg.engine.train import Trainer
from jseg.model.clip_rc import ClipRC, trainable
from jseg.ops.bilinear import resize_bilinear
from jseg.parity.golden import GoldenFile, GoldenModel, golden_model

SETTINGS = {"inductive": "inductive", "transductive": "transductive", "full": "supervised"}  # file name -> ours
LOSS_NAMES = {
    "loss.decode.loss_mask": "mask", "loss.decode.loss_dice": "dice", "loss.decode.recovery_loss_q": "recovery_q",
    "loss.decode.recovery_loss_k": "recovery_v", "loss.total": "total",
}  # fmt: skip
STEP = re.compile(r"_s(\d+)$")  # logits_up_s4: every 4th row and column


def as_recorded(file: GoldenFile, computed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays that the file holds, with the rows and columns that it keeps; label maps have a channel axis there."""
    result = {}
    for name, reference in file.arrays.items():
        full_name, step = STEP.sub("", name), STEP.search(name)
        if name in file.read or full_name not in computed:
            continue
        ours = computed[full_name]
        if step:
            ours = ours[..., :: int(step.group(1)), :: int(step.group(1))]
        result[name] = ours.reshape(reference.shape) if ours.size == reference.size else ours
    return result


def check_forward_eval(file: GoldenFile) -> dict[str, np.ndarray]:
    """Everything between the images and the labels."""
    golden = golden_model(file)
    model, text, images = golden.build(), jt.array(file["text_feat"]), file["image"]
    trace: dict[str, jt.Var] = {}
    with jt.no_grad():
        logits = resize_bilinear(model(jt.array(images), text, trace), images.shape[2:]).numpy()
    computed = {name: value.numpy() for name, value in trace.items()} | {"logits_up": logits}

    def scores_of(images: np.ndarray, setting: str, mode: str) -> list[ImageScores]:
        config = golden.config(setting)
        test = replace(config.test, mode=mode)
        return [ImageScores(model, image, text, golden.classes.seen, config.gamma(), test) for image in images]

    for setting in ("inductive", "transductive"):
        whole = scores_of(images, setting, "whole")
        computed[f"eval_{setting}"] = np.stack([scores.scores() for scores in whole])
        if setting == "inductive":
            computed["eval_argmax"] = np.stack([scores.labels() for scores in whole])
    if "slide_image" in file:
        original = tuple(file["ori_shape"][:2].tolist())
        slide, transductive = (scores_of(file["slide_image"], name, "slide") for name in list(SETTINGS)[:2])
        computed |= {
            "slide_inductive": np.stack([scores.scores() for scores in slide]),
            "slide_argmax": np.stack([scores.labels() for scores in slide]),
            "slide_rescaled_inductive": np.stack([scores.scores(original) for scores in slide]),
            "slide_rescaled_argmax": np.stack([scores.labels(original) for scores in slide]),
            "slide_transductive": np.stack([scores.scores() for scores in transductive]),
            "slide_transductive_argmax": np.stack([scores.labels() for scores in transductive]),
        }
    for name in file.arrays:
        if name.startswith("tokens_block"):
            computed[name] = with_prompt_rows(computed[name], file.arrays[name], golden.values["K"])
    return as_recorded(file, computed)


def with_prompt_rows(tokens: np.ndarray, recorded: np.ndarray, prompts: int) -> np.ndarray:
    """`tokens` (B, T, width) with the recorded rows of prompts after the class token, which the next layer replaces."""
    return np.concatenate([tokens[:, :1], recorded[:, 1 : 1 + prompts], tokens[:, 1:]], axis=1)


def check_forward_eps(file: GoldenFile) -> dict[str, np.ndarray]:
    """The encoder with weights so small that the eps of each normalisation shows."""
    model = golden_model(file).build(tuple(file.json("scaled_keys_json")), float(file["scale"]))
    images = file.companion(f"forward_eval_{file.tag}.npz")["image"]
    trace: dict[str, jt.Var] = {}
    with jt.no_grad():
        model.encode(jt.array(images), trace)
    return {name: value.numpy() for name, value in trace.items()}


class Batch:
    """The training batch of a golden configuration in one setting: images (B, 3, H, W), labels (B, H, W), text."""

    def __init__(self, file: GoldenFile, golden: GoldenModel, setting: str) -> None:
        stored, classes = file.companion(f"train_batch_{file.tag}.npz"), golden.classes
        self.images = stored["image"]
        self.text = stored["text_feat"][list(training_classes(classes, setting))]
        class_labels = stored["labels_full" if setting == "supervised" else "labels"]
        self.labels = training_labels(class_labels.reshape(-1, *class_labels.shape[-2:]), classes, setting)
        self.unseen = classes.unseen if setting == "transductive" else ()

    def trainer(self, model: ClipRC, config: Config) -> Trainer:
        """What trains on this batch."""
        config.train.batch_size = len(self.images)
        return Trainer(model, self.text, self.unseen, config)


def check_train(file: GoldenFile) -> dict[str, np.ndarray]:
    """Outputs, labels as used, loss terms and the gradient of every trainable weight."""
    golden, setting = golden_model(file), SETTINGS[file.stem.split("_")[1]]
    batch, model = Batch(file, golden, setting), golden.build()
    computed = _training_outputs(batch, batch.trainer(model, golden.config(setting)))
    for weights_name in [name for name in file.arrays if name.split("_")[0] == "weights"]:
        prefix = weights_name.removeprefix("weights").removeprefix("_")  # weights_w1 -> w1, weights -> nothing
        prefix = f"{prefix}." if prefix else ""
        trainer = batch.trainer(model, golden.config(setting, file[weights_name]))
        gradients, losses, _ = trainer.gradients(batch.images, batch.labels)
        computed |= {f"{prefix}{name}": np.array(losses[ours]) for name, ours in LOSS_NAMES.items()}
        computed[f"{prefix}labels_used"] = computed["labels_used"]
        by_name = {name: value.numpy() for name, value in zip(trainer.optimizer.names, gradients, strict=True)}
        computed |= {f"{prefix}grad.{name}": gradient for name, gradient in by_name.items()}
        if trainer.config.loss.recovery == 0:  # not recorded, because they are 0; but weight decay needs them
            zero = [value for name, value in by_name.items() if "recovery_decoder" in name]
            computed[f"extra.{prefix}recovery gradients"] = np.array([np.abs(value).max() for value in zero])
            file.expect(f"extra.{prefix}recovery gradients", np.zeros(len(zero)))
    if "trainable_live_json" in file:
        file.expect("trainable_live_json", np.sort(json.loads(str(file.arrays["trainable_live_json"]))))
        computed["trainable_live_json"] = np.array(sorted(name for name, _ in trainable(model)))
    return as_recorded(file, computed)


def _training_outputs(batch: Batch, trainer: Trainer) -> dict[str, np.ndarray]:
    """Labels and outputs of the training forward pass."""
    size = batch.labels.shape[1:]
    with jt.no_grad():
        outputs = trainer.model.training_outputs(jt.array(batch.images), trainer.text)
        used = trainer.loss.sums(outputs, batch.labels, size).labels
        masks = resize_bilinear(outputs.logits_grid, size)
    return {
        "labels_mapped": batch.labels,
        "labels_used": used.numpy(),
        "out.ori_q": outputs.query_targets.numpy(),
        "out.ori_lateral": outputs.pixel_targets.numpy(),
        "out.q": outputs.recovered_queries.numpy(),
        "out.lateral": outputs.recovered_pixels.numpy(),
        "out.pred_masks": masks.numpy(),
    }


def check_trajectory(file: GoldenFile) -> dict[str, np.ndarray]:
    """Losses before each of some optimiser steps on one batch, and all weights after them; of a .json the rates."""
    if file.path.suffix == ".json":
        config = _optimizer_config(file)
        starts = {"lr_trainable": config.lr * config.lr_factor, "lr_frozen_groups": config.lr}
        return {name: _rates(file, len(file.arrays[name]), lr) for name, lr in starts.items() if name in file}
    golden, run = golden_model(file), file.companion(f"{file.stem}.lr.json")
    batch, model = Batch(file, golden, "inductive"), golden.build()
    before = {name: value.numpy() for name, value in model.state_dict().items()}
    config = golden.config("inductive", file["weights"])
    config.optimizer, config.train.iterations = _optimizer_config(run), int(run["max_iters"])
    trainer = batch.trainer(model, config)
    reports = [trainer.step(batch.images, batch.labels, step) for step in range(len(file.arrays["losses"]))]
    final = {name: value.numpy() for name, value in model.state_dict().items()}
    trained = [name for name, _ in trainable(model)]
    frozen = [name for name in final if name not in trained]
    file.expect("extra.frozen weights", np.concatenate([before[name].ravel() for name in frozen]))
    return {
        "losses": np.array([[report.losses[name] for name in LOSS_NAMES.values()] for report in reports]),
        "lr_trainable": np.array([report.lr for report in reports]),
        "lr_frozen": _rates(run, len(reports), config.optimizer.lr),
        "base_lr": np.array(config.optimizer.lr),
        "weight_decay": np.array(config.optimizer.weight_decay),
        **{f"final.{name}": final[name] for name in trained},
        "extra.frozen weights": np.concatenate([final[name].ravel() for name in frozen]),
    }


def _optimizer_config(run: GoldenFile) -> OptimizerConfig:
    """Our optimiser settings for a trajectory_*.lr.json."""
    base = float(run["base_lr"])
    return OptimizerConfig(
        lr=base, lr_factor=float(run["trainable_initial_lr"]) / base, weight_decay=float(run["base_wd"]),
        power=float(run["power"]), min_lr=float(run["min_lr"]), warmup_iterations=int(run["warmup_iters"]),
        warmup_ratio=float(run["warmup_ratio"]),
    )  # fmt: skip


def _rates(run: GoldenFile, steps: int, initial: float) -> np.ndarray:
    config, iterations = _optimizer_config(run), int(run["max_iters"])
    return np.array([learning_rate(step, iterations, initial, config) for step in range(steps)])
