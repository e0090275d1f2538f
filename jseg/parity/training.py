"""train_*, trajectory_*: losses, gradients and optimiser steps, through the trainer itself."""

from __future__ import annotations

import json

import jittor as jt
import numpy as np

from jseg.config import Config, OptimizerConfig
from jseg.data.label_maps import training_classes, training_labels
from jseg.engine.optimizer import learning_rate
from jseg.engine.trainer import Trainer
from jseg.model.clip_rc import ClipRC, trainable
from jseg.ops.bilinear import resize_bilinear
from jseg.parity.forward import full_name, thinned
from jseg.parity.golden_file import GoldenFile
from jseg.parity.golden_model import GoldenModel, golden_model

SETTINGS = {"inductive": "inductive", "transductive": "transductive", "full": "supervised"}  # file name -> ours
LOSS_NAMES = {
    "loss.decode.loss_mask": "mask",
    "loss.decode.loss_dice": "dice",
    "loss.decode.recovery_loss_q": "recovery_q",
    "loss.decode.recovery_loss_k": "recovery_v",
    "loss.total": "total",
}
TRAIN_EXCLUDED = {
    "*acc_seg": "an accuracy that the release logs; not part of the loss",
    "trainable_all_json": "contains the dead weights of the released decoder, which ours does not have",
}


class Batch:
    """The training batch of a golden configuration, as one setting sees it.

    Attributes:
        images: (B, 3, H, W) float32.
        labels: (B, H, W) int32 training targets.
        text: (C, D) float32 of the classes that the setting trains with.
    """

    def __init__(self, file: GoldenFile, golden: GoldenModel, setting: str) -> None:
        stored = file.companion(f"train_batch_{file.tag}.npz")
        classes = golden.classes
        self.images = stored["image"]
        self.text = stored["text_feat"][list(training_classes(classes, setting))]
        class_labels = stored["labels_full" if setting == "supervised" else "labels"]
        self.labels = training_labels(class_labels.reshape(-1, *class_labels.shape[-2:]), classes, setting)
        self.unseen = classes.unseen if setting == "transductive" else ()

    def trainer(self, model: ClipRC, config: Config) -> Trainer:
        """The trainer of a run on this batch."""
        config.train.batch_size = len(self.images)
        return Trainer(model, self.text, self.unseen, config)


def check_train(file: GoldenFile) -> dict[str, np.ndarray]:
    """Outputs, labels as used, loss terms and the gradient of every trainable weight."""
    golden = golden_model(file)
    setting = SETTINGS[file.stem.split("_")[1]]
    batch, model = Batch(file, golden, setting), golden.build()
    computed = _outputs(batch, batch.trainer(model, golden.config(setting)))
    for weights_name in [name for name in file.arrays if name.split("_")[0] == "weights"]:
        prefix = weights_name.removeprefix("weights").removeprefix("_")  # weights_w1 -> w1, weights -> nothing
        prefix = f"{prefix}." if prefix else ""
        trainer = batch.trainer(model, golden.config(setting, file[weights_name]))
        gradients, losses, _ = trainer.gradients(batch.images, batch.labels)
        computed |= {f"{prefix}{name}": np.array(losses[ours]) for name, ours in LOSS_NAMES.items()}
        computed[f"{prefix}labels_used"] = computed["labels_used"]
        by_name = {name: value.numpy() for name, value in zip(trainer.optimizer.names, gradients, strict=True)}
        computed |= {f"{prefix}grad.{name}": gradient for name, gradient in by_name.items()}
        if trainer.config.loss.recovery == 0:  # not recorded, because they are 0; but they must be there, for the decay
            zero = [value for name, value in by_name.items() if "recovery_decoder" in name]
            computed[f"extra.{prefix}recovery gradients"] = np.array([np.abs(value).max() for value in zero])
            file.expect(f"extra.{prefix}recovery gradients", np.zeros(len(zero)))
    if "trainable_live_json" in file:
        same = sorted(json.loads(str(file.arrays["trainable_live_json"]))) == sorted(
            name for name, _ in trainable(model)
        )
        computed["trainable_live_json"] = file.arrays["trainable_live_json"] if same else np.array("other names")
    return _as_recorded(file, computed)


def _outputs(batch: Batch, trainer: Trainer) -> dict[str, np.ndarray]:
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


def _as_recorded(file: GoldenFile, computed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays that the file holds, thinned and shaped as there: label maps have a channel axis in it."""
    result = {}
    for name, reference in file.arrays.items():
        if name in file.read or full_name(name) not in computed:
            continue
        ours = thinned(computed[full_name(name)], name)
        result[name] = ours.reshape(reference.shape) if ours.size == reference.size else ours
    return result


def check_trajectory(file: GoldenFile) -> dict[str, np.ndarray]:
    """Losses before each of some optimiser steps on one batch, and all weights after them."""
    golden, run = golden_model(file), file.companion(f"{file.stem}.lr.json")
    batch, model = Batch(file, golden, "inductive"), golden.build()
    before = {name: value.numpy() for name, value in model.state_dict().items()}
    config = golden.config("inductive", file["weights"])
    config.optimizer = optimizer_config(run)
    config.train.iterations = int(run["max_iters"])
    trainer = batch.trainer(model, config)
    reports = [trainer.step(batch.images, batch.labels, step) for step in range(len(file.arrays["losses"]))]
    final = {name: value.numpy() for name, value in model.state_dict().items()}
    computed = {
        "losses": np.array([[report.losses[name] for name in LOSS_NAMES.values()] for report in reports]),
        "lr_trainable": np.array([report.lr for report in reports]),
        "lr_frozen": _rates(run, len(reports), config.optimizer.lr),
        "base_lr": np.array(config.optimizer.lr),
        "weight_decay": np.array(config.optimizer.weight_decay),
    }
    trained = [name for name, _ in trainable(model)]
    computed |= {f"final.{name}": final[name] for name in trained}
    frozen = [name for name in final if name not in trained]
    computed["extra.frozen weights"] = np.concatenate([final[name].ravel() for name in frozen])
    file.expect("extra.frozen weights", np.concatenate([before[name].ravel() for name in frozen]))
    return computed


def optimizer_config(run: GoldenFile) -> OptimizerConfig:
    """Our optimiser settings for a trajectory_*.lr.json."""
    base = float(run["base_lr"])
    return OptimizerConfig(
        lr=base,
        lr_factor=float(run["trainable_initial_lr"]) / base,
        weight_decay=float(run["base_wd"]),
        power=float(run["power"]),
        min_lr=float(run["min_lr"]),
        warmup_iterations=int(run["warmup_iters"]),
        warmup_ratio=float(run["warmup_ratio"]),
    )


def _rates(run: GoldenFile, steps: int, initial: float) -> np.ndarray:
    config, iterations = optimizer_config(run), int(run["max_iters"])
    return np.array([learning_rate(step, iterations, initial, config) for step in range(steps)])


def check_trajectory_rates(file: GoldenFile) -> dict[str, np.ndarray]:
    """The learning rates of a trajectory in double precision."""
    config = optimizer_config(file)
    rates = {"lr_trainable": config.lr * config.lr_factor, "lr_frozen_groups": config.lr}
    return {name: _rates(file, len(file.arrays[name]), start) for name, start in rates.items() if name in file}
