"""Draws the logs of one or several runs in one figure: losses, learning rate, gradient norm, metrics.

    python tools/plot_log.py work_dirs/first work_dirs/second --output curves.png

Needs matplotlib: pip install "jseg[plot]".
"""

from __future__ import annotations

from jseg.runtime.command_line import ArgumentParser, run

import argparse
import importlib.util
from pathlib import Path
from typing import Any

from jseg.engine.log import LOG_NAME, read_log
from jseg.errors import UserError
from jseg.files import whole_file

METRICS = ("mIoU(S)", "mIoU(U)", "hIoU")
STYLES = ("-", "--", ":", "-.", (0, (1, 3)))


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line -> options."""
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, help="work folders, or log.jsonl files")
    parser.add_argument("--output", type=Path, default=Path("curves.png"), help=".png, .pdf or .svg (curves.png)")
    return parser.parse_args(arguments)


def read_runs(paths: list[Path]) -> dict[str, list[dict[str, Any]]]:
    """Lines of each log, by as many last parts of its folder as tell the runs apart.

    Raises:
        UserError: there is no such log, or it holds nothing to draw.
    """
    logs = [path / LOG_NAME if path.is_dir() else path for path in paths]
    folders = [log.resolve().parent for log in logs]
    for count in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-count:]) for folder in folders]
        if len(set(names)) == len(set(folders)):
            break
    runs = dict(zip(names, map(read_log, logs), strict=True))
    for name, lines in runs.items():
        if not any(line.get("event") in ("train", "evaluation") for line in lines):
            raise UserError(f"{name} holds no log of a training run: pass the work folder of one")
    return runs


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
    """Draws four panels over the iterations and writes the figure: a colour for each run, a line style for each number.

    Raises:
        UserError: matplotlib cannot write files of this kind; the folder cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    terms = sorted({term for lines in runs.values() for line in lines for term in line.get("losses", {})} - {"total"})
    panels = {
        "loss": [("train", "losses", term) for term in ["total", *terms]],
        "metrics in percent": [("evaluation", "metrics", metric) for metric in METRICS],
        "learning rate": [("train", "lr")],
        "gradient norm": [("train", "gradient_norm")],
    }
    figure, axes = pyplot.subplots(2, 2, figsize=(13, 8), sharex=True, layout="constrained")
    for (title, numbers), panel in zip(panels.items(), axes.flat, strict=True):
        for colour, (name, lines) in enumerate(runs.items()):
            for style, number in enumerate(numbers):
                iterations, values = points(lines, *number)
                label = number[-1] if len(runs) == 1 else f"{name}: {number[-1]}"
                color = f"C{colour if len(runs) > 1 else style}"
                if values:
                    line = STYLES[style % len(STYLES)]
                    panel.plot(iterations, values, marker=".", color=color, linestyle=line, label=label)
        panel.set(title=title, xlabel="iteration", yscale="log" if title == "loss" else "linear")
        panel.grid(alpha=0.3)
        if panel.lines:
            panel.legend(fontsize="small", framealpha=0.4)
    kind = output.suffix.lstrip(".").lower()
    if kind not in figure.canvas.get_supported_filetypes():
        raise UserError(f"--output {output}: the name must end with .png, .pdf or .svg")
    with whole_file(output) as file:
        figure.savefig(file, format=kind, dpi=110)
    pyplot.close(figure)


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
