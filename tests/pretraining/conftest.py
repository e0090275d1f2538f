"""A pre-training run small enough for tests."""

import dataclasses

import pytest

from jseg.pretraining.images import Round, Settings, Stage


@pytest.fixture
def tiny() -> Settings:
    return dataclasses.replace(
        Settings(),
        rounds=(
            Round(1e-3, 1, 5, (Stage(3, 6, 16, (1, 1), (0.5, 1.0)), Stage(2, 4, 24, (1, 3), None))),
            Round(5e-4, 1, 3, (Stage(3, 4, 24, (1, 3), None),)),
        ),
        image_size=32, image_width=16, image_layers=2, image_heads=2, text_width=16, text_layers=1, text_heads=2,
        output_dim=16, merges=300, vocabulary_captions=50, workers=0, log_every=2,
    )  # fmt: skip
