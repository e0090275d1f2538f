"""The one exception type for mistakes that a user can mend."""

from __future__ import annotations


class UserError(Exception):
    """Bad input, bad configuration or a missing file.

    The message is one line: what is wrong, where, and the command or key that mends it. Command-line tools print it
    without a traceback and exit with code 2; library callers may catch it. Any other exception is a bug of ours.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class CannotWrite(UserError):
    """A file could not be written: the disk is full, or the folder is read-only. A long run may go on without it."""
