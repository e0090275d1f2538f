"""The pickle machine: plain values equal Python's own unpickler; everything else is refused and nothing is run."""

from __future__ import annotations

import builtins
import collections
import io
import os
import pickle
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jseg.weights import pickle_machine
from jseg.weights.pickle_machine import PickleMachine
from jseg.weights.records import NUMPY_TABLE
from jseg.weights.refusal import FileRefused

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_subnormal=False)
    | st.text()
    | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers(-99, 99), inner, max_size=4)
    ),
    max_leaves=20,
)


def load(content: bytes) -> Any:
    return PickleMachine(NUMPY_TABLE).load(io.BytesIO(content))


@given(PLAIN, st.integers(2, 5))
@settings(max_examples=200, deadline=None)
def test_plain_values_come_back(value: Any, protocol: int) -> None:
    assert load(pickle.dumps(value, protocol)) == value


def test_shared_values_stay_shared() -> None:
    shared = [1]
    first, second = load(pickle.dumps([shared, shared], 4))
    assert first is second


def test_ordered_dict_becomes_a_dictionary() -> None:
    value = collections.OrderedDict(a=1, b=2)
    assert load(pickle.dumps(value, 2)) == {"a": 1, "b": 2}
    value._metadata = {"version": 1}  # as PyTorch's state_dict() leaves it there
    assert load(pickle.dumps(value, 2)) == {"a": 1, "b": 2}


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ("touch {trap}",), f"{os.name}.system"),
        (builtins.eval, ("open('{trap}', 'w')",), ".eval"),
        (builtins.exec, ("open('{trap}', 'w')",), ".exec"),
        (builtins.getattr, (os, "system"), ".getattr"),
        (builtins.open, ("{trap}", "w"), "io.open"),
        (collections.Counter, (), "collections.Counter"),
    ],
)
def test_a_call_is_refused_by_name_and_not_made(
    tmp_path: Any, function: Any, arguments: tuple, name: str, protocol: int
) -> None:
    trap = tmp_path / "trap"
    if function is not builtins.getattr:
        arguments = tuple(argument.format(trap=trap) for argument in arguments)
        content = pickle.dumps({"x": Calls(function, *arguments)}, protocol)
    else:  # getattr(os, "system")("touch …"), spelled out because modules cannot be pickled
        content = b"\x80\x02cbuiltins\ngetattr\ncos\nsystem\nX\x01\x00\x00\x00x\x86R."
    with pytest.raises(FileRefused, match=f"asks for .*{name}.*nothing of it was run"):
        load(content)
    assert not trap.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("torch._utils", "os.system"),  # an allowed module, another name
        ("numpy", "load"),
        ("numpy.core.multiarray", "_reconstruct.__globals__"),
        ("numpy.ndarray", "__class__"),
        ("collections", "OrderedDict.__init__"),
        ("_codecs", "lookup"),
    ],
)
def test_other_names_of_allowed_modules_are_refused(module: str, name: str) -> None:
    short = b"".join(b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name))
    with pytest.raises(FileRefused, match="asks for"):
        load(b"\x80\x04" + short + b"\x93.")
    with pytest.raises(FileRefused, match="asks for"):
        load(b"\x80\x02c" + module.encode() + b"\n" + name.encode() + b"\n.")


def test_names_in_messages_are_made_printable() -> None:
    with pytest.raises(FileRefused) as refusal:
        load(b"\x80\x02cos\x1b[31m\nsystem" + b"x" * 500 + b"\n.")
    assert str(refusal.value).isprintable() and len(str(refusal.value)) < 200


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02(ios\nsystem\n.",  # INST
        b"\x80\x02(cos\nsystem\no.",  # OBJ
        b"\x80\x02\x82\x01.",  # EXT1
        b"\x80\x04)\x81.",  # NEWOBJ without a class
        b"\x80\x02K\x01)R.",  # REDUCE of a number
        b"\x80\x02K\x01}b.",  # BUILD of a number
        b"\x80\x02X\x01\x00\x00\x00aQ.",  # BINPERSID where none is expected
        b"\x80\x02P1\n.",  # PERSID
        b"\x80\x05\x8f.",  # a set
        b"\x80\x02.",  # STOP on an empty stack
        b"\x80\x02h\x05.",  # memo entry that does not exist
        b"\x80\x02]K\x01s.",  # SETITEM without a value
        b"\x80\x02K\x01K\x02a.",  # APPEND to a number
        b"\x80\x02}(K\x01u.",  # odd number of items
        b"\x80\x02u.",
        b"\x80\x02(K\x01\x86.",  # TUPLE2 reaches below a mark
        b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x04\x00\x00\x00idna\x86R.",
        b"garbage",
        b"",
    ],
)
def test_malformed_pickles_are_refused(content: bytes) -> None:
    with pytest.raises(FileRefused):
        load(content)


def test_every_truncation_is_refused() -> None:
    content = pickle.dumps({"a": [1.5, "text", (True, None, b"bytes")], "b": {"c": 2**40}}, 4)
    for length in range(len(content)):
        with pytest.raises(FileRefused):
            load(content[:length])


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.",  # BINBYTES8 of 4 EiB
        b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"x.",  # BINUNICODE8
        b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x.",  # BYTEARRAY8, which Python allocates up front
        b"\x80\x02B" + struct.pack("<I", 2**32 - 1) + b"x.",  # BINBYTES
        b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"x.",  # LONG4
    ],
)
def test_claimed_lengths_allocate_nothing(content: bytes) -> None:
    with pytest.raises(FileRefused):
        load(content)


def test_far_memo_places_cost_nothing() -> None:
    far = struct.pack("<I", 2**32 - 1)  # Python's unpickler would allocate 64 GiB here
    assert load(b"\x80\x02K\x07r" + far + b"j" + far + b"\x86.") == (7, 7)


def test_deep_nesting_does_not_exhaust_the_stack() -> None:
    depth = 200_000
    value = load(b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b".")
    for _ in range(depth - 1):
        (value,) = value
    assert value == []
    with pytest.raises(FileRefused, match="dictionary key of type tuple"):  # hashing it would recurse in C
        load(b"\x80\x02})" + b"\x85" * depth + b"K\x01s.")


@pytest.mark.parametrize("key", [2**61 - 1, 1.5, (1, 2), b"bytes"])
def test_unusual_dictionary_keys_are_refused(key: Any) -> None:
    with pytest.raises(FileRefused, match="dictionary key"):
        load(pickle.dumps({key: 1}, 4))


def test_an_opcode_flood_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_machine, "MAX_OPCODES", 1000)
    assert len(load(b"\x80\x02](" + b"K\x01" * 900 + b"e.")) == 900
    with pytest.raises(FileRefused, match="more than 1000 instructions"):
        load(b"\x80\x02](" + b"K\x01" * 1000 + b"e.")


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_noise_is_refused_or_plain(noise: bytes) -> None:
    try:
        load(b"\x80\x04" + noise)
    except FileRefused:
        pass
