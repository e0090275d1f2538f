"""Counted work against the sizes it is counted from."""

from __future__ import annotations

import pytest

from jseg.benchmark.arithmetic import (
    Sizes,
    attention_operations,
    forward_operations,
    parameter_count,
    training_operations,
)
from jseg.config import ModelConfig
from jseg.model.clip_rc import build_clip_rc

SMALL = ModelConfig(image_size=64, patch_size=16, width=32, layers=3, heads=2, output_dim=16, prompts=3, region_grid=2,
                    decoder_heads=2, decoder_layers=2)  # fmt: skip


def test_parameters_are_those_of_the_model() -> None:
    state = build_clip_rc(SMALL).state_dict()
    counts = [sum(var.numel() for name, var in state.items() if name.startswith(part)) for part in ("back", "deco")]
    assert list(parameter_count(SMALL)) == counts


def test_attention_of_the_paper_sizes() -> None:
    """12 heads of 64 over 1025 queries and 1035 keys, own regions, 16 regions with 65 keys: 3.26 GFLOP."""
    expected = 4 * 768 * (1025 * 1035 + 1024 + 16 * 65)
    assert attention_operations(Sizes(ModelConfig(), 20, 512)) == expected


@pytest.mark.parametrize(("classes", "prompts", "tera"), [(20, 10, 0.24), (171, 100, 0.33)])
def test_forward_of_the_paper_sizes(classes: int, prompts: int, tera: float) -> None:
    operations = forward_operations(Sizes(ModelConfig(prompts=prompts), classes, 512))
    assert operations == pytest.approx(tera * 1e12, rel=0.05)


def test_training_of_the_paper_sizes() -> None:
    assert training_operations(Sizes(ModelConfig(), 15, 512)) == pytest.approx(0.58e12, rel=0.03)


def test_work_grows_with_the_batch() -> None:
    one, four = (forward_operations(Sizes(SMALL, 5, 64, batch)) for batch in (1, 4))
    assert four == 4 * one
