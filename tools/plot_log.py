"""Draws the logs of one or several runs in one figure: losses, learning rate, gradient norm, metrics.

    python tools/plot_log.py work_dirs/first work_dirs/second --output curves.png

Needs matplotlib: pip install "jseg[plot]".
"""

from __future__ import annotations

from jseg.runtime.command_line import ArgumentParser, run

import importlib.util
from pathlib import Path
from typing import Any

from jseg.engine.log import LOG_NAME, read_log
from jseg.errors import UserError
from jseg.files import whole_file

METRICS = ("mIoU(S)", "mIoU(U)", "hIoU")
LINES = ("-", "--", ":", "-.", (0, (1, 3)))  # within a panel: one for each quantity; colours tell runs apart


def points(lines: list[dict[str, Any]], event: str, *keys: str) -> tuple[list[int], list[float]]:
    """Iterations and values of a number; lines where it is missing or undefined are left out."""
    iterations, values = [], []
    for line in lines:
        value: Any = line if line.get("event") == event else None
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            iterations.append(line["iteration"])
            values.append(value)
    return iterations, values


def draw(runs: dict[str, list[dict[str, Any]]], output: Path) -> None:
    """Draws four panels over the iterations, with a colour for each run and a kind of line for each quantity."""
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
        for number, (name, lines) in enumerate(runs.items()):
            for place, quantity in enumerate(quantities):
                iterations, values = points(lines, *quantity)
                label = quantity[-1] + (f", {name}" if len(runs) > 1 else "")
                colour = f"C{number if len(runs) > 1 else place}"
                marker = "." if len(values) < 50 else None
                style = LINES[place % len(LINES)]
                panel.plot(iterations, values, color=colour, linestyle=style, marker=marker, label=label)
        panel.set(title=title, yscale="log" if title == "loss" else "linear", xlabel="iteration")
        panel.grid(alpha=0.3)
        panel.legend(fontsize="small", framealpha=0.4)
    kind = output.suffix.lstrip(".").lower()
    if kind not in figure.canvas.get_supported_filetypes():
        raise UserError(f"--output {output}: the name must end with .png, .pdf or .svg")
    with whole_file(output) as file:
        figure.savefig(file, format=kind, dpi=110)
    pyplot.close(figure)


def main(arguments: list[str] | None = None) -> int:
    """Draws; see the module docstring."""
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, help="work folders, or log.jsonl files")
    parser.add_argument("--output", type=Path, default=Path("curves.png"), help=".png, .pdf or .svg (curves.png)")
    options = parser.parse_args(arguments)
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError('drawing needs matplotlib: pip install "jseg[plot]"')
    runs = {}
    for path in options.runs:
        runs[str(path)] = lines = read_log(path / LOG_NAME if path.is_dir() else path)
        if not any(line.get("event") in ("train", "evaluation") for line in lines):
            raise UserError(f"{path} holds no log of a training run: pass the work folder of one")
    draw(runs, options.output)
    print(f"{len(runs)} run{'s' if len(runs) > 1 else ''}: {options.output}")
    return 0


if __name__ == "__main__":
    run(main)
