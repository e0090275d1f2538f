"""How time and memory of a forward pass grow with classes, image size, prompts and batch, as a picture."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jseg.errors import UserError
from jseg.files import check_writable, write_whole

SERIES: dict[str, tuple[int, ...]] = {  # the other sizes are those of VOC
    "classes": (20, 171, 1000),
    "image": (512, 768, 1024, 2048),
    "prompts": (10, 30, 100),
    "batch": (1, 2, 4, 8),
}


def growth(measured: Callable[[str, int], dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Results of all sizes; `measured` gives that of one option of tools/benchmark.py at a value."""
    return {
        option: [{**measured(option, value), option: value} for value in values] for option, values in SERIES.items()
    }


def check_can_draw(path: Path) -> None:
    """Raises UserError when `draw` could not write `path`: better before the measurements than after them."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError('--growth draws with matplotlib: pip install "jseg[plot]"')
    check_writable(path.absolute().parent)


def draw(results: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """A panel for each series: seconds, the floor and peak memory against the size.

    Large products run at another rate in each process where other programs disturb them: the floors are of the best.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rate = max(row["product_gflops"] for rows in results.values() for row in rows)
    figure, panels = pyplot.subplots(1, len(results), figsize=(4 * len(results), 3.4), layout="constrained")
    for panel, (option, rows) in zip(panels, results.items(), strict=True):
        values, memory = [row[option] for row in rows], panel.twinx()
        panel.plot(values, [row["seconds"] for row in rows], "o-", color="C0", label="seconds")
        floors = [row["floor_seconds"] * row["product_gflops"] / rate for row in rows]
        panel.plot(values, floors, ":", color="C0", label=f"floor at {rate:.0f} GFLOP/s")
        memory.plot(values, [row["peak_gib"] for row in rows], "s--", color="C1")
        panel.set_xlabel("pixels a side" if option == "image" else option)
        panel.set_ylabel("seconds", color="C0")
        memory.set_ylabel("peak memory, GiB", color="C1")
        panel.set_ylim(bottom=0)
        memory.set_ylim(bottom=0)
    panels[0].legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    write_whole(path, buffer.getvalue())
