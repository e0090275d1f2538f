"""The model of a golden file: its configuration in our words, its weights loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jseg.config import Config, LossConfig, ModelConfig, TestConfig
from jseg.data.class_names import IGNORED, ClassList
from jseg.errors import UserError
from jseg.model.clip_rc import ClipRC, build_clip_rc
from jseg.model.released_weights import load_released
from jseg.parity.golden_file import GoldenFile

NOT_WEIGHTS = ("text_feat", "config_json")


@dataclass(frozen=True)
class GoldenModel:
    """What the weights_*.npz of a set say."""

    values: Mapping[str, Any]  # config_json
    tensors: Mapping[str, np.ndarray]
    text: np.ndarray  # (C, D) float32

    @property
    def classes(self) -> ClassList:
        """The class list, seen and unseen."""
        count, seen = self.values["classes"], set(self.values["seen"])
        return ClassList(
            dataset="golden",
            split="",
            names=tuple(f"class {index}" for index in range(count)),
            unseen=tuple(index for index in range(count) if index not in seen),
            stored=tuple(range(count)),
            stored_ignored=(IGNORED,),
        )

    @property
    def crop(self) -> tuple[int, int]:
        """(height, width) that the model was trained at and windows have, in pixels."""
        return (self.values["img"], self.values["img"])

    def config(self, setting: str, weights: np.ndarray | None = None) -> Config:
        """Our configuration; `weights` are those of mask, dice and recovery loss."""
        values, config = self.values, Config()
        config.data.setting = setting
        config.data.crop_size = self.crop
        config.model = model_config(values)
        mask, dice, recovery = (1.0, 1.0, 1.0) if weights is None else (float(weight) for weight in weights)
        config.loss = LossConfig(
            mask=mask,
            dice=dice,
            recovery=recovery,
            focal_alpha=values.get("focal_alpha", LossConfig.focal_alpha),
            focal_gamma=values.get("focal_gamma", LossConfig.focal_gamma),
        )
        config.test = TestConfig(
            crop_size=self.crop,
            stride=(values["stride"], values["stride"]),
            gamma=values.get("gamma", 0.1) if setting == "inductive" else 0.0,
        )
        return config

    def build(self, scaled: tuple[str, ...] = (), scale: float = 1.0) -> ClipRC:
        """A model with these weights in evaluation mode; those named in `scaled` are multiplied in float32."""
        eps = {key: self.values[key] for key in ("norm_eps", "prompt_norm_eps") if key in self.values}
        model = build_clip_rc(model_config(self.values), **eps)
        tensors = {name: value * np.float32(scale) if name in scaled else value for name, value in self.tensors.items()}
        load_released(model, tensors)
        return model


def model_config(values: Mapping[str, Any]) -> ModelConfig:
    """ModelConfig of a config_json, without dropout; what it does not say is as released.

    Raises:
        UserError: something that the model cannot do.
    """
    regions = math.isqrt(values["M"])
    if regions**2 != values["M"]:
        raise UserError(f"golden config: M={values['M']} regions are no square grid")
    if values.get("deep_prompt_layers", values["layers"] - 1) != values["layers"] - 1:
        raise UserError(f"golden config: deep_prompt_layers={values['deep_prompt_layers']} is not layers - 1")
    released = ModelConfig()
    return ModelConfig(
        image_size=values["img"],
        patch_size=values["patch"],
        width=values["width"],
        layers=values["layers"],
        heads=values["heads"],
        output_dim=values["dim"],
        prompts=values["K"],
        region_grid=regions,
        decoder_layers=values.get("decoder_layers", released.decoder_layers),
        decoder_heads=values["head_heads"],
        ffn_factor=values.get("ffn_factor", released.ffn_factor),
        recovery_layers=values.get("recovery_layers", released.recovery_layers),
        prompt_dropout=0.0,
        decoder_dropout=0.0,
        init="random",
    )


def golden_model(file: GoldenFile) -> GoldenModel:
    """The model that belongs to a golden file.

    Raises:
        NotRun: its weights file is not in the folder.
    """
    file = file.companion(f"weights_{file.tag}.npz")
    tensors = {name: value for name, value in file.arrays.items() if name not in NOT_WEIGHTS}
    return GoldenModel(file.json("config_json"), tensors, file["text_feat"])
