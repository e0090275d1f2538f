"""Tests on a real GPU: the released models' numbers, and memory that stays flat over many steps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jseg.parity.report import check_set
from jseg.runtime import cuda
from jseg.runtime.start import start
from tests.engine.tiny_training import tiny_batch, tiny_config, tiny_trainer

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def on_cuda() -> Iterator[None]:
    """The test computes on the GPU, the next one on the CPU again."""
    assert start("cuda") == "cuda"
    yield
    start("cpu")


@pytest.mark.parity
def test_released_models(golden: Path) -> None:
    reports = list(check_set(golden, "cuda"))
    assert [report.line() for report in reports if report.failed] == []
    assert sum(report.passed for report in reports) > 10


def test_memory_stays_flat_over_200_steps() -> None:
    trainer, used = tiny_trainer(tiny_config(iterations=200), dropout=True), []
    for iteration in range(200):
        trainer.step(*tiny_batch(seed=iteration % 7), iteration)
        if iteration >= 50:
            used.append(cuda.used_memory())
    assert used[0] > 0
    assert max(used) - used[0] <= 8 * 2**20  # Jittor takes memory in blocks of 2 MiB and more
