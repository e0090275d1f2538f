"""Compares this installation with recorded outputs of the released models.

    python tools/check_parity.py --golden tests/golden

Checks every file of the set (DIR/torch_release, or DIR itself); sizes, splits and tolerances (tolerances.json) come
from the set. One line per file: the worst array and its error over its tolerance, which is at most 1 in a pass. On CUDA
ten times the tolerances are allowed, because Jittor compiles its kernels with fast math. Exit code 1 if anything is
over its tolerance.
"""

from jseg.runtime.command_line import ArgumentParser, add_device_options, run

from pathlib import Path


def main() -> int:
    """Runs the checks; returns the exit code."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("--golden", required=True, type=Path, metavar="DIR", help="folder with recorded outputs")
    parser.add_argument("--only", default="", metavar="BEGINNING", help="only files whose name begins so")
    add_device_options(parser)
    args = parser.parse_args()

    from jseg.runtime.start import start

    device = start(args.device)
    from jseg.parity.report import check_set

    reports = []
    for report in check_set(args.golden, device, only=args.only):
        reports.append(report)
        print(report.line(), flush=True)
    passed, failed = sum(report.passed for report in reports), sum(report.failed for report in reports)
    compared = sum(len(report.excess) for report in reports)
    unchecked = sum(len(report.unchecked) for report in reports)
    print(
        f"{device}: {passed} files within tolerance, {failed} over, {len(reports) - passed - failed} not run; "
        f"{compared} arrays compared, {unchecked} not checked"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    run(main)
