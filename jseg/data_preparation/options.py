"""Command-line options that the three preparation tools share."""

from __future__ import annotations

import argparse
from pathlib import Path

from jseg.data_preparation.conversion import default_workers
from jseg.errors import UserError
from jseg.runtime.command_line import ArgumentParser


def preparation_parser(description: str, root: str) -> ArgumentParser:
    """A parser with the data folder (`root` says which), --workers, --force and --allow-partial."""
    parser = ArgumentParser(description=description)
    parser.add_argument("root", type=Path, help=root)
    parser.add_argument(
        "--workers", type=int, default=default_workers(), help="processes that convert; 0 = in this process"
    )
    parser.add_argument("--force", action="store_true", help="make label maps anew that are there")
    parser.add_argument("--allow-partial", action="store_true", help="only a part of the data set is meant")
    return parser


def parsed(parser: ArgumentParser, arguments: list[str] | None) -> argparse.Namespace:
    """Parses and checks what the tools share.

    Raises:
        UserError: unknown option, negative number of workers, no such folder.
    """
    options = parser.parse_args(arguments)
    if options.workers < 0:
        raise UserError(f"--workers {options.workers}: must be at least 0")
    if not options.root.is_dir():
        raise UserError(f"folder {options.root} does not exist")
    return options
