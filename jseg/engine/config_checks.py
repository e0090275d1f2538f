"""Refuses configuration values that no run can use, before anything is loaded."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from jseg.errors import UserError

if TYPE_CHECKING:
    from jseg.engine.config import Config

SETTINGS = ("inductive", "transductive", "supervised")
PROTOCOLS = ("generalised", "strict")
KERNELS = ("auto", "plain")  # as in jseg/ops/compiled.py, which imports Jittor
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
TRAINING_FREE = {  # name: value path, class token (see jseg/engine/training_free.py)
    "patch_features": (False, False),
    "value_path": (True, False),
    "class_token": (True, True),
}
METRICS = ("pAcc", "mIoU(S)", "mIoU(U)", "hIoU")


def suggestion(word: str, choices: Iterable[str]) -> str:
    """`: did you mean 'x'?`, or the list of choices when nothing is close."""
    choices = list(choices)
    close = difflib.get_close_matches(word, choices, n=1)
    return f": did you mean {close[0]!r}?" if close else f": choose from {', '.join(choices)}"


def check(config: Config) -> None:
    """Checks single values, then values against each other.

    Raises:
        UserError: naming the key and the rule.
    """
    _check_choices(config)
    _check_ranges(config)
    _check_divisions(config)
    _check_sizes(config)
    _check_templates(config)
    _check_expected(config)


def _check_choices(config: Config) -> None:
    choices = (
        ("precision", config.precision, PRECISIONS),
        ("data.setting", config.data.setting, SETTINGS),
        ("model.head_init", config.model.head_init, ("released", "declared", "aligned")),
        ("optimizer.groups", config.optimizer.groups, ("released", "stated")),
        ("train.best_metric", config.train.best_metric, ("", *METRICS)),
        ("test.mode", config.test.mode, ("slide", "whole")),
        ("test.protocol", config.test.protocol, PROTOCOLS),
        ("kernels", config.kernels, KERNELS),
        ("test.training_free", config.test.training_free, ("", *TRAINING_FREE)),
    )
    for key, value, allowed in choices:
        if value not in allowed:
            raise UserError(f"{key}={value!r}{suggestion(value, allowed)}")


def _check_ranges(config: Config) -> None:
    data, model, text, optimizer, train, test = (
        config.data, config.model, config.text, config.optimizer, config.train, config.test,
    )  # fmt: skip
    at_least_one = {
        "model.patch_size": model.patch_size, "model.layers": model.layers,
        "model.width": model.width, "model.output_dim": model.output_dim, "model.prompts": model.prompts,
        "model.decoder_layers": model.decoder_layers, "model.recovery_layers": model.recovery_layers,
        "model.ffn_factor": model.ffn_factor, "text.layers": text.layers, "text.context_length": text.context_length,
        "train.iterations": train.iterations, "train.batch_size": train.batch_size, "train.log_every": train.log_every,
        "train.save_every": train.save_every, "train.keep_checkpoints": train.keep_checkpoints,
        "train.max_bad_steps": train.max_bad_steps,
        "test.window_batch": test.window_batch, "test.short_side": test.short_side,
        "test.stride": min(test.stride), "data.resize_box": min(data.resize_box),
    }  # fmt: skip
    at_least_zero = {
        "model.region_grid": model.region_grid,
        "data.workers": data.workers, "data.shapes.seed": data.shapes.seed, "train.seed": train.seed,
        "train.micro_batch": train.micro_batch, "train.eval_every": train.eval_every,
        "train.patience": train.patience, "optimizer.clip_norm": optimizer.clip_norm,
        "train.recipe_batch": train.recipe_batch, "train.expected_iteration": train.expected_iteration,
        "optimizer.lr": optimizer.lr, "optimizer.lr_factor": optimizer.lr_factor, "optimizer.eps": optimizer.eps,
        "optimizer.weight_decay": optimizer.weight_decay, "optimizer.min_lr": optimizer.min_lr,
        "optimizer.warmup_iterations": optimizer.warmup_iterations, "optimizer.power": optimizer.power,
        "loss.mask": config.loss.mask, "loss.dice": config.loss.dice, "loss.recovery": config.loss.recovery,
    }  # fmt: skip
    for lowest, values in ((1, at_least_one), (0, at_least_zero)):
        for key, value in values.items():
            if value < lowest or not math.isfinite(value):
                raise UserError(f"{key}={value}: must be at least {lowest}")
    if not 0 <= data.flip_probability <= 1:
        raise UserError(f"data.flip_probability={data.flip_probability}: must lie between 0 and 1")
    below_one = {
        "model.prompt_dropout": model.prompt_dropout,
        "model.decoder_dropout": model.decoder_dropout,
        "train.ema": train.ema,
    }
    for key, value in below_one.items():
        if not 0 <= value < 1:
            raise UserError(f"{key}={value}: must be at least 0 and below 1")
    if not 0 < data.ratio_range[0] <= data.ratio_range[1] < math.inf:
        raise UserError(f"data.ratio_range={data.ratio_range}: must be (lowest, highest), both above 0")
    if any(milestone < 1 for milestone in train.milestones):
        raise UserError(f"train.milestones={train.milestones}: must be numbers of finished iterations, 1 or more")
    _check_protocol(config)
    if train.patience and not train.eval_every:
        raise UserError(f"train.patience={train.patience} counts evaluations: set train.eval_every too")


def _check_protocol(config: Config) -> None:
    test = config.test
    if test.training_free and config.model.init in ("", "random"):
        raise UserError(f"test.training_free={test.training_free!r} needs CLIP weights: set model.init to them")
    if test.training_free and config.precision != "fp32":
        raise UserError(f"precision={config.precision!r}: test.training_free is measured in fp32 alone")
    if not test.scales or not all(0 < scale < math.inf for scale in test.scales):
        raise UserError(f"test.scales={test.scales}: must be one or more factors above 0, such as (0.75, 1.0, 1.25)")
    if test.protocol == "strict" and config.cross_dataset:
        raise UserError(
            "test.protocol='strict' evaluates unseen classes only, and with cross_dataset every class counts as seen: "
            "use test.protocol='generalised'"
        )


def _check_divisions(config: Config) -> None:
    model, train = config.model, config.train
    divisions = (
        ("model.heads", model.heads, "model.width", model.width),
        ("text.heads", config.text.heads, "text.width", config.text.width),
        ("model.decoder_heads", model.decoder_heads, "model.output_dim", model.output_dim),
        ("train.micro_batch", train.micro_batch or train.batch_size, "train.batch_size", train.batch_size),
    )
    for key, part, total_key, total in divisions:
        if part < 1 or total % part:
            raise UserError(f"{key}={part}: must divide {total_key}={total}")


def _check_sizes(config: Config) -> None:
    """Every size that the model will see must hold whole patches, at least one for each region a side."""
    model = config.model
    sizes = {"model.image_size": (model.image_size,) * 2, "data.crop_size": config.data.crop_size}
    if config.test.mode == "slide":
        sizes["test.crop_size"] = config.test.crop_size
        if any(step > side for step, side in zip(config.test.stride, config.test.crop_size, strict=True)):
            raise UserError(f"test.stride={config.test.stride}: larger than test.crop_size={config.test.crop_size}")
    for key, size in sizes.items():
        if any(side < 1 or side % model.patch_size for side in size):
            raise UserError(f"{key}={size}: must be multiples of model.patch_size={model.patch_size}")
        patches = min(size) // model.patch_size
        if patches < model.region_grid:
            raise UserError(
                f"model.region_grid={model.region_grid} does not fit {key}={size}: that is {patches} patches a side, "
                f"fewer than regions; take a smaller model.region_grid or a larger {key}"
            )


def _check_templates(config: Config) -> None:
    if not config.text.templates:
        raise UserError("text.templates is empty: give at least one, such as 'a photo of a {}'")
    for template in config.text.templates:
        if template.count("{}") != 1:
            raise UserError(f"text.templates: {template!r} must hold {{}} once, where the class name goes")


def _check_expected(config: Config) -> None:
    for metric, value in config.expected.items():
        if metric not in METRICS:
            raise UserError(f"expected: unknown metric {metric!r}{suggestion(str(metric), METRICS)}")
        if not (isinstance(value, (list, tuple)) and len(value) == 2 and all(type(x) in (int, float) for x in value)):
            raise UserError(f"expected[{metric!r}]={value!r}: must be [value, tolerance], both in percent")
