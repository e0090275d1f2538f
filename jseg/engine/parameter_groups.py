"""Which learning rate and weight decay each trainable parameter gets (golden/torch_release: param_groups_full*.json).

The released config text gives backbone and head ten times the base rate and frees norm layers from weight decay. What
runs is different: of the keys that occur in a parameter's name only one is applied, and every trainable name holds
`backbone` or `head`, which come before `norm` and `ln`. So everything runs at ten times the rate, with decay.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from jseg.engine.config import OptimizerConfig

NORM_KEYS = ("norm", "ln")


@dataclass(frozen=True)
class GroupSettings:
    """Initial learning rate and decoupled weight decay of a group of parameters."""

    lr: float
    weight_decay: float


def group_settings(name: str, config: OptimizerConfig) -> GroupSettings:
    """The settings of one trainable parameter.

    Args:
        name: its name in the state, such as `decode_head.q_proj.weight`.
        config: `groups` is `released` (everything decays) or `stated` (norm layers do not, as the config text says).
    """
    is_norm = any(key in name for key in NORM_KEYS)
    decay = 0.0 if config.groups == "stated" and is_norm else config.weight_decay
    return GroupSettings(lr=config.lr * config.lr_factor, weight_decay=decay)


def parameter_groups(names: Iterable[str], config: OptimizerConfig) -> dict[GroupSettings, list[str]]:
    """Trainable parameter names by their settings, in the order of their first name."""
    groups: dict[GroupSettings, list[str]] = {}
    for name in names:
        groups.setdefault(group_settings(name, config), []).append(name)
    return groups
