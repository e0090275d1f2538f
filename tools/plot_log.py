"""Draws the logs of one or several runs in one figure: losses, learning rate, gradient norm, metrics.

    python tools/plot_log.py work_dirs/first work_dirs/second --output curves.png

Needs matplotlib: pip install matplotlib.
"""

from __future__ import annotations

from jseg.runtime.command_line import ArgumentParser, run

import importlib.util
from pathlib import Path
from typing import Any

from jseg.config import flatten
from jseg.engine.log import LOG_NAME, read_log
from jseg.errors import UserError
from jseg.files import whole_files
from jseg.outputs import check_outputs

METRICS = ("mIoU(S)", "mIoU(U)", "hIoU")
STYLES = ("-", "--", ":", "-.", (0, (1, 3)))


def read_runs(paths: list[Path]) -> dict[str, list[dict[str, Any]]]:
    """Lines of each log by the path of its run."""
    runs = {str(path): read_log(path / LOG_NAME if path.is_dir() else path) for path in paths}
    for name, lines in runs.items():
        if not any(line.get("event") in ("train", "evaluation") for line in lines):
            raise UserError(f"{name} holds no log of a training run: pass the work folder of one")
    return runs


def points(lines: list[dict[str, Any]], event: str, *keys: str) -> list[tuple[int, float]]:
    """(iteration, value) of a number; lines where it is missing or undefined are left out."""
    found = [(line["iteration"], flatten(line).get(".".join(keys))) for line in lines if line.get("event") == event]
    return [(iteration, value) for iteration, value in found if value is not None]


def draw(runs: dict[str, list[dict[str, Any]]], output: Path) -> None:
    """Draws four panels over the iterations: a colour for each run, a line style for each number."""
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
                if found := points(lines, *number):
                    label = number[-1] if len(runs) == 1 else f"{name}: {number[-1]}"
                    color, line = f"C{colour if len(runs) > 1 else style}", STYLES[style % len(STYLES)]
                    panel.plot(*zip(*found, strict=True), marker=".", color=color, linestyle=line, label=label)
        panel.set(title=title, xlabel="iteration", yscale="log" if title == "loss" else "linear")
        panel.grid(alpha=0.3)
        if panel.lines:
            panel.legend(fontsize="small", framealpha=0.4)
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
    print(f"{len(runs)} run{'s' if len(runs) > 1 else ''}: {options.output}")
    return 0


if __name__ == "__main__":
    run(main)
