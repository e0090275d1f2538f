r"""Reproduces the rows of a suite: what is missing, what can be measured, published numbers beside ours.

    python tools/reproduce.py --suite shapes --seeds 3
    python tools/reproduce.py --suite paper --data-root /path/to/data --checkpoints /path/to/checkpoints
    python tools/reproduce.py --suite paper --rows voc12_inductive,voc12_transductive --seeds 0,1,2 --train \
        --data-root /path/to/data --checkpoints /path/to/checkpoints

`--checkpoints` holds `<row>/seed_<n>/weights.safetensors` (that is where `--train` puts them) or a released file as
`<row>.pth` or `.pkl`. `--data-root` holds the folders VOC2012, coco_stuff164k and VOC2010. What was measured or trained
before is not done again. Suite `shapes` needs nothing from elsewhere: it trains its rows without being asked, first
seed 0 of all of them, then seed 1, and so on, and writes its tables after each. Exit codes: 0 fine, 1 a tolerance was
missed, 2 a row that was asked for could not be measured, or none could.
"""

from __future__ import annotations

from jseg.runtime.command_line import ArgumentParser, add_device_options, run

import argparse
from collections.abc import Sequence
from pathlib import Path

from jseg import reproduction
from jseg.errors import UserError
from jseg.files import check_writable
from jseg.reproduction import SUITES, Missing, Places, Row, RowResult, Suite


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line -> options."""
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--suite", choices=SUITES, default="paper", help="default: paper")
    parser.add_argument("--rows", default="", help="names, separated by commas (default: all)")
    parser.add_argument("--list", action="store_true", help="only name the rows of the suite")
    parser.add_argument("--data-root", type=Path, help="folder of the data sets (default: where the configs say)")
    parser.add_argument("--checkpoints", type=Path, help="default: work_dirs/reproduce_<suite>")
    parser.add_argument("--results", type=Path, help="folder for tables (default: <checkpoints>/results)")
    parser.add_argument(
        "--train", action=argparse.BooleanOptionalAction,
        help="also train what has no weights yet: the whole recipe (default: only the rows of suite shapes)",
    )  # fmt: skip
    parser.add_argument(
        "--seeds", default="",
        help="seeds for training: how many, or the seeds themselves separated by commas (default: the row's)",
    )  # fmt: skip
    add_device_options(parser)
    options = parser.parse_args(arguments)
    options.checkpoints = options.checkpoints or Path("work_dirs") / f"reproduce_{options.suite}"
    options.results = options.results or options.checkpoints / "results"
    options.rows = [name.strip() for name in options.rows.split(",") if name.strip()]
    if options.train is None:
        options.train = not SUITES[options.suite].published
    options.seeds = seeds_of(options.seeds)
    if options.seeds and (options.seeds[0] < 0 or not options.train):
        raise UserError("--seeds must be 0 or more, and goes with --train")
    return options


def seeds_of(text: str) -> list[int]:
    """`3` -> 0, 1, 2; `0,2` or `2,` -> the seeds themselves; empty -> none.

    Raises:
        UserError: anything else.
    """
    try:
        if text.strip() and "," not in text and int(text) > 0:
            return list(range(int(text)))
        return sorted({int(seed) for seed in text.split(",") if seed.strip()})
    except ValueError as error:
        raise UserError(f"--seeds {text}: must be whole numbers, such as 3 or 0,1,2") from error


def train_seed(row: Row, seed: int, suite: Suite, places: Places, device: str) -> list[Missing]:
    """Trains a seed of a row unless its weights are there; returns what the training lacks."""
    reproduction.check_recipe(row, seed, places)
    if (places.run_folder(row, seed) / reproduction.WEIGHTS_NAME).is_file():
        return []
    if missing := reproduction.missing_for_training(row, seed, suite, places):
        return missing
    if reproduction.train(row, seed, suite, places, device):
        return []
    return [Missing(f"training of {row.name}, seed {seed}: it failed or was stopped, see above", "the same again")]


def measure_row(
    row: Row, suite: Suite, places: Places, results: Path, device: str
) -> tuple[list[RowResult], list[Missing]]:
    """Measures all weights of a row; its results and what it lacks."""
    if missing := reproduction.missing_for_evaluation(row, suite, places):
        return [], missing
    measured = {}
    for source, weights in reproduction.weights_found(row, places).items():
        metrics = reproduction.measure(row, source, weights, places, results, device)
        if metrics is None:
            missing.append(Missing(f"metrics of {weights}: the evaluation failed, see above", "the same again"))
        else:
            measured[source] = metrics
    return reproduction.row_results(row, measured), missing


def measure_rows(
    rows: Sequence[Row], options: argparse.Namespace, suite: Suite, places: Places, untrained: dict[str, list[Missing]]
) -> tuple[list[RowResult], dict[str, list[Missing]]]:
    """Measures rows, prints and writes the tables; results, and by row what is missing (`untrained`: for training)."""
    results, missing = [], {}
    for row in rows:
        found, lacking = measure_row(row, suite, places, options.results, options.device)
        results += found
        if of_row := untrained[row.name] + (lacking if found or not untrained[row.name] else []):
            missing[row.name] = of_row
    print("\n".join(reproduction.missing_lines(missing) + ([reproduction.markdown(results)] if results else [])))
    for path in reproduction.write(results, missing, suite, options.results):
        print(f"written: {path}", flush=True)
    return results, missing


def main(arguments: list[str] | None = None) -> int:
    """Runs the tool."""
    options = parse_arguments(arguments)
    suite = SUITES[options.suite]
    if options.list:
        print("\n".join(f"{row.name:<24} {row.config_path.name}" for row in suite.rows))
        return 0
    rows, places = suite.chosen(options.rows), Places(options.data_root, options.checkpoints)
    check_writable(options.results)
    untrained: dict[str, list[Missing]] = {row.name: [] for row in rows}
    seeds = {row.name: options.seeds or row.seeds if options.train and row.trains else () for row in rows}
    rounds = sorted({seed for of_row in seeds.values() for seed in of_row}) or [0]
    for seed in rounds:  # one seed of all rows, then the next: rows stay comparable after an early end
        for row in rows:
            if seed in seeds[row.name]:
                untrained[row.name] += train_seed(row, seed, suite, places, options.device)
        if not suite.published or seed == rounds[-1]:
            results, missing = measure_rows(rows, options, suite, places, untrained)
    if any(item.passed is False for result in results for item in result.comparisons):
        return 1
    if missing and (options.rows or options.train or not results):
        raise UserError(
            f"{len(missing)} of {len(rows)} rows could not be measured as asked ({', '.join(missing)}): see above for "
            "what is missing and the command that gets it"
        )
    return 0


if __name__ == "__main__":
    run(main)
