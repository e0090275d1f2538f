"""Checks of the whole model: forward passes, sliding windows, losses, gradients, training trajectories.

A check takes a golden file and returns our arrays under the file's names.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import jittor as jt
import numpy as np

from jseg.config import OptimizerConfig, TrainConfig
from jseg.data.label_maps import training_classes, training_labels
from jseg.engine.optimizer import learning_rate
from jseg.engine.sliding_window import ImageScores
from jseg.engine.trainer import Trainer
from jseg.model.clip_rc import trainable
from jseg.ops.bilinear import resize_bilinear
from jseg.parity.golden import GoldenFile, GoldenModel
from jseg.weights.state import state_arrays

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
    golden = GoldenModel(file)
    model, text, images = golden.build(), jt.array(file["text_feat"]), file["image"]
    trace: dict[str, jt.Var] = {}
    with jt.no_grad():
        logits = resize_bilinear(model(jt.array(images), text, trace), images.shape[2:]).numpy()
    computed = {name: value.numpy() for name, value in trace.items()} | {"logits_up": logits}
    original = tuple(file["ori_shape"][:2].tolist())
    for setting, middle in (("inductive", ""), ("transductive", "_transductive")):
        config = golden.config(setting)
        for mode, kind, batch in (("whole", "eval", images), ("slide", "slide", file["slide_image"])):
            test = replace(config.test, mode=mode)
            scores = [ImageScores(model, x, text, golden.classes.seen, config.gamma(), test) for x in batch]
            for prefix, size in ((kind, None), (f"{kind}_rescaled", original)):
                computed[f"{prefix}_{setting}"] = np.stack([item.scores(size) for item in scores])
                computed[f"{prefix}{middle}_argmax"] = np.stack([item.labels(size) for item in scores])
    prompts = golden.values["K"]
    for name in [name for name in file.arrays if name.startswith("tokens_block")]:
        # the rows of prompts after the class token, which the next layer replaces, are recorded only
        tokens, recorded = computed[name], file.arrays[name][:, 1 : 1 + prompts]
        computed[name] = np.concatenate([tokens[:, :1], recorded, tokens[:, 1:]], axis=1)
    return as_recorded(file, computed)


def check_forward_eps(file: GoldenFile) -> dict[str, np.ndarray]:
    """The encoder with weights so small that the eps of each normalisation shows."""
    model = GoldenModel(file).build(tuple(file.json("scaled_keys_json")), float(file["scale"]))
    images = file.companion(f"forward_eval_{file.tag}.npz")["image"]
    trace: dict[str, jt.Var] = {}
    with jt.no_grad():
        model.encode(jt.array(images), trace)
    return {name: value.numpy() for name, value in trace.items()}


class Batch:
    """The training batch of a golden configuration in one setting: images (B, 3, H, W), labels (B, H, W), text."""

    def __init__(self, file: GoldenFile, setting: str) -> None:
        self.golden, self.setting = GoldenModel(file), setting
        stored, classes = file.companion(f"train_batch_{file.tag}.npz"), self.golden.classes
        self.images = stored["image"]
        self.text = stored["text_feat"][list(training_classes(classes, setting))]
        class_labels = stored["labels_full" if setting == "supervised" else "labels"]
        self.labels = training_labels(class_labels.reshape(-1, *class_labels.shape[-2:]), classes, setting)
        self.unseen = classes.unseen if setting == "transductive" else ()
        self.model = self.golden.build()

    def trainer(self, weights: np.ndarray, **changes: Any) -> Trainer:
        """What trains on this batch with these weights of the losses; `changes` are sections of the config."""
        config = replace(self.golden.config(self.setting, weights), **changes)
        config.train.batch_size = len(self.images)
        return Trainer(self.model, self.text, self.unseen, config)


def check_train(file: GoldenFile) -> dict[str, np.ndarray]:
    """Outputs, labels as used, loss terms and the gradient of every trainable weight."""
    batch = Batch(file, SETTINGS[file.stem.split("_")[1]])
    computed = {"labels_mapped": batch.labels}
    for weights_name in [name for name in file.arrays if name.split("_")[0] == "weights"]:
        prefix = weights_name.removeprefix("weights").lstrip("_")
        prefix += "." if prefix else ""  # weights_w1 -> "w1.", weights -> ""
        trainer = batch.trainer(file[weights_name])
        gradients, losses, _ = trainer.gradients(batch.images, batch.labels)
        with jt.no_grad():
            outputs = batch.model.training_outputs(jt.array(batch.images), trainer.text)
            used = trainer.loss.sums(outputs, batch.labels, batch.labels.shape[1:]).labels.numpy()
            masks = resize_bilinear(outputs.logits_grid, batch.labels.shape[1:])
        computed |= {
            "labels_used": used,
            f"{prefix}labels_used": used,
            "out.ori_q": outputs.query_targets.numpy(),
            "out.ori_lateral": outputs.pixel_targets.numpy(),
            "out.q": outputs.recovered_queries.numpy(),
            "out.lateral": outputs.recovered_pixels.numpy(),
            "out.pred_masks": masks.numpy(),
        }
        computed |= {f"{prefix}{name}": np.array(losses[ours]) for name, ours in LOSS_NAMES.items()}
        by_name = {name: value.numpy() for name, value in zip(trainer.optimizer.names, gradients, strict=True)}
        computed |= {f"{prefix}grad.{name}": gradient for name, gradient in by_name.items()}
        if trainer.config.loss.recovery == 0:  # not recorded, because they are 0; but weight decay needs them
            zero = [value for name, value in by_name.items() if "recovery_decoder" in name]
            computed[f"extra.{prefix}recovery gradients"] = np.array([np.abs(value).max() for value in zero])
            file.expect(f"extra.{prefix}recovery gradients", np.zeros(len(zero)))
    if "trainable_live_json" in file:
        file.expect("trainable_live_json", np.sort(json.loads(str(file.arrays["trainable_live_json"]))))
        computed["trainable_live_json"] = np.array(sorted(name for name, _ in trainable(batch.model)))
    return as_recorded(file, computed)


def check_trajectory(file: GoldenFile) -> dict[str, np.ndarray]:
    """Losses before each of some optimiser steps on one batch, and all weights after them; of a .json the rates."""
    is_json = file.path.suffix == ".json"
    run = file if is_json else file.companion(f"{file.stem}.lr.json")
    base, iterations = float(run["base_lr"]), int(run["max_iters"])
    optimizer = OptimizerConfig(
        lr=base, lr_factor=float(run["trainable_initial_lr"]) / base, weight_decay=float(run["base_wd"]),
        power=float(run["power"]), min_lr=float(run["min_lr"]), warmup_iterations=int(run["warmup_iters"]),
        warmup_ratio=float(run["warmup_ratio"]),
    )  # fmt: skip

    def rates(steps: int, initial: float) -> np.ndarray:
        return np.array([learning_rate(step, iterations, initial, optimizer) for step in range(steps)])

    if is_json:
        starts = {"lr_trainable": base * optimizer.lr_factor, "lr_frozen_groups": base}
        return {name: rates(len(file.arrays[name]), lr) for name, lr in starts.items() if name in file}
    batch = Batch(file, "inductive")
    before = state_arrays(batch.model)
    trainer = batch.trainer(file["weights"], optimizer=optimizer, train=TrainConfig(iterations=iterations))
    reports = [trainer.step(batch.images, batch.labels, step) for step in range(len(file.arrays["losses"]))]
    final, trained = state_arrays(batch.model), trainer.optimizer.names
    frozen = [name for name in final if name not in trained]
    file.expect("extra.frozen weights", np.concatenate([before[name].ravel() for name in frozen]))
    return {
        "losses": np.array([[report.losses[name] for name in LOSS_NAMES.values()] for report in reports]),
        "lr_trainable": np.array([report.lr for report in reports]),
        "lr_frozen": rates(len(reports), base),
        "base_lr": np.array(base),
        "weight_decay": np.array(optimizer.weight_decay),
        **{f"final.{name}": final[name] for name in trained},
        "extra.frozen weights": np.concatenate([final[name].ravel() for name in frozen]),
    }
