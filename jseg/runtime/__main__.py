"""`python -m jseg.runtime [--check] [--device D]`: what was found here, what is missing, the command that mends it."""

from __future__ import annotations

from jseg.runtime.command_line import ArgumentParser, add_device_options, run
from jseg.runtime.report import check, write_report


def main() -> int:
    """Prints the report and, with `--check`, runs Jittor."""
    parser = ArgumentParser(prog="python -m jseg.runtime", description="What jseg found on this machine.")
    parser.add_argument(
        "--check", action="store_true", help="also run Jittor; the first time this compiles it (minutes)"
    )
    add_device_options(parser)
    args = parser.parse_args()
    code = write_report()
    return check(args.device) if args.check and not code else code


if __name__ == "__main__":
    run(main)
