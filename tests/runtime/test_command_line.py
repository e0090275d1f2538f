"""Tests of what all command-line tools share."""

from __future__ import annotations

from jseg.runtime.command_line import ArgumentParser, add_device_options, run

import argparse

import pytest

from jseg.errors import UserError


def outcome(main: object, capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    """(exit code, stderr) of `run(main)`."""
    with pytest.raises(SystemExit) as exit_info:
        run(main)
    return exit_info.value.code, capsys.readouterr().err


def test_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(lambda: None, capsys) == (0, "")
    assert outcome(lambda: 0, capsys) == (0, "")
    assert outcome(lambda: 1, capsys) == (1, "")


def test_user_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise UserError("file x is\n   broken")

    assert outcome(main, capsys) == (2, "error: file x is broken\n")


def test_interrupt(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise KeyboardInterrupt

    assert outcome(main, capsys) == (130, "interrupted\n")


def test_our_own_mistakes_keep_their_traceback() -> None:
    def main() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(main)


def test_wrong_arguments_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        parser = ArgumentParser(prog="tool")
        add_device_options(parser)
        parser.parse_args(["--device", "tpu"])

    code, text = outcome(main, capsys)
    assert code == 2
    assert text.startswith("error: argument --device: invalid choice: 'tpu'")
    assert text.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "device"),
    [([], "auto"), (["--device", "cuda"], "cuda"), (["--no-cuda"], "cpu"), (["--no_cuda"], "cpu")],
)
def test_device_options(arguments: list[str], device: str) -> None:
    parser = argparse.ArgumentParser()
    add_device_options(parser)
    assert parser.parse_args(arguments).device == device
