"""The picture of how work grows."""

from __future__ import annotations

from pathlib import Path

import pytest

from jseg.benchmark import growth as module
from jseg.benchmark.growth import SERIES, check_can_draw, draw, growth
from jseg.errors import UserError


def test_every_size_is_measured_and_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    asked = []

    def measured(option: str, value: int) -> dict[str, float]:
        asked.append((option, value))
        return {"seconds": 2.0 * value, "floor_seconds": 1.0 * value, "product_gflops": 100.0, "peak_gib": 1.0}

    results = growth(measured)
    assert asked == [(option, value) for option, values in SERIES.items() for value in values]
    values = {"seconds": 4096.0, "floor_seconds": 2048.0, "product_gflops": 100.0, "peak_gib": 1.0, "image": 2048}
    assert results["image"][-1] == values
    draw(results, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_what_would_keep_it_from_being_drawn_is_told_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda _: True)
    with pytest.raises(UserError, match="file"):
        check_can_draw(tmp_path / "file" / "growth.png")
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="matplotlib"):
        check_can_draw(tmp_path / "growth.png")
