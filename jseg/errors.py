"""The one exception type for mistakes that a user can mend."""

from __future__ import annotations

LONGEST = 2000  # signs of a message; a wrong value that it quotes may be of any length


class UserError(Exception):
    """Bad input, bad configuration or a missing file.

    The message is one line of printable signs: what is wrong, where, and the command or key that mends it. Command-line
    tools print it without a traceback and exit with code 2; library callers may catch it. Any other exception is a bug
    of ours.
    """

    def __init__(self, message: str) -> None:
        text = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in " ".join(message.split()))
        super().__init__(text if len(text) <= LONGEST else f"{text[: LONGEST - 500]} … {text[-500:]}")


class CannotWrite(UserError):
    """A file could not be written: the disk is full, or the folder is read-only. A long run may go on without it."""
