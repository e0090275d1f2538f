"""Reproduces the rows of a suite: what is missing, what can be measured, published numbers beside ours.

    python tools/reproduce.py --suite shapes --seeds 3
    python tools/reproduce.py --suite paper --root D --checkpoints /path/to/checkpoints
    python tools/reproduce.py --suite paper --rows voc12_inductive,voc12_transductive --seeds 3 --train --root D --fetch

`--checkpoints` holds `<row>/seed_<n>/weights.safetensors` (that is where `--train` puts them) or a released file as
`<row>.pth` or `.pkl`. `--root` holds the folders VOC2012, coco_stuff164k, VOC2010 and ADEChallengeData2016; `--fetch`
downloads what is missing there, and CLIP. A plan of time and disk comes first, and again with the measured time of the
first 50 steps. What was measured or trained before is not done again. Suite `open-vocabulary` measures the weights of
its first row, `coco_stuff_supervised`, on ADE20K-150, PASCAL Context-59 and PAS-20, with published mIoU of other
methods. Suite `shapes` needs nothing from elsewhere: it trains its rows without being asked, first seed 0 of all of
them, then seed 1, and so on, and writes its tables after each. So do config files of your own, `--suite
own.py,own_transductive.py`. `--report page.html` writes one page with table, curves, IoU of each class, best and worst
images (needs matplotlib). Exit codes: 0 fine, 1 a tolerance was missed, 2 a row that was asked for could not be
measured, or none could.
"""

from jseg.runtime.command_line import ArgumentParser, add_device_options, run

import argparse
from dataclasses import replace
from pathlib import Path

from jseg.config import read_config
from jseg.drawing_curves import need_matplotlib
from jseg.errors import UserError, suggestion
from jseg.files import check_writable
from jseg.outputs import check_outputs
from jseg.reproduction import SUITES, Row, reproduce
from jseg.reproduction_report import write_report


def seeds_of(text: str) -> list[int]:
    """`3` -> 0, 1, 2; `0,2` or `2,` -> the seeds themselves; empty -> none."""
    try:
        if text.strip() and "," not in text and int(text) > 0:
            return list(range(int(text)))
        return sorted({int(seed) for seed in text.split(",") if seed.strip()})
    except ValueError as error:
        raise UserError(f"--seeds {text}: must be whole numbers, such as 3 or 0,1,2") from error


def rows_of(text: str) -> tuple[Row, ...]:
    """The rows of a suite, or of config files with commas between: a transductive one starts from the one before it."""
    if text in SUITES:
        return SUITES[text]
    rows: list[Row] = []
    for path in map(Path, text.split(",")):
        transductive = read_config(path).data.setting == "transductive"
        rows.append(Row(path.stem, str(path.resolve()), start=rows[-1].name if transductive and rows else ""))
    return tuple(rows)


def main(arguments: list[str] | None = None) -> int:
    """Runs the tool."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("--suite", default="paper", help=f"{', '.join(SUITES)}, or config files: own.py,other.py")
    parser.add_argument("--rows", default="", help="names, separated by commas (default: all)")
    parser.add_argument("--list", action="store_true", help="only name the rows of the suite")
    parser.add_argument("--fetch", action="store_true", help="also download data sets, CLIP and its vocabulary")
    parser.add_argument(
        "--data-root", "--root", type=Path, help="folder of the data sets (default: where the configs say)"
    )
    parser.add_argument("--checkpoints", type=Path, help="default: work_dirs/reproduce_<suite>")
    parser.add_argument("--results", type=Path, help="folder for tables (default: <checkpoints>/results)")
    parser.add_argument("--train", action=argparse.BooleanOptionalAction,
                        help="also train what has no weights yet (default: only in suite shapes)")  # fmt: skip
    parser.add_argument("--seeds", default="", help="of the training: how many, or the seeds, as in 0,1,2")
    parser.add_argument("--report", type=Path, help="also write one HTML page: table, curves, classes, images")
    parser.add_argument("--overwrite", action="store_true", help="replace files that jseg did not write")
    add_device_options(parser)
    args = parser.parse_args(arguments)
    suite = rows_of(args.suite)
    args.suite = args.suite if args.suite in SUITES else suite[0].name
    if args.list:
        print("\n".join(f"{row.name:<24} {row.config}" for row in suite))
        return 0
    known, names = [row.name for row in suite], [name for name in args.rows.split(",") if name]
    for name in set(names).difference(known):
        raise UserError(f"--rows: {name!r} is no row of suite {args.suite}{suggestion(name, known)}")
    rows = [row for row in suite if not names or row.name in names]
    for place, row in enumerate(rows):
        if args.data_root and (root := row.read().data.root):
            override = f"data.root={args.data_root.resolve() / Path(root).name}"
            rows[place] = replace(row, overrides=(*row.overrides, override))
    folder = args.checkpoints or Path("work_dirs") / f"reproduce_{args.suite}"
    results = check_writable(args.results or folder / "results")
    train = args.suite not in ("paper", "open-vocabulary") if args.train is None else args.train
    seeds = seeds_of(args.seeds)
    if seeds and (seeds[0] < 0 or not train):
        raise UserError("--seeds must be 0 or more, and goes with --train")
    written = [results / f"{args.suite}.{kind}" for kind in ("md", "csv", "tex", "json")]
    check_outputs([*written, *results.glob("*/*/*.json")], (), results, args.overwrite)
    if args.report:
        check_outputs([args.report], overwrite=args.overwrite)
        check_writable(args.report.absolute().parent)
        need_matplotlib()
    table, lacking = reproduce(args.suite, rows, folder, results, args.device, train, seeds, args.fetch)
    if args.report:
        write_report(args.report, args.suite, rows, table, lacking, folder, results)
        print(f"report: {args.report}")
    if any(item["passed"] is False for result in table for item in result["comparisons"]):
        return 1
    if lacking and (args.rows or train or not any(result["sources"] for result in table)):
        names = ", ".join(lacking)
        raise UserError(f"{len(lacking)} of {len(rows)} rows could not be measured as asked ({names}): see above")
    return 0


if __name__ == "__main__":
    run(main)
