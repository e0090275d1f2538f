"""Draws the logs of one or several runs in one figure: total loss, gradient norm, learning rate, metrics, loss terms.

    python tools/plot_log.py work_dirs/first work_dirs/second --output curves.png

Each run has a colour. Where a number varies from step to step, the faint line is the log's, the strong one its moving
mean over a tenth of the run. There are metrics where the model was evaluated during training (`train.eval_every`).
Needs matplotlib: pip install matplotlib.
"""

from __future__ import annotations

from jseg.runtime.command_line import ArgumentParser, run

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jseg.config import flatten
from jseg.engine.log import LOG_NAME, read_log
from jseg.errors import UserError
from jseg.files import whole_files
from jseg.metrics import percent
from jseg.outputs import check_outputs

METRICS = ("mIoU(S)", "mIoU(U)", "hIoU")
FIRST = {"losses.total": "total loss", "gradient_norm": "gradient norm", "lr": "learning rate"}
Log = list[dict[str, Any]]


def read_runs(paths: list[Path]) -> dict[str, Log]:
    """Lines of each log by the path of its run."""
    runs = {str(path): read_log(path / LOG_NAME if path.is_dir() else path) for path in paths}
    for name, lines in runs.items():
        if not any(line.get("event") in ("train", "evaluation") for line in lines):
            raise UserError(f"{name} holds no log of a training run: pass the work folder of one")
    return runs


def points(lines: Log, key: str) -> list[tuple[int, float]]:
    """(iteration, value) of a number of training or evaluation; lines where it is missing or undefined are left out."""
    found = [(x["iteration"], flatten(x).get(key)) for x in lines if x.get("event") in ("train", "evaluation")]
    return [(iteration, value) for iteration, value in found if value is not None]


def smoothed(values: Sequence[float]) -> np.ndarray:
    """The mean of each value (N,) and its neighbours, a tenth of all values together; fewer at the ends."""
    window = np.ones(len(values) // 10 | 1)
    return np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")


def summary(name: str, lines: Log) -> str:
    """One line with the path of a run and the metrics of its last evaluation, if there was one."""
    last = next((line for line in reversed(lines) if line.get("event") == "evaluation"), None)
    figures = ", ".join(f"{metric} {percent(last['metrics'].get(metric))}" for metric in METRICS) if last else ""
    return f"{name}: {figures} after iteration {last['iteration']}" if last else name


def draw(runs: dict[str, Log], output: Path) -> None:
    """Draws a panel for each number over the iterations, without those that no run has."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    terms = sorted({term for lines in runs.values() for line in lines for term in line.get("losses", {})} - {"total"})
    titles = {f"metrics.{metric}": f"{metric} in percent" for metric in METRICS}
    titles |= {f"losses.{term}": f"loss: {term}" for term in terms} | FIRST
    curves = {key: {name: points(lines, key) for name, lines in runs.items()} for key in titles}
    rows = [["losses.total", *FIRST], [f"metrics.{metric}" for metric in METRICS], [f"losses.{term}" for term in terms]]
    rows = [found for row in rows if (found := [key for key in row if any(curves[key].values())])]
    width, size = math.lcm(*map(len, rows)), (13, 3 * len(rows) + 1)
    layout = [[key for key in row for _ in range(width // len(row))] for row in rows]
    figure, panels = pyplot.subplot_mosaic(layout, figsize=size, layout="constrained")
    for key, panel in panels.items():
        for number, found in enumerate(curves[key].values()):
            iterations, values = np.array(found).reshape(-1, 2).T
            varies, colour = key.startswith("losses") or key == "gradient_norm", f"C{number}"
            if varies and found:
                panel.plot(iterations, values, color=colour, alpha=0.3, linewidth=1)
                values = smoothed(values)
            panel.plot(iterations, values, color=colour, marker="." if key.startswith("metrics") else "")
        panel.set(title=titles[key], yscale="log" if key.startswith("losses") else "linear")
        panel.grid(alpha=0.3, which="both")
    for key in rows[-1]:
        panels[key].set_xlabel("iteration")
    lines = [pyplot.Line2D([], [], color=f"C{number}") for number in range(len(runs))]
    figure.legend(lines, [summary(*item) for item in runs.items()], loc="outside upper left")
    with whole_files(output) as (file,):
        figure.savefig(file, dpi=110, format=output.suffix[1:])
    pyplot.close(figure)


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
    draw(runs, options.output)
    print(*(summary(*item) for item in runs.items()), f"curves: {options.output}", sep="\n")
    return 0


if __name__ == "__main__":
    run(main)
