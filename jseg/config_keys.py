"""Keys of configuration sections, which are dataclasses: type, choices and limits stand at the key, checked here."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import math
import operator
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jseg.errors import UserError

WORDS_AS_PATHS = ("random", "generated")
LIMITS = {  # of `key`: comparison and words
    "least": (operator.ge, "at least"),
    "above": (operator.gt, "above"),
    "most": (operator.le, "at most"),
    "below": (operator.lt, "below"),
}


def key(default: Any = "", path: bool = False, choices: Iterable[str] = (), **limits: float) -> Any:
    """A field of a section.

    Args:
        path: whether it holds a path, which is made absolute when it is read.
        choices: the only values that are allowed.
        limits: least, above, most, below; NaN and infinities are never allowed.
    """
    return dataclasses.field(default=default, metadata={"path": path, "choices": tuple(choices), "limits": limits})


def suggestion(word: object, choices: Iterable[str]) -> str:
    """`: did you mean 'x'?`, or the list of choices when nothing is close."""
    choices = [choice for choice in choices if choice]
    close = difflib.get_close_matches(str(word), choices, n=1)
    return f": did you mean {close[0]!r}?" if close else f": choose from {', '.join(choices)}"


def _convert(value: Any, hint: Any, where: str) -> Any:
    """`value` as type `hint`; UserError with the key `where` when it is of another type."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    name = str(hint).replace("typing.", "") if args else hint.__name__
    wrong = UserError(f"{where}={value!r}: expected {name}, got {type(value).__name__}")
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _convert(value, args[0], where)
    if origin is tuple:
        many = args[-1] is Ellipsis
        if not isinstance(value, (list, tuple)) or (not many and len(value) != len(args)):
            raise wrong
        hints = [args[0]] * len(value) if many else args
        return tuple(_convert(item, arg, where) for item, arg in zip(value, hints, strict=True))
    if hint is float and type(value) is int and abs(value) < 1e300:
        return float(value)
    if (isinstance(value, bool) and hint is not bool) or not isinstance(value, hint):
        raise wrong
    return value


def set_key(section: Any, name: str, value: Any, where: str, folder: Path) -> None:
    """Sets one key of a section, which must exist, as its type; a dictionary sets the keys of a nested section.

    Args:
        where: the key with its sections, for error messages.
        folder: what relative paths are relative to.

    Raises:
        UserError: unknown key (with the nearest known one) or a value of another type.
    """
    fields = {item.name: item for item in dataclasses.fields(section)}
    if name not in fields:
        raise UserError(f"unknown key {where!r}{suggestion(name, fields)}")
    current = getattr(section, name)
    if dataclasses.is_dataclass(current):
        if not isinstance(value, dict):
            keys = ", ".join(item.name for item in dataclasses.fields(current))
            raise UserError(f"{where}: expected a dictionary of {keys}")
        for part, item in value.items():
            set_key(current, part, item, f"{where}.{part}", folder)
        return
    value = _convert(value, typing.get_type_hints(type(section))[name], where)
    if fields[name].metadata.get("path") and value and value not in WORDS_AS_PATHS:
        try:
            value = str((folder / Path(value).expanduser()).resolve())
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(f"{where}={value!r} is no path: {error}") from error
    setattr(section, name, value)


def parse_override(text: str) -> tuple[str, Any]:
    """`"train.seed=3"` -> `("train.seed", 3)`; values are Python literals, anything else is a string."""
    dotted, equals, value = text.partition("=")
    if not equals or not dotted:
        raise UserError(f"override {text!r}: expected section.key=value")
    try:
        return dotted.strip(), ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return dotted.strip(), value


def check_values(section: Any, prefix: str = "") -> None:
    """Raises UserError unless every value of a section keeps to the choices and limits of its key."""
    for item in dataclasses.fields(section):
        where, value = prefix + item.name, getattr(section, item.name)
        if dataclasses.is_dataclass(value):
            check_values(value, f"{where}.")
            continue
        choices, limits = item.metadata.get("choices"), item.metadata.get("limits", {})
        if choices and value not in choices:
            raise UserError(f"{where}={value!r}{suggestion(value, choices)}")
        for number in value if isinstance(value, tuple) else (value,):
            if not isinstance(number, (int, float)):
                continue
            finite = isinstance(number, int) or math.isfinite(number)
            if not finite or not all(LIMITS[limit][0](number, bound) for limit, bound in limits.items()):
                rule = " and ".join(f"{LIMITS[limit][1]} {bound}" for limit, bound in limits.items())
                raise UserError(f"{where}={value}: must be {rule or 'a finite number'}")
