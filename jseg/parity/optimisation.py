"""param_groups_full*.json, lr_schedule_full.json: what trains at full size, at which rates and with which decay."""

from __future__ import annotations

import re

import numpy as np

from jseg.config import OptimizerConfig
from jseg.engine.optimizer import group_settings, learning_rate
from jseg.errors import UserError
from jseg.model.clip_rc import build_clip_rc, trainable
from jseg.parity.full_size import model_config_of
from jseg.parity.golden_file import GoldenFile

GROUPS_EXCLUDED = {
    "config": "name of the released config",
    "custom_keys/*": "the released config text, of which only a part has an effect",
    "key_order*": "how the released code came to its groups",
    "lr_config/*": "compared at work in lr_schedule_full.json",
    "samples_per_gpu": "says how the published runs were spread over GPUs",
    "trainable_params": "counts the dead weights of the released decoder, which ours does not have",
    "frozen_params_with_text_encoder": "counts the text tower, which is no part of our model",
    "distinct_groups*": "the same as lr and weight_decay of each parameter",
    "frozen_groups_lr_wd*": "frozen parameters are in no group of ours",
    "trainable/*/matched_key": "how the released code came to its groups",
}
SCHEDULE = re.compile(r"(?P<run>.*?)(?P<thousands>\d+)k_lr_(?P<group>trainable|base)")
LIVE = re.compile(r"trainable/(?P<name>.*)/dead")


def _live_names(file: GoldenFile) -> list[str]:
    """Names that train and have an effect; all that is told about the others counts as read."""
    names = [found.group("name") for key in file.arrays if (found := LIVE.fullmatch(key))]
    dead = [name for name in names if file[f"trainable/{name}/dead"]]
    for name in dead:
        file.starting_with(f"trainable/{name}/")
    return [name for name in names if name not in dead]


def check_parameter_groups(file: GoldenFile) -> dict[str, np.ndarray]:
    """Names, shapes, rates and decay of all that trains, and the names of what does not."""
    live = _live_names(file)
    shapes = {name: tuple(file.arrays[f"trainable/{name}/shape"].tolist()) for name in live}
    model = build_clip_rc(model_config_of(shapes))
    config = OptimizerConfig(
        lr=float(file["base_lr"]),
        lr_factor=float(file.arrays["custom_keys/backbone/lr_mult"]),
        weight_decay=float(file["base_weight_decay"]),
    )
    ours = {name: tuple(var.shape) for name, var in trainable(model)}
    if set(ours) != set(live):
        raise UserError(f"other parameters train: {', '.join(sorted(set(ours) ^ set(live))[:5])}")
    sizes = {name: int(np.prod(shape)) for name, shape in ours.items()}
    frozen = [name for name in model.state_dict() if name not in ours and "resblocks" not in name]
    computed = {
        "live_trainable_params": np.array(sum(sizes.values())),
        "live_without_recovery_decoder": np.array(sum(n for name, n in sizes.items() if "recovery" not in name)),
    }
    if "frozen_backbone_names" in file:
        file.expect("frozen_backbone_names", np.sort(file.arrays["frozen_backbone_names"]))
        computed["frozen_backbone_names"] = np.sort(np.array(frozen))
    for name, shape in ours.items():
        settings = group_settings(name, config)
        computed[f"trainable/{name}/shape"] = np.array(shape)
        computed[f"trainable/{name}/lr"] = np.array(settings.lr)
        computed[f"trainable/{name}/weight_decay"] = np.array(settings.weight_decay)
    return computed


def check_schedule(file: GoldenFile) -> dict[str, np.ndarray]:
    """Learning rates of the published runs, whose lengths are in the names of the arrays."""
    iterations, config = file["its"].tolist(), OptimizerConfig()
    computed = {}
    for name in file.arrays:
        if found := SCHEDULE.fullmatch(name):
            length = 1000 * int(found.group("thousands"))
            initial = config.lr * (config.lr_factor if found.group("group") == "trainable" else 1)
            rates = [learning_rate(step, length, initial, config) for step in iterations if step < length]
            computed[name] = np.array(rates)
    return computed
