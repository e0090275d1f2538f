"""Readers of untrusted files against mutated ones: an answer or one clear line, in little time and memory.

`JSEG_FUZZ_CASES=5000 python -m pytest tests/test_fuzzing.py` tries more cases of each kind than the usual run.
"""

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

many = settings(max_examples=CASES, deadline=None, derandomize=CASES <= 100, suppress_health_check=list(HealthCheck))
SHAPES = class_list("shapes")


def refused_in_one_line(read: Callable[[], Any]) -> bool:
    """Runs `read`, and whether it raised UserError; any other error is a failure, and so is a long time."""
    begin, peak, refused = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, False
    try:
        read()
    except UserError as error:
        assert str(error) and "\n" not in str(error) and str(error).isprintable() and len(str(error)) < 3000
        refused = True
    assert time.process_time() - begin < CPU_SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < MEMORY_KIB
    return refused


ARRAYS = {
    "backbone.proj": np.arange(6, dtype=np.float32).reshape(2, 3),
    "decode_head.q": np.ones(3, np.float16),
    "ids": np.arange(4, dtype=np.int64),
}


def checkpoint_bytes() -> bytes:
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
    torch, buffer = pytest.importorskip("torch"), io.BytesIO()
    tensors = {name: torch.from_numpy(array) for name, array in ARRAYS.items()}
    tensors["turned"] = tensors["ids"].reshape(2, 2).T
    torch.save({"state_dict": tensors, "meta": {"iter": 3}}, buffer, **options)
    return buffer.getvalue()


def old_torch_bytes() -> bytes:
    return torch_bytes(_use_new_zipfile_serialization=False)


def script_bytes() -> bytes:
    torch, buffer = pytest.importorskip("torch"), io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Sequential(torch.nn.Linear(2, 3))), buffer)
    return buffer.getvalue()


def jittor_bytes() -> bytes:
    content = pickle.dumps(ARRAYS, protocol=4)
    return content + hashlib.sha1(content).digest() + b"HCAJSLHD"


def png_bytes() -> bytes:
    labels, buffer = Image.fromarray(np.arange(30, dtype=np.uint8).reshape(5, 6) % 21, "P"), io.BytesIO()
    labels.putpalette(bytes(range(256)) * 3)
    labels.save(buffer, "PNG")
    return buffer.getvalue()


def jpeg_bytes() -> bytes:
    pixels, buffer, exif = np.arange(1200, dtype=np.uint32).astype(np.uint8), io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels.reshape(20, 20, 3)).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


source = cache(lambda write: write())  # a whole file, made once


@st.composite
def mutations(draw: st.DrawFn, write: Callable[[], bytes]) -> bytes:
    """A file that was cut, spliced, overwritten in a few places, or filled with a huge number; or mere noise."""
    content = bytearray(source(write))
    if draw(st.integers(0, 19)) == 0:
        return draw(st.binary(max_size=300))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(content)))
        repeated = st.integers(1, 40).map(lambda count, piece=bytes(content[place : place + 9]): piece * count)
        huge = st.sampled_from([b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"9" * 12])
        new = draw(st.binary(min_size=1, max_size=8) | huge | repeated | st.just(b""))
        removed = draw(st.sampled_from([len(new), len(new), 0, 64, len(content)]))
        content[place : place + removed] = new
    return bytes(content)


@pytest.mark.parametrize(("write", "read"), [
    (torch_bytes, read_weight_file), (old_torch_bytes, read_weight_file), (script_bytes, read_weight_file),
    (jittor_bytes, read_weight_file), (png_bytes, read_stored_labels), (png_bytes, read_image),
    (jpeg_bytes, read_image),
])  # fmt: skip
def test_mutated_files(write: Callable[[], bytes], read: Callable[[Path], Any], tmp_path: Path) -> None:
    path, answers = tmp_path / "file.png", []

    @many
    @given(mutations(write))
    def try_one(content: bytes) -> None:
        path.write_bytes(content)
        answers.append(refused_in_one_line(lambda: read(path)))

    path.write_bytes(source(write))
    read(path)
    try_one()
    assert any(answers)


def test_a_mutated_checkpoint_is_refused_or_equal(tmp_path: Path) -> None:
    """The checksum sees every change of a tensor."""
    path = tmp_path / "checkpoint_0000005.safetensors"
    path.write_bytes(source(checkpoint_bytes))
    whole = checkpoint.read_whole(path, is_resumed=True)

    @many
    @given(mutations(checkpoint_bytes))
    def try_one(content: bytes) -> None:
        path.write_bytes(content)
        found: list[Any] = []
        if not refused_in_one_line(lambda: found.append(checkpoint.read_whole(path, is_resumed=True))):
            assert all(np.array_equal(array, found[0].tensors[name]) for name, array in whole.tensors.items())

    try_one()


KEYS = sorted(f"{section}.{key}" for section, values in to_dict(Config()).items() if isinstance(values, dict)
              for key in values)  # fmt: skip
literals = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_subnormal=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
).map(repr)
repeats = st.builds(lambda sign, count: sign * count, st.sampled_from("([{-9~"), st.integers(1, 100_000))
keys = st.sampled_from(KEYS) | st.text(max_size=20)
overrides = st.builds("{}={}".format, keys, literals | repeats | st.text(max_size=40)) | st.text(max_size=60)


def test_overrides() -> None:
    @many
    @given(st.lists(overrides, min_size=1, max_size=3))
    def try_one(texts: list[str]) -> None:
        config = Config()
        refused_in_one_line(lambda: (apply_overrides(config, texts), check(config), to_dict(config)))

    try_one()
