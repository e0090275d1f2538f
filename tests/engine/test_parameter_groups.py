"""Tests of jseg/engine/optimizer.py against the groups that the released training code makes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jseg.config import OptimizerConfig
from jseg.engine.optimizer import GroupSettings, group_settings, parameter_groups


@pytest.mark.parity
def test_every_released_parameter_has_the_recorded_rate_and_decay(golden: Path) -> None:
    files = sorted((golden / "torch_release").glob("param_groups_full*.json"))
    assert files
    for file in files:
        recorded = json.loads(file.read_text())
        config = OptimizerConfig(lr=recorded["base_lr"], weight_decay=recorded["base_weight_decay"])
        for name, entry in recorded["trainable"].items():
            ours = group_settings(name, config)
            assert (ours.lr, ours.weight_decay) == pytest.approx((entry["lr"], entry["weight_decay"]), rel=1e-12), name
        assert len(parameter_groups(recorded["trainable"], config)) == 1


def test_stated_groups_free_only_norm_layers_from_decay() -> None:
    names = [
        "backbone.prompt_norm.weight",
        "decode_head.decoder_q.layers.0.linear1.weight",
        "decode_head.decoder_q.layers.0.linear1.bias",
        "decode_head.decoder_q.layers.0.norm2.bias",
    ]
    groups = parameter_groups(names, OptimizerConfig(groups="stated"))
    assert groups == {GroupSettings(2e-4, 0.0): [names[0], names[3]], GroupSettings(2e-4, 0.01): names[1:3]}
