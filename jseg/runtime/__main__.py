"""`python -m jseg.runtime [--check]`: what was found here, and the commands that install what is missing."""

from __future__ import annotations

from jseg.runtime.command_line import ArgumentParser, add_device_options, run

from pathlib import Path

from jseg.runtime.report import write_report


def main() -> int:
    """Prints the report and, with `--check`, computes."""
    parser = ArgumentParser(prog="python -m jseg.runtime", description="What jseg found on this machine.")
    parser.add_argument("--check", action="store_true", help="also compute (compiles Jittor the first time: minutes)")
    parser.add_argument("--golden", type=Path, metavar="DIR", help="golden set (default: that of the checkout)")
    add_device_options(parser)
    args = parser.parse_args()
    code = write_report()
    if not args.check or code:
        return code
    from jseg.parity.self_check import check

    return check(args.device, args.golden)


if __name__ == "__main__":
    run(main)
