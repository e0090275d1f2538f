"""Readers of untrusted files against mutated ones: an answer or one clear line, in little time and memory.

`JSEG_FUZZ_CASES=5000 python -m pytest tests/test_fuzzing.py` tries more cases of each kind than the usual run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import pickle
import resource
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from jseg.clip.class_embeddings import TextFeatures
from jseg.config import Config, apply_overrides, check, to_dict
from jseg.data.class_names import class_list
from jseg.data.image_files import read_image, read_stored_labels
from jseg.engine import checkpoint
from jseg.engine.checkpoint import Progress
from jseg.errors import UserError
from jseg.weights import record
from jseg.weights.reader import read_weight_file, write_safetensors

CASES = int(os.environ.get("JSEG_FUZZ_CASES", "40"))
CPU_SECONDS = 5.0  # for one case; usual ones take milliseconds
MEMORY_KIB = 100 * 1024  # that one case may add to the peak of the process

many = settings(
    max_examples=CASES, deadline=None, derandomize=CASES <= 100,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)  # fmt: skip
SHAPES = class_list("shapes")


def refused_in_one_line(read: Callable[[], Any]) -> bool:
    """Runs `read`; any error but a UserError is a failure, and so is a long time.

    Returns:
        Whether it raised UserError.
    """
    begin, peak, refused = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, False
    try:
        read()
    except UserError as error:
        assert str(error) and "\n" not in str(error) and str(error).isprintable() and len(str(error)) < 3000
        refused = True
    assert time.process_time() - begin < CPU_SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < MEMORY_KIB
    return refused


# --- files ---

ARRAYS = {
    "backbone.proj": np.arange(6, dtype=np.float32).reshape(2, 3),
    "decode_head.q": np.ones(3, np.float16),
    "ids": np.arange(4, dtype=np.int64),
}


def checkpoint_bytes() -> bytes:
    """A small checkpoint whose checksum holds."""
    tensors = ARRAYS | {"text_features": np.eye(20, 512, dtype=np.float32)}
    tensors |= {f"optimizer.{moment}.decode_head.q": np.ones(3, np.float32) for moment in "mv"}
    progress = Progress(iteration=5, log={"sums": {"total": 1.0}, "norms": [1.0], "steps": 1})
    meta = {
        **checkpoint.describe(Config(), SHAPES, TextFeatures(np.eye(2, dtype=np.float32), None)),
        "iteration": 5,
        "progress": dataclasses.asdict(progress),
        "optimizer_steps": 5,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.safetensors"
        write_safetensors(path, tensors, meta | {"tensors_sha256": record.tensors_sha256(tensors)})
        return path.read_bytes()


def torch_bytes(**options: Any) -> bytes:
    """A PyTorch checkpoint, an archive or (`_use_new_zipfile_serialization=False`) of the old kind."""
    torch = pytest.importorskip("torch")
    tensors = {name: torch.from_numpy(array) for name, array in ARRAYS.items()}
    buffer = io.BytesIO()
    torch.save(
        {"state_dict": {**tensors, "turned": tensors["ids"].reshape(2, 2).T}, "meta": {"iter": 3}}, buffer, **options
    )
    return buffer.getvalue()


def script_bytes() -> bytes:
    """A TorchScript archive."""
    torch = pytest.importorskip("torch")
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Sequential(torch.nn.Linear(2, 3))), buffer)
    return buffer.getvalue()


def jittor_bytes() -> bytes:
    """What `jt.save` writes."""
    content = pickle.dumps(ARRAYS, protocol=4)
    return content + hashlib.sha1(content).digest() + b"HCAJSLHD"


def png_bytes() -> bytes:
    """A label map with a palette."""
    labels = Image.fromarray(np.arange(30, dtype=np.uint8).reshape(5, 6) % 21, "P")
    labels.putpalette(bytes(range(256)) * 3)
    buffer = io.BytesIO()
    labels.save(buffer, "PNG")
    return buffer.getvalue()


def jpeg_bytes() -> bytes:
    """A photo with EXIF."""
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.arange(1200, dtype=np.uint32).astype(np.uint8).reshape(20, 20, 3)).save(
        buffer, "JPEG", exif=exif
    )
    return buffer.getvalue()


SOURCES: dict[str, Callable[[], bytes]] = {
    "checkpoint": checkpoint_bytes,
    "torch archive": torch_bytes,
    "old torch file": lambda: torch_bytes(_use_new_zipfile_serialization=False),
    "TorchScript archive": script_bytes,
    "Jittor pickle": jittor_bytes,
    "label PNG": png_bytes,
    "JPEG": jpeg_bytes,
}


@cache
def source(kind: str) -> bytes:
    """A whole file of that kind."""
    return SOURCES[kind]()


@st.composite
def mutations(draw: st.DrawFn, kind: str) -> bytes:
    """A file that was cut, spliced, overwritten in a few places, or filled with a huge number; or mere noise."""
    content = bytearray(source(kind))
    if draw(st.integers(0, 19)) == 0:
        return draw(st.binary(max_size=300))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(content) - 1, 0)))
        piece = draw(st.integers(1, 64))
        match draw(st.sampled_from(["bit", "bytes", "huge", "cut", "remove", "repeat", "insert"])):
            case "bit" if content:
                content[place] ^= 1 << draw(st.integers(0, 7))
            case "bytes":
                new = draw(st.binary(min_size=1, max_size=8))
                content[place : place + len(new)] = new
            case "huge":
                content[place : place + 8] = draw(st.sampled_from([b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"9" * 12]))
            case "cut":
                del content[place:]
            case "remove":
                del content[place : place + piece]
            case "repeat":
                content[place:place] = content[place : place + piece] * draw(st.integers(1, 40))
            case "insert":
                content[place:place] = draw(st.binary(max_size=64))
    return bytes(content)


@pytest.mark.parametrize(
    ("kind", "read"),
    [
        ("torch archive", read_weight_file),
        ("old torch file", read_weight_file),
        ("TorchScript archive", read_weight_file),
        ("Jittor pickle", read_weight_file),
        ("label PNG", read_stored_labels),
        ("label PNG", read_image),
        ("JPEG", read_image),
    ],
)
def test_mutated_files(kind: str, read: Callable[[Path], Any], tmp_path: Path) -> None:
    path, answers = tmp_path / "file.png", []

    @many
    @given(mutations(kind))
    def try_one(content: bytes) -> None:
        path.write_bytes(content)
        answers.append(refused_in_one_line(lambda: read(path)))

    path.write_bytes(source(kind))
    read(path)
    try_one()
    assert any(answers)


def test_a_mutated_checkpoint_is_refused_or_equal(tmp_path: Path) -> None:
    """The checksum sees every change of a tensor."""
    path = tmp_path / "checkpoint_0000005.safetensors"
    path.write_bytes(source("checkpoint"))
    whole = checkpoint.read_whole(path, is_resumed=True)

    @many
    @given(mutations("checkpoint"))
    def try_one(content: bytes) -> None:
        path.write_bytes(content)
        found: list[Any] = []
        if not refused_in_one_line(lambda: found.append(checkpoint.read_whole(path, is_resumed=True))):
            assert all(np.array_equal(array, found[0].tensors[name]) for name, array in whole.tensors.items())

    try_one()


# --- overrides ---

KEYS = sorted(f"{section}.{key}" for section, values in to_dict(Config()).items() if isinstance(values, dict)
              for key in values)  # fmt: skip
literals = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_subnormal=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)
overrides = (
    st.builds("{}={}".format, st.sampled_from(KEYS), literals.map(repr))
    | st.builds("{}={}".format, st.sampled_from(KEYS), st.text(max_size=40))
    | st.builds("{}={}".format, st.text(max_size=20), literals.map(repr))
    | st.builds(
        lambda key, n, c: f"{key}={c * n}", st.sampled_from(KEYS), st.integers(1, 100_000), st.sampled_from("([{-9~")
    )
    | st.text(max_size=60)
)


def test_overrides() -> None:
    @many
    @given(st.lists(overrides, min_size=1, max_size=3))
    def try_one(texts: list[str]) -> None:
        def use() -> None:
            config = Config()
            apply_overrides(config, texts)
            check(config)
            to_dict(config)

        refused_in_one_line(use)

    try_one()
