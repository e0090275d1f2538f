"""The exception for mistakes that a user can fix, suggestions how, and lists in its messages."""

import difflib
from collections.abc import Iterable, Sequence

LONGEST = 2000  # characters of an error message; a wrong value that it quotes may be of any length


class UserError(Exception):
    """Bad input, bad configuration or a missing file.

    The error message is one line of printable characters: what is wrong, where, and the command or key that fixes it.
    Command-line tools print it without a traceback and exit with code 2; library callers may catch it. Any other
    exception is a bug of jseg.
    """

    def __init__(self, message: str) -> None:
        text = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in " ".join(message.split()))
        super().__init__(text if len(text) <= LONGEST else f"{text[: LONGEST - 500]} … {text[-500:]}")


class CheckFailed(UserError):
    """A check ran and failed: exit code 1."""


class CannotWrite(UserError):
    """A file could not be written: the disk is full, or the folder is read-only. A long run may go on without it."""


def suggestion(word: object, choices: Iterable[str]) -> str:
    """`: did you mean 'x'?`, or the list of choices when nothing is close."""
    choices = [choice for choice in choices if choice]
    close = difflib.get_close_matches(str(word), choices, n=1)
    return f": did you mean {close[0]!r}?" if close else f": choose from {', '.join(choices)}"


def listed(values: Sequence, most: int = 8) -> str:
    """The first `most` values with commas between, and how many more there are."""
    more = f" and {len(values) - most} more" if len(values) > most else ""
    return ", ".join(map(str, values[:most])) + more
