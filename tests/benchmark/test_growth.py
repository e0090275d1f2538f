"""The picture of how work grows."""

from __future__ import annotations

from pathlib import Path

import pytest

from jseg.benchmark.growth import SERIES, draw, growth


def test_every_size_is_measured_and_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    asked = []

    def measured(option: str, value: int) -> dict[str, float]:
        asked.append((option, value))
        return {"seconds": 2.0 * value, "floor_seconds": 1.0 * value, "peak_gib": 1.0}

    results = growth(measured)
    assert asked == [(option, value) for option, values in SERIES.items() for value in values]
    assert results["image"][-1] == {"seconds": 4096.0, "floor_seconds": 2048.0, "peak_gib": 1.0, "image": 2048}
    draw(results, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")
