"""What every command-line tool shares: one-line user errors, exit codes, the choice of device.

Exit codes: 0 fine; 1 a check that ran says no; 2 a user's mistake, told in one line; 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from jseg.errors import UserError


class ArgumentParser(argparse.ArgumentParser):
    """An argument parser whose mistakes are user errors: one line without the usage text."""

    def error(self, message: str) -> NoReturn:
        """Raises UserError where argparse would print its usage and exit."""
        raise UserError(f"{message} (see {self.prog} --help)")


def add_device_options(parser: argparse.ArgumentParser) -> None:
    """Adds `--device {auto,cpu,cuda}` and `--no-cuda`, which is `--device cpu`; read `args.device`."""
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute (default: CUDA if it works)"
    )
    parser.add_argument(
        "--no-cuda", "--no_cuda", dest="device", action="store_const", const="cpu", help="the same as --device cpu"
    )


def run(main: Callable[[], int | None]) -> NoReturn:
    """Runs a tool's `main` and exits: with its return value (None = 0), 2 on UserError, 130 on Ctrl-C."""
    try:
        code = main() or 0
    except (UserError, KeyboardInterrupt) as error:
        code = exit_code(error)
    sys.exit(code)


def exit_code(error: BaseException) -> int:
    """Tells an error as its kind is told, and returns the exit code that goes with it."""
    if isinstance(error, UserError):
        print(f"error: {error}", file=sys.stderr)
        return 2
    if isinstance(error, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return 130
    traceback.print_exception(error)
    return 1
