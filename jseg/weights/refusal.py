"""The reason why a weight file is refused, before the file's path is added to it."""

from __future__ import annotations


class FileRefused(Exception):
    """What is wrong inside a weight file; `read_weight_file` turns it into a UserError that names the file."""


def quoted(name: object) -> str:
    """A name out of an untrusted file, safe to print: control characters escaped, at most 80 characters."""
    text = name if isinstance(name, str) else str(type(name))
    return ascii(text) if len(text) <= 80 else ascii(text[:77] + "...")


def listed(names: list[str], limit: int = 8) -> str:
    """The first names of a list in one line, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(quoted(name)[1:-1] for name in names[:limit]) + more
