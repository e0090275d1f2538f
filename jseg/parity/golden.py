"""Golden files: recorded arrays by name, and the model and configuration that they were recorded with."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jseg.config import Config, LossConfig, ModelConfig, TestConfig, flatten
from jseg.data.class_names import IGNORED, ClassList
from jseg.model.clip_rc import ClipRC, build_clip_rc
from jseg.model.released_weights import load_released


class NotRun(Exception):
    """A check cannot run because something beside the golden file is missing. The message says what."""


class GoldenFile:
    """The arrays of one golden file by name: an .npz, or a .json (flattened, keys joined by "/").

    Reading an array with `[...]` marks it as an input; all others have to be compared. Checks may add and change some.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tag = path.name.split(".")[0].rsplit("_", 1)[-1]  # forward_eval_A.npz -> A
        self.read: set[str] = set()
        self.arrays: dict[str, np.ndarray] = {}  # other kinds of file have none here
        if path.suffix == ".npz":
            self.arrays = dict(np.load(path))
        elif path.suffix == ".json":
            self.arrays = {name: np.asarray(x) for name, x in flatten(json.loads(path.read_text()), "/").items()}

    def __getitem__(self, name: str) -> np.ndarray:
        self.read.add(name)
        return self.arrays[name]

    def json(self, name: str) -> Any:
        """An input that holds JSON text, parsed."""
        return json.loads(str(self[name]))

    def starting_with(self, prefix: str) -> dict[str, np.ndarray]:
        """Inputs whose names start with `prefix`, under the rest of the name."""
        return {name.removeprefix(prefix): self[name] for name in self.arrays if name.startswith(prefix)}

    def companion(self, name: str) -> GoldenFile:
        """Another file, by its path from the folder of this one; raises NotRun when it is not there."""
        path = self.path.parent / name
        if not path.is_file():
            raise NotRun(f"{name} is missing")
        return GoldenFile(path)


class GoldenModel:
    """Configuration and weights of the weights_*.npz that belongs to a golden file; raises NotRun without it."""

    def __init__(self, file: GoldenFile) -> None:
        weights = file.companion(f"weights_{file.tag}.npz")
        self.values = weights.json("config_json")
        self.tensors = {name: x for name, x in weights.arrays.items() if name not in ("text_feat", "config_json")}
        indices = range(self.values["classes"])
        unseen = tuple(index for index in indices if index not in self.values["seen"])
        self.classes = ClassList("golden", "", tuple(map(str, indices)), unseen, tuple(indices), (IGNORED,))

    def config(self, setting: str, weights: Iterable[float] = (1, 1, 1)) -> Config:
        """Our configuration; `weights` are those of mask, dice and recovery loss."""
        values, gamma = self.values, self.values.get("gamma", 0.1) if setting == "inductive" else 0.0
        focal = {key: values[key] for key in ("focal_alpha", "focal_gamma") if key in values}
        test = TestConfig(crop_size=(values["img"],) * 2, stride=(values["stride"],) * 2, gamma=gamma)
        config = Config(model=model_config(values), loss=LossConfig(*map(float, weights), **focal), test=test)
        config.data.setting = setting
        return config

    def build(self) -> ClipRC:
        """A model with these weights in evaluation mode."""
        eps = {key: value for key, value in self.values.items() if key in ("norm_eps", "prompt_norm_eps")}
        model = build_clip_rc(model_config(self.values), **eps)
        load_released(model, self.tensors)
        return model


def model_config(values: Mapping[str, Any]) -> ModelConfig:
    """ModelConfig of a config_json, without dropout; what it does not say is as released."""
    depths = {key: values[key] for key in ("decoder_layers", "ffn_factor", "recovery_layers") if key in values}
    return ModelConfig(
        image_size=values["img"], patch_size=values["patch"], width=values["width"], layers=values["layers"],
        heads=values["heads"], output_dim=values["dim"], prompts=values["K"], region_grid=math.isqrt(values["M"]),
        decoder_heads=values["head_heads"], prompt_dropout=0.0, decoder_dropout=0.0, init="random", **depths,
    )  # fmt: skip
