"""Draws the logs of one or several runs in one figure: total loss, gradient norm, lr, metrics, parts of the loss.

    python tools/plot_log.py work_dirs/first work_dirs/second --output curves.png

The faint lines are what was logged, the strong ones means over a tenth of the run. There are metrics if the run was
evaluated on the way (`train.eval_every`); the legend has the last ones. Needs matplotlib: pip install matplotlib.
"""

from __future__ import annotations

from jseg.runtime.command_line import ArgumentParser, run

import importlib.util
import math
from pathlib import Path
from typing import Any

import numpy as np

from jseg.config import flatten
from jseg.engine.log import LOG_NAME, read_log
from jseg.errors import UserError
from jseg.files import whole_files
from jseg.outputs import check_outputs

METRICS = ("mIoU(S)", "mIoU(U)", "hIoU")


def read_runs(paths: list[Path]) -> dict[str, list[dict[str, Any]]]:
    """Lines of training and evaluation in each log by the path of its run."""
    runs = {str(path): read_log(path / LOG_NAME if path.is_dir() else path) for path in paths}
    runs = {name: [x for x in lines if x.get("event") in ("train", "evaluation")] for name, lines in runs.items()}
    for name in (name for name, lines in runs.items() if not lines):
        raise UserError(f"{name} holds no log of a training run: pass the work folder of one")
    return runs


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


def draw(runs: dict[str, list[dict[str, Any]]], output: Path) -> list[str]:
    """Draws a panel for each number that a run has, over the iterations; returns the legend: runs, last metrics."""
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
        log, dots = key.startswith("losses"), "." if key.startswith("metrics") else ""
        for number, (iterations, values) in enumerate(found.T for found in curves[key]):
            if log or key == "gradient_norm":
                panel.plot(iterations, values, color=f"C{number}", alpha=0.3)
                values = smoothed(values)
            panel.plot(iterations, values, color=f"C{number}", marker=dots, label=names[number])
        title = key.replace("metrics.", "").replace("losses.", "loss: ").replace("_", " ")
        panel.set(title=title, xlabel="iteration", xlim=(0, 1.02 * last), yscale="log" if log else "linear")
        panel.locator_params(axis="x", nbins=5)
        if log:  # no powers of ten
            panel.yaxis.set(major_locator=LogLocator(subs=(1, 2, 3, 5)), major_formatter="{x:g}", minor_formatter="")
        panel.grid(alpha=0.3)
    figure.legend(*panel.get_legend_handles_labels(), loc="outside upper left")
    with whole_files(output) as (file,):
        figure.savefig(file, dpi=110, format=output.suffix[1:])
    pyplot.close(figure)
    return names


def main(arguments: list[str] | None = None) -> int:
    """Draws; see the module docstring."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="work folders, or log.jsonl files")
    parser.add_argument("--output", type=Path, default=Path("curves.png"), help=".png, .pdf or .svg (curves.png)")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    options = parser.parse_args(arguments)
    if options.output.suffix not in (".png", ".pdf", ".svg"):
        raise UserError(f"--output {options.output}: the name must end with .png, .pdf or .svg")
    check_outputs([options.output], options.runs, overwrite=options.overwrite)
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("drawing needs matplotlib: pip install matplotlib")
    runs = read_runs(options.runs)
    print(*draw(runs, options.output), f"curves: {options.output}", sep="\n")
    return 0


if __name__ == "__main__":
    run(main)
