"""Draws the logs of one or several runs in one figure: losses, learning rate, gradient norm, metrics.

    python tools/plot_log.py work_dirs/first work_dirs/second --output curves.png

Needs matplotlib: pip install "jseg[plot]".
"""

from __future__ import annotations

from jseg.runtime.command_line import ArgumentParser, run

import argparse
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jseg.engine.log import LOG_NAME, read_log
from jseg.errors import UserError
from jseg.files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METRICS = ("mIoU(S)", "mIoU(U)", "hIoU")
LINES = ("-", "--", ":", "-.", (0, (1, 3)))  # within a panel: one for each quantity; colours tell runs apart


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line -> options."""
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, help="work folders, or log.jsonl files")
    parser.add_argument("--output", type=Path, default=Path("curves.png"), help=".png, .pdf or .svg (curves.png)")
    return parser.parse_args(arguments)


def read_runs(paths: list[Path]) -> dict[str, list[dict[str, Any]]]:
    """Lines of each log, by a name that tells the runs apart.

    Raises:
        UserError: there is no such log, or it holds nothing to draw.
    """
    found = []
    for path in paths:
        log = path / LOG_NAME if path.is_dir() else path
        lines = read_log(log)
        if not any(line.get("event") in ("train", "evaluation") for line in lines):
            raise UserError(f"{log} holds no log of a training run: pass the work folder of one")
        found.append((log.resolve().parent, lines))
    names = names_of([folder for folder, _ in found])
    return {name: lines for name, (_, lines) in zip(names, found, strict=True)}


def names_of(folders: list[Path]) -> list[str]:
    """The last parts of each path, as many as tell the folders apart."""
    for count in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-count:]) for folder in folders]
        if len(set(names)) == len(set(folders)):
            break
    return names


def points(lines: list[dict[str, Any]], event: str, *keys: str) -> tuple[list[int], list[float]]:
    """Iterations and values of a number; lines where it is missing or undefined are left out."""
    iterations, values = [], []
    for line in lines:
        value: Any = line if line.get("event") == event else None
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if type(value) in (int, float):
            iterations.append(line["iteration"])
            values.append(value)
    return iterations, values


def draw(runs: dict[str, list[dict[str, Any]]], output: Path) -> None:
    """Draws four panels over the iterations and writes the figure.

    Raises:
        UserError: matplotlib cannot write files of this kind; the folder cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    terms = sorted({term for lines in runs.values() for line in lines for term in line.get("losses", {})} - {"total"})
    panels = {
        "loss": [("train", "losses", "total")] + [("train", "losses", term) for term in terms],
        "metrics in percent": [("evaluation", "metrics", metric) for metric in METRICS],
        "learning rate": [("train", "lr")],
        "gradient norm": [("train", "gradient_norm")],
    }
    figure, axes = pyplot.subplots(2, 2, figsize=(13, 8), sharex=True, layout="constrained")
    for (title, quantities), panel in zip(panels.items(), axes.flat, strict=True):
        draw_panel(panel, title, quantities, runs)
    for panel in axes[1]:
        panel.set_xlabel("iteration")
    if len(runs) > 1:
        colours = [pyplot.Line2D([], [], color=f"C{number}", label=name) for number, name in enumerate(runs)]
        figure.legend(handles=colours, loc="outside upper center", ncols=min(len(runs), 4), frameon=False)
    kind = output.suffix.lstrip(".").lower()
    if kind not in figure.canvas.get_supported_filetypes():
        raise UserError(f"--output {output}: the name must end with .png, .pdf or .svg")
    with whole_file(output) as file:
        figure.savefig(file, format=kind, dpi=110)
    pyplot.close(figure)


def draw_panel(
    panel: Axes, title: str, quantities: list[tuple[str, ...]], runs: dict[str, list[dict[str, Any]]]
) -> None:
    """One panel: a colour for each run, a kind of line for each quantity."""
    from matplotlib.lines import Line2D

    shown = {}
    for colour, lines in enumerate(runs.values()):
        for number, quantity in enumerate(quantities):
            iterations, values = points(lines, *quantity)
            if values:
                color, style = f"C{colour if len(runs) > 1 else number}", LINES[number % len(LINES)]
                panel.plot(iterations, values, color=color, linestyle=style, marker="." if len(values) < 50 else None)
                shown[quantity[-1]] = Line2D([], [], color="black" if len(runs) > 1 else color, linestyle=style)
    panel.set_title(title)
    panel.grid(alpha=0.3)
    if title == "loss":
        panel.set_yscale("log")
    if len(shown) > 1:
        panel.legend(shown.values(), shown.keys(), fontsize="small", framealpha=0.4)
    if not shown:
        panel.text(0.5, 0.5, "none in the log", transform=panel.transAxes, ha="center", color="gray")


def main(arguments: list[str] | None = None) -> int:
    """Draws; see the module docstring."""
    options = parse_arguments(arguments)
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError('drawing needs matplotlib: pip install "jseg[plot]"')
    runs = read_runs(options.runs)
    draw(runs, options.output)
    print(f"{len(runs)} run{'s' if len(runs) > 1 else ''}: {options.output}")
    return 0


if __name__ == "__main__":
    run(main)
