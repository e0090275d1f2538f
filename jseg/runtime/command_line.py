"""What every command-line tool shares: one-line errors, exit codes, the choice of device.

A tool imports this module before all others: then an interrupt ends it in one line also while it still imports.

Exit codes of all tools:

    0    fine
    1    a check that ran says no
    2    a mistake of the user's, in one line: UserError, or a file that cannot be read or written (OSError)
    3    a mistake of jseg's, in one line that names a file with the traceback; JSEG_DEBUG=1 prints it
    130  interrupted (Ctrl-C)
    141  the reader of the output went away, as in `| head`
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import NoReturn

from jseg.errors import UserError
from jseg.files import save_details


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
    """Runs a tool's `main` and exits: with its return value (None = 0), or as an error's kind demands."""
    _open_streams()
    code: object = 0
    try:
        code = main() or 0
        sys.stdout.flush()
    except SystemExit as error:  # argparse, after --help
        code = error.code
    except BaseException as error:
        code = exit_code(error)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # Python would try it again while it ends, and complain
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code)


def exit_code(error: BaseException) -> int:
    """Prints one line about an error and returns the exit code that belongs to its kind."""
    if isinstance(error, BrokenPipeError) and error.filename is None:
        return 141
    if os.environ.get("JSEG_DEBUG") == "1":
        traceback.print_exception(error)
    line, code = _describe(error)
    try:
        print(line, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        pass  # nobody reads it
    return code


def _describe(error: BaseException) -> tuple[str, int]:
    """(line to print, exit code)."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    from jseg.runtime.start import COMPILE_FAILURES, cache_error

    details = "".join(traceback.format_exception(error))
    if isinstance(error, RuntimeError) and any(words in str(error) for words in COMPILE_FAILURES):
        error = cache_error(details)
    cause: BaseException | None = error
    while cause and not isinstance(cause, OSError | UserError):
        cause = cause.__cause__
    if isinstance(cause, UserError):
        return f"error: {cause}", 2
    if isinstance(cause, OSError):
        where = f"{os.fsdecode(cause.filename)}: " if isinstance(cause.filename, str | bytes) else ""
        return f"error: {UserError(where + (cause.strerror or str(cause)))}", 2
    text = UserError(f"internal error: {type(error).__name__}: {error}")
    return f"{text}; details in {save_details(details)}", 3


def _open_streams() -> None:
    """Opens closed standard streams, and lets none fail for a character that its encoding lacks."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:  # else the next file that is opened would get its number, and what is printed
            setattr(
                sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8", errors="backslashreplace")
            )
        elif mode == "w" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _exit_quietly(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Handles what is raised before `run` begins, while a tool still imports."""
    if issubclass(kind, Exception):
        sys.__excepthook__(kind, error, trace)
    else:
        os._exit(exit_code(error))


if sys.argv[0] == "-m" or os.path.basename(os.path.dirname(os.path.abspath(sys.argv[0]))) == "tools":
    sys.excepthook = _exit_quietly
