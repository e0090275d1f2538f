"""Reproduces the rows of a suite: what is missing, what can be measured, published numbers beside ours.

    python tools/reproduce.py --suite paper --data-root /path/to/data --checkpoints /path/to/checkpoints
    python tools/reproduce.py --suite paper --rows voc12_inductive,voc12_transductive --seeds 0,1,2 --train \\
        --data-root /path/to/data --checkpoints /path/to/checkpoints

`--checkpoints` holds `<row>/seed_<n>/weights.safetensors` (that is where `--train` puts them) or a released file as
`<row>.pth` or `.pkl`. `--data-root` holds the folders VOC2012, coco_stuff164k and VOC2010. What was measured or trained
before is not done again. Exit codes: 0 fine, 1 a tolerance was missed, 2 a row that was asked for could not be
measured, or none could.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from jseg.errors import UserError
from jseg.reproduction import report, runs
from jseg.reproduction.needs import (
    Missing,
    Places,
    missing_for_evaluation,
    missing_for_training,
    run_folder,
    weights_found,
)
from jseg.reproduction.report import RowResult
from jseg.reproduction.suites import SUITES, Row, Suite
from jseg.runtime.command_line import ArgumentParser, add_device_options, run
from jseg.whole_file import check_writable


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line -> options."""
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--suite", choices=SUITES, default="paper", help="default: paper")
    parser.add_argument("--rows", default="", help="names, separated by commas (default: all)")
    parser.add_argument("--list", action="store_true", help="only name the rows of the suite")
    parser.add_argument("--data-root", type=Path, help="folder of the data sets (default: where the configs say)")
    parser.add_argument("--checkpoints", type=Path, help="default: work_dirs/reproduce_<suite>")
    parser.add_argument("--results", type=Path, help="folder for tables (default: <checkpoints>/results)")
    parser.add_argument("--train", action="store_true", help="also train what has no weights yet: the whole recipe")
    parser.add_argument("--seeds", default="", help="seeds for --train, separated by commas (default: the row's)")
    add_device_options(parser)
    options = parser.parse_args(arguments)
    options.checkpoints = options.checkpoints or Path("work_dirs") / f"reproduce_{options.suite}"
    options.results = options.results or options.checkpoints / "results"
    options.rows = [name.strip() for name in options.rows.split(",") if name.strip()]
    try:
        options.seeds = sorted({int(seed) for seed in options.seeds.split(",") if seed.strip()})
    except ValueError as error:
        raise UserError(f"--seeds {options.seeds}: must be whole numbers, such as 0,1,2") from error
    if options.seeds and (options.seeds[0] < 0 or not options.train):
        raise UserError("--seeds must be 0 or more, and goes with --train")
    return options


def train_row(row: Row, options: argparse.Namespace, suite: Suite, places: Places) -> list[Missing]:
    """Trains what the row lacks; returns what the training lacks."""
    lacking: list[Missing] = []
    if row.weights_of:
        return lacking
    for seed in options.seeds or row.seeds:
        if (run_folder(row, seed, places) / runs.WEIGHTS_NAME).is_file():
            continue
        if found := missing_for_training(row, seed, suite, places):
            lacking += found
        elif not runs.train(row, seed, suite, places, options.device):
            lacking.append(Missing(f"training of {row.name}, seed {seed}: it failed, see above", "the same again"))
    return lacking


def reproduce_row(
    row: Row, options: argparse.Namespace, suite: Suite, places: Places
) -> tuple[list[RowResult], list[Missing]]:
    """Trains, where asked to, and measures a row; its results and what it lacks."""
    missing = train_row(row, options, suite, places) if options.train else []
    lacking = missing_for_evaluation(row, suite, places)
    if lacking:
        return [], missing or lacking
    measured = []
    for weights in weights_found(row, places):
        measurement = runs.measure(row, weights, places, options.results, options.device)
        if measurement is None:
            missing.append(Missing(f"metrics of {weights.path}: the evaluation failed, see above", "the same again"))
        else:
            measured.append(measurement)
    return report.row_results(row, measured), missing


def main(arguments: list[str] | None = None) -> int:
    """Runs the tool."""
    options = parse_arguments(arguments)
    suite = SUITES[options.suite]
    if options.list:
        print("\n".join(f"{row.name:<24} {row.config_path.name}" for row in suite.rows))
        return 0
    rows, places = suite.chosen(options.rows), Places(options.data_root, options.checkpoints)
    check_writable(options.results)
    results, missing = [], {}
    for row in rows:
        found, lacking = reproduce_row(row, options, suite, places)
        results += found
        if lacking:
            missing[row.name] = lacking
    print("\n".join([*report.missing_lines(missing), *([report.markdown(results)] if results else [])]))
    for path in report.write(results, missing, suite.name, options.results):
        print(f"written: {path}")
    if any(item.passed is False for result in results for item in result.comparisons):
        return 1
    if missing and (options.rows or not results):
        raise UserError(
            f"{len(missing)} of {len(rows)} rows could not be measured as asked ({', '.join(missing)}): see above for "
            "what is missing and the command that gets it"
        )
    return 0


if __name__ == "__main__":
    run(main)
