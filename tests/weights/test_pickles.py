"""The restricted unpickler and Jittor's files: plain values and arrays come back, all else is refused and never run."""

import builtins
import hashlib
import io
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import jittor as jt
import numpy as np
import pytest

from jseg.errors import UserError
from jseg.weights.pickles import COMMON, RestrictedUnpickler
from jseg.weights.reader import read_weight_file
from jseg.weights.record import recorded_classes


def load(content: bytes) -> Any:
    return RestrictedUnpickler(io.BytesIO(content), COMMON).load()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_come_back(protocol: int) -> None:
    value = [None, True, -(2**70), 2**40, 70000, 300, 7, 0.5, "ü", b"\xff", (), (1,), (1, 2, 3, 4), {"a": [{3: "b"}]}]
    assert load(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize(
    ("function", "argument", "name"),
    [(os.system, "touch {trap}", f"{os.name}.system"), (builtins.eval, "open('{trap}', 'w')", ".eval")],
)
def test_a_call_is_refused_by_name_and_not_made(tmp_path: Path, function: Any, argument: str, name: str) -> None:
    trap = tmp_path / "trap"
    call = type("Call", (), {"__reduce__": lambda _: (function, (argument.format(trap=trap),))})()
    with pytest.raises(UserError, match=f"asks for .*{name}.*nothing of it was run"):
        load(pickle.dumps({"x": call}, 4))
    assert not trap.exists()


@pytest.mark.parametrize("content", [
    b"\x80\x02(ios\nsystem\n.",  # INST
    b"\x80\x02(cos\nsystem\no.",  # OBJ
    b"\x80\x02cnumpy\nload\n.",  # another name of an allowed module
    b"\x80\x02ccollections\nOrderedDict.__init__\n.",
    b"\x80\x04)\x81.",  # NEWOBJ without a class
    b"\x80\x02K\x01)R.",  # REDUCE of a number
    b"\x80\x02X\x01\x00\x00\x00aQ.",  # BINPERSID where none is expected
    b"\x80\x02}(K\x01u.",  # odd number of items
    b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.",  # BINBYTES8 of 4 EiB
    b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"x.",  # BINUNICODE8
    b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x.",  # BYTEARRAY8, which Python allocates up front
    b"\x80\x02B" + struct.pack("<I", 2**32 - 1) + b"x.",  # BINBYTES
    b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"x.",  # LONG4
])  # fmt: skip
def test_malformed_pickles_are_refused_and_claimed_lengths_allocate_nothing(content: bytes) -> None:
    with pytest.raises(Exception):  # noqa: B017  # `read_weight_file` turns any into one line
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
    with pytest.raises(UserError, match="dictionary key of type tuple"):  # hashing it would recurse in C
        load(b"\x80\x02})" + b"\x85" * depth + b"K\x01s.")


# --- Jittor's files ---

VALUES = {
    "backbone.conv1.weight": np.linspace(-1, 1, 48, dtype=np.float32).reshape(4, 3, 2, 2),
    "half": np.linspace(-1, 1, 15, dtype=np.float16).reshape(3, 5),
    "ids": np.arange(-4, 4, dtype=np.int32), "flags": np.array([True, False, True]),
    "bytes": np.arange(7, dtype=np.uint8),
}  # fmt: skip


def seal(content: bytes) -> bytes:
    """Adds what `jt.save` adds to a pickle."""
    return content + hashlib.sha1(content).digest() + b"HCAJSLHD"


@pytest.mark.parametrize("wrap", ["bare", "model", "state_dict"])
def test_saved_variables_come_back(tmp_path: Path, wrap: str) -> None:
    variables = {name: jt.array(array) for name, array in VALUES.items()}
    content: dict = {"meta": {"iter": 5, "CLASSES": ["a"]}, wrap: variables, "optimizer": {"m": [jt.ones(2)]}}
    content = variables if wrap == "bare" else content
    jt.save(content, str(tmp_path / "weights.pkl"))
    file = read_weight_file(tmp_path / "weights.pkl")
    assert file.kind == "Jittor pickle" and file.tensors.keys() == variables.keys()
    for name, array in VALUES.items():
        assert file.tensors[name].dtype == array.dtype and np.array_equal(file.tensors[name], array), name
    if wrap != "bare":
        assert file.meta == {"iter": 5, "CLASSES": ["a"]}


def test_class_names_and_iteration_of_the_jittor_release(tmp_path: Path) -> None:
    """Its checkpoints hold the whole config; `CLASSES` of the PyTorch release goes first."""
    config = {"model": {"type": "CLIPRC", "class_names": ("cat", "dog")}, "max_iter": 9, "dataset": {"train": None}}
    for meta, names in (({}, ("cat", "dog")), ({"CLASSES": ("a",)}, ("a",))):
        content = {"meta": {"iter": 5, "config": config, **meta}, "model": {"backbone.proj": jt.ones(2)}}
        content["scheduler"] = {}
        jt.save(content, str(tmp_path / "ckpt_5.pkl"))
        file = read_weight_file(tmp_path / "ckpt_5.pkl")
        assert recorded_classes(file) == names and file.meta["iter"] == 5
    (tmp_path / "a.pkl").write_bytes(seal(pickle.dumps({"meta": {"config": "a text"}, "model": VALUES}, 4)))
    assert read_weight_file(tmp_path / "a.pkl").meta == {"config": "a text"}


def test_tensors_of_pytorch_in_a_jittor_file(tmp_path: Path) -> None:
    """Their storages stand in the pickle, each as a whole old PyTorch file; what else is in one is refused."""
    import torch

    base = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    tensors = {"whole": base, "half": base.half(), "turned": base.T, "row": base[1], "scalar": torch.tensor(2.5),
               "count": torch.arange(3), "parameter": torch.nn.Parameter(base)}  # fmt: skip
    jt.save(tensors, str(tmp_path / "clip.pkl"))
    file = read_weight_file(tmp_path / "clip.pkl")
    assert file.kind == "Jittor pickle" and file.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        expected = tensor.detach().numpy()
        assert file.tensors[name].dtype == expected.dtype and np.array_equal(file.tensors[name], expected), name
    trap, buffer = tmp_path / "trap", io.BytesIO()
    evil = type("Evil", (), {"__reduce__": lambda _: (os.system, (f"touch {trap}",))})()
    torch.save(evil, buffer, _use_new_zipfile_serialization=False)
    inner = type("Inner", (), {"__reduce__": lambda _: (torch.storage._load_from_bytes, (buffer.getvalue(),))})()
    (tmp_path / "evil.pkl").write_bytes(seal(pickle.dumps({"w": inner}, 4)))
    with pytest.raises(UserError, match=f"asks for {os.name}.system"):
        read_weight_file(tmp_path / "evil.pkl")
    assert not trap.exists()


def test_numpy_arrays_and_bfloat16(tmp_path: Path) -> None:
    fortran = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    numbers = np.linspace(-3, 3, 9, dtype=np.float32)
    jt.save({"array": fortran, "brain": jt.array(numbers).bfloat16(), "count": np.uint16([7])},
            str(tmp_path / "weights.pkl"))  # fmt: skip
    tensors = read_weight_file(tmp_path / "weights.pkl").tensors
    assert np.array_equal(tensors["array"], fortran) and tensors["array"].flags.c_contiguous
    assert tensors["brain"].dtype == np.float32  # Jittor pickles the bits of a bfloat16 Var
    np.testing.assert_allclose(tensors["brain"], numbers, rtol=2**-8)
    assert tensors["count"].dtype == np.uint16 and tensors["count"] == 7  # a plain array keeps its type


def test_damage_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "weights.pkl"
    bare = pickle.dumps({"a": np.arange(50.0)}, 4)
    for content in (seal(bare), bare):  # older versions of Jittor wrote the pickle alone
        path.write_bytes(content)
        assert np.array_equal(read_weight_file(path).tensors["a"], np.arange(50.0))
    content = seal(bare)
    path.write_bytes(content.replace(np.float64(7).tobytes(), np.float64(8).tobytes()))
    with pytest.raises(UserError, match="SHA-1"):
        read_weight_file(path)
    for length in range(16, len(content), 23):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match=r"truncated|ends before"):
            read_weight_file(path)


@pytest.mark.parametrize("array", [np.array(["text"]), np.array([None]), np.arange(3.0).astype(">f4")])
def test_arrays_of_other_things_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    (tmp_path / "weights.pkl").write_bytes(seal(pickle.dumps({"a": array}, 4)))
    with pytest.raises(UserError, match=r"big-endian|damaged"):
        read_weight_file(tmp_path / "weights.pkl")
