"""Draws the logs of one or several runs in one figure: total loss, gradient norm, lr, metrics, parts of the loss.

    python tools/plot_log.py work_dirs/first work_dirs/second --output curves.png

The faint lines are what was logged, the strong ones means over a tenth of the run. There are metrics if the run was
evaluated on the way (`train.eval_every`); the legend has the last ones. Needs matplotlib: pip install matplotlib.
"""

from __future__ import annotations

from jseg.runtime.command_line import ArgumentParser, run

from pathlib import Path
from typing import Any

from jseg.drawing_curves import EVENTS, draw, need_matplotlib
from jseg.engine.log import LOG_NAME, read_log
from jseg.errors import UserError
from jseg.files import whole_files
from jseg.outputs import check_outputs


def read_runs(paths: list[Path]) -> dict[str, list[dict[str, Any]]]:
    """Lines of training and evaluation in each log by the path of its run."""
    runs = {str(path): read_log(path / LOG_NAME if path.is_dir() else path) for path in paths}
    runs = {name: [x for x in lines if x.get("event") in EVENTS] for name, lines in runs.items()}
    for name in (name for name, lines in runs.items() if not lines):
        raise UserError(f"{name} holds no log of a training run: pass the work folder of one")
    return runs


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
    need_matplotlib()
    runs = read_runs(options.runs)
    with whole_files(options.output) as (file,):
        legend = draw(runs, file, options.output.suffix[1:])
    print(*legend, f"curves: {options.output}", sep="\n")
    return 0


if __name__ == "__main__":
    run(main)
