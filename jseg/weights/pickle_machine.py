"""Reads pickles from strangers: a small machine that builds plain values and calls nothing but what it is handed.

Python's own unpickler runs whatever a file names (https://docs.python.org/3/library/pickle.html warns of it), and even
with `find_class` overridden it allocates what the file asks for. This one decodes with the standard library's
`pickletools.genops`, knows the few opcodes that weight files use, and looks every global up in a table.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO

from jseg.weights.refusal import FileRefused, quoted

MAX_OPCODES = 1_000_000  # a checkpoint of 450 tensors with optimiser takes about 60,000
MAX_KEY = 2**53  # whole numbers that serve as dictionary keys; larger ones can be made to collide

CONSTANTS = {
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
}
VALUES = frozenset(
    ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
    + ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BINSTRING", "SHORT_BINSTRING")
)
TUPLE_SIZES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Constructor:
    """What stands in a pickle for a function or class that the table knows; only `REDUCE` calls it."""

    def __init__(self, build: Callable[..., Any]) -> None:
        self.build = build


class Buildable:
    """Base of the objects that a pickle may change after making them (opcode BUILD)."""

    def set_state(self, state: Any) -> None:
        """Takes the state that the pickle stores for the object.

        Raises:
            FileRefused: a state of another form.
        """
        raise NotImplementedError


class ScriptObject(Buildable):
    """A module of a TorchScript archive: nothing but its attributes."""

    def __init__(self) -> None:
        self.attributes: dict[str, Any] = {}

    def set_state(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise FileRefused("a TorchScript module whose state is no dictionary")
        self.attributes.update(state)


class PickleMachine:
    """One pickle being read.

    Args:
        table: (module, name) -> what the pickle gets when it asks for that global: a Constructor or a marker value.
        persistent: builds the object of a persistent id (PyTorch's storages); None = such ids are refused.
        script_classes: whether classes below `__torch__` become ScriptObject (TorchScript archives).
    """

    def __init__(
        self,
        table: dict[tuple[str, str], Any],
        persistent: Callable[[Any], Any] | None = None,
        script_classes: bool = False,
    ) -> None:
        self.table = table
        self.persistent = persistent
        self.script_classes = script_classes
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def load(self, stream: BinaryIO) -> Any:
        """Reads one pickle; the stream is left after its end.

        Raises:
            FileRefused: truncated or damaged pickle, an opcode or a global that weight files do not use.
        """
        try:
            for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
                if count >= MAX_OPCODES:
                    raise FileRefused(f"its pickle has more than {MAX_OPCODES} instructions")
                if opcode.name == "STOP":
                    return self.stack.pop()
                self._step(opcode.name, argument)
        except (ValueError, IndexError, KeyError, TypeError, OverflowError, AttributeError) as error:
            raise FileRefused(f"its pickle is truncated or damaged ({_short(error)})") from error
        raise FileRefused("its pickle is truncated")

    def _step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in VALUES:
            stack.append(argument)
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in TUPLE_SIZES:
            stack.append(tuple(self._pop(TUPLE_SIZES[name])))
        elif name == "TUPLE":
            stack.append(tuple(self._pop_mark()))
        elif name in ("EMPTY_LIST", "LIST"):
            stack.append([] if name == "EMPTY_LIST" else self._pop_mark())
        elif name in ("EMPTY_DICT", "DICT"):
            values = [] if name == "EMPTY_DICT" else self._pop_mark()
            stack.append({})
            self._set_items(values)
        elif name in ("APPEND", "APPENDS"):
            self._extend(self._pop(1) if name == "APPEND" else self._pop_mark())
        elif name in ("SETITEM", "SETITEMS"):
            self._set_items(self._pop(2) if name == "SETITEM" else self._pop_mark())
        elif name not in ("PROTO", "FRAME"):
            self._make(name, argument)

    def _make(self, name: str, argument: Any) -> None:
        """The opcodes that look globals up and make objects."""
        stack = self.stack
        if name == "GLOBAL":
            module, _, attribute = argument.partition(" ")
            stack.append(self._global(module, attribute))
        elif name == "STACK_GLOBAL":
            stack.append(self._global(*self._pop(2)))
        elif name in ("REDUCE", "NEWOBJ"):
            constructor, arguments = self._pop(2)
            if not isinstance(constructor, Constructor) or not isinstance(arguments, tuple):
                raise FileRefused("its pickle calls something that is no known constructor")
            stack.append(constructor.build(*arguments))
        elif name == "BUILD":
            (state,) = self._pop(1)
            if isinstance(stack[-1], Buildable):
                stack[-1].set_state(state)
            elif not isinstance(stack[-1], dict):  # a dictionary's attributes (`_metadata`) carry no weights
                raise FileRefused("its pickle changes an object that has no state")
        elif name == "BINPERSID" and self.persistent is not None:
            stack.append(self.persistent(*self._pop(1)))
        else:
            raise FileRefused(f"its pickle uses the instruction {name}, which weight files do not")

    def _global(self, module: Any, name: Any) -> Any:
        if not isinstance(module, str) or not isinstance(name, str):
            raise FileRefused("its pickle names a global by something that is no text")
        if self.script_classes and (module == "__torch__" or module.startswith("__torch__.")):
            return Constructor(ScriptObject)
        try:
            return self.table[module, name]
        except KeyError:
            what = quoted(f"{module}.{name}")[1:-1]
            raise FileRefused(f"its pickle asks for {what}, which weights do not need; nothing of it was run") from None

    def _pop(self, count: int) -> list[Any]:
        start = len(self.stack) - count
        if start < (self.marks[-1] if self.marks else 0):
            raise FileRefused("its pickle takes values that are not there")
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def _pop_mark(self) -> list[Any]:
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def _extend(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise FileRefused("its pickle appends to something that is no list")
        self.stack[-1].extend(values)

    def _set_items(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(values) % 2:
            raise FileRefused("its pickle sets items of something that is no dictionary")
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[checked_key(key)] = value


def checked_key(key: Any) -> str | int | None:
    """`key` if it may be a dictionary's key.

    Only texts, small whole numbers and None: hashing anything deeper can exhaust the C stack.

    Raises:
        FileRefused: any other key.
    """
    if key is None or isinstance(key, str) or (isinstance(key, int) and abs(key) < MAX_KEY):
        return key
    raise FileRefused(f"its pickle has a dictionary key of type {type(key).__name__}")


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {quoted(text)[1:-1]}"
