"""`python -m jseg.runtime [--check]`: what was found here, and the commands that install what is missing."""

from jseg.runtime.command_line import ArgumentParser, add_device_options, run

from pathlib import Path

from jseg.runtime.prepare import findings, prepare


def main() -> int:
    """Prints the report and, with `--check`, computes."""
    parser = ArgumentParser("What jseg found on this machine.", prog="python -m jseg.runtime")
    parser.add_argument("--check", action="store_true", help="also compute (compiles Jittor the first time: minutes)")
    parser.add_argument("--golden", type=Path, metavar="DIR", help="golden set (default: that of the checkout)")
    add_device_options(parser)
    args = parser.parse_args()
    lines = findings(prepare())
    print("\n".join(f"{line.name + ':':16}{line.found or 'no'}" for line in lines))
    missing = [line for line in lines if line.remedy and not line.found]
    for line in missing:
        print(f"{'missing' if line.needed else 'optional'}: {line.name}: {line.remedy}")
    if not args.check or any(line.needed for line in missing):
        return int(any(line.needed for line in missing))
    from jseg.parity.self_check import check

    return check(args.device, args.golden)


if __name__ == "__main__":
    run(main)
