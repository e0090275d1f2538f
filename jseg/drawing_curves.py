"""Curves of training runs, drawn with matplotlib: total loss, gradient norm, lr, metrics, parts of the loss."""

from __future__ import annotations

import importlib.util
import math
from typing import Any, BinaryIO

import numpy as np

from jseg.config import flatten
from jseg.errors import UserError

METRICS = ("mIoU(S)", "mIoU(U)", "hIoU")
EVENTS = ("train", "evaluation")  # of the log lines that are drawn


def need_matplotlib() -> None:
    """UserError if matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("drawing needs matplotlib: pip install matplotlib")


def points(lines: list[dict[str, Any]], key: str) -> np.ndarray:
    """(N, 2) iterations and values of a number; lines where it is missing or undefined are left out."""
    found = [(line["iteration"], flatten(line).get(key)) for line in lines]
    return np.array([pair for pair in found if pair[1] is not None]).reshape(-1, 2)


def smoothed(values: np.ndarray) -> np.ndarray:
    """(N,) means of each value and its neighbours: a tenth of all, fewer at the ends."""
    places, sums = np.arange(len(values)), np.append(0, np.cumsum(values))
    before = np.minimum(places, len(values) // 20)
    after = np.minimum(before, places[::-1])
    return (sums[places + after + 1] - sums[places - before]) / (before + after + 1)


def draw(runs: dict[str, list[dict[str, Any]]], file: BinaryIO, kind: str) -> list[str]:
    """Draws a panel for each number that a run has, over the iterations; returns the legend: runs, last metrics.

    `runs` holds the lines of each log whose event is one of `EVENTS`; the image (png, pdf, svg) is written to `file`.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator

    terms = sorted({term for lines in runs.values() for line in lines for term in line.get("losses", {})} - {"total"})
    rows = [["losses.total", "losses.total", "gradient_norm", "lr"], [f"metrics.{metric}" for metric in METRICS]]
    rows.append([f"losses.{term}" for term in terms])
    curves = {key: [points(lines, key) for lines in runs.values()] for row in rows for key in row}
    rows = [found for row in rows if (found := [key for key in row if any(map(len, curves[key]))])]
    found = [[f"{x} {y:.2f}" for x in METRICS for y in points(log, f"metrics.{x}")[-1:, 1]] for log in runs.values()]
    names = ["  ".join([name, *metrics]) for name, metrics in zip(runs, found, strict=True)]
    width, last = math.lcm(*map(len, rows)), max(line["iteration"] for lines in runs.values() for line in lines)
    layout = [[key for key in row for _ in range(width // len(row))] for row in rows]  # wide panels: one name repeated
    figure, panels = pyplot.subplot_mosaic(layout, figsize=(13, 3 * len(rows) + 1), layout="constrained")
    for key, panel in panels.items():
        log = key.startswith("losses")
        for number, (iterations, values) in enumerate(found.T for found in curves[key]):
            if log or key == "gradient_norm":
                panel.plot(iterations, values, color=f"C{number}", alpha=0.3)
                values = smoothed(values)
            dots = "." if key.startswith("metrics") or len(values) == 1 else ""
            panel.plot(iterations, values, color=f"C{number}", marker=dots, label=names[number])
        title = key.replace("metrics.", "").replace("losses.", "loss: ").replace("_", " ")
        panel.set(title=title, xlabel="iteration", xlim=(0, 1.02 * last), yscale="log" if log else "linear")
        panel.locator_params(axis="x", nbins=5)
        if log:  # no powers of ten
            panel.yaxis.set(major_locator=LogLocator(subs=(1, 2, 3, 5)), major_formatter="{x:g}", minor_formatter="")
        panel.grid(alpha=0.3)
    figure.legend(*panel.get_legend_handles_labels(), loc="outside upper left")
    figure.savefig(file, dpi=110, format=kind)
    pyplot.close(figure)
    return names
