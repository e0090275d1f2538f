"""Models for the tests of jseg.model: small ones with random weights, and the recorded ones of the golden folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jseg.config import ModelConfig
from jseg.model.clip_rc import ClipRC, build_clip_rc
from jseg.model.initial_weights import initialise
from jseg.model.released_weights import load_released

SMALL = ModelConfig(
    image_size=64, patch_size=16, width=32, layers=3, heads=2, output_dim=16, prompts=3, region_grid=2,
    decoder_layers=2, decoder_heads=4, ffn_factor=2, init="random",
)  # fmt: skip


@pytest.fixture(scope="session")
def small_config() -> ModelConfig:
    """A model that runs in milliseconds."""
    return SMALL


@pytest.fixture
def small_model() -> ClipRC:
    """The small model with weights as at the start of training."""
    model = build_clip_rc(SMALL)
    initialise(model, SMALL, seed=0)
    return model


@pytest.fixture(scope="session")
def make_model() -> Callable[..., ClipRC]:
    """Builds the small model with some settings changed: `make_model(region_grid=3)`."""

    def make(seed: int = 0, **changes: object) -> ClipRC:
        config = replace(SMALL, **changes)
        model = build_clip_rc(config)
        initialise(model, config, seed)
        return model

    return make


class Recorded:
    """A recorded model: configuration, weights and text features of a `weights_*.npz`."""

    def __init__(self, path: Path) -> None:
        file = np.load(path)
        self.folder = path.parent
        self.tag = path.stem.removeprefix("weights_")
        self.values = json.loads(str(file["config_json"]))
        self.tensors = {name: file[name] for name in file.files if name.startswith(("backbone.", "decode_head."))}

    def model_config(self) -> ModelConfig:
        """Its sizes as our configuration, without dropout."""
        values = self.values
        return ModelConfig(
            image_size=values["img"],
            patch_size=values["patch"],
            width=values["width"],
            layers=values["layers"],
            heads=values["heads"],
            output_dim=values["dim"],
            prompts=values["K"],
            region_grid=round(values["M"] ** 0.5),
            decoder_layers=values["decoder_layers"],
            decoder_heads=values["head_heads"],
            ffn_factor=values["ffn_factor"],
            recovery_layers=values["recovery_layers"],
            prompt_dropout=0.0,
            decoder_dropout=0.0,
        )

    def build(self, tensors: dict[str, np.ndarray] | None = None) -> ClipRC:
        """The model with the recorded weights, or with `tensors`."""
        model = build_clip_rc(self.model_config(), self.values["norm_eps"], self.values["prompt_norm_eps"])
        assert load_released(model, tensors or self.tensors) == []
        return model

    def file(self, name: str) -> dict[str, np.ndarray] | None:
        """The arrays of `<name>_<tag>.npz` beside the weights; None when the set lacks this file."""
        path = self.folder / f"{name}_{self.tag}.npz"
        return dict(np.load(path)) if path.exists() else None


@pytest.fixture(scope="session")
def recorded_models(golden: Path) -> list[Recorded]:
    """All recorded models."""
    models = [Recorded(path) for path in sorted((golden / "torch_release").glob("weights_*.npz"))]
    assert models, "no torch_release/weights_*.npz in the golden folder"
    return models
