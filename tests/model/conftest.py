"""Models for the tests of jseg.model: small ones with random weights, and the recorded ones of the golden folder."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from jseg.config import ModelConfig
from jseg.model.clip_rc import ClipRC, build_clip_rc
from jseg.model.initial_weights import initialise

SMALL = ModelConfig(
    image_size=64, patch_size=16, width=32, layers=3, heads=2, output_dim=16, prompts=3, region_grid=2,
    decoder_layers=2, decoder_heads=4, ffn_factor=2, init="random",
)  # fmt: skip


@pytest.fixture(scope="session")
def small_config() -> ModelConfig:
    """A model that runs in milliseconds."""
    return SMALL


@pytest.fixture
def small_model(make_model: Callable[..., ClipRC]) -> ClipRC:
    """The small model with weights as at the start of training."""
    return make_model()


@pytest.fixture(scope="session")
def make_model() -> Callable[..., ClipRC]:
    """Builds the small model with some settings changed: `make_model(region_grid=3)`."""

    def make(seed: int = 0, **changes: object) -> ClipRC:
        config = replace(SMALL, **changes)
        model = build_clip_rc(config)
        initialise(model, config, seed)
        return model

    return make
