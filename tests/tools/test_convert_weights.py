"""tools/convert_weights.py: the table, the written file, and what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jseg.clip.weights import clip_shapes, read_clip_weights
from jseg.weights.reader import read_weight_file, write_safetensors
from tests.small_weights import write_clip

TOOL = Path(__file__).resolve().parents[2] / "tools" / "convert_weights.py"
SIZES = {"image_size": 16, "patch_size": 8, "image_width": 64, "image_layers": 1, "context_length": 5, "vocab_size": 9,
         "text_width": 64, "text_layers": 1, "output_dim": 4}  # fmt: skip


def convert(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(TOOL), *map(str, arguments)], capture_output=True, text=True)


def refused(result: subprocess.CompletedProcess, *words: str) -> None:
    assert result.returncode == 2 and result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert all(word in result.stderr for word in words), result.stderr


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small CLIP whose heads follow the convention."""
    generator = np.random.default_rng(0)
    tensors = {name: generator.standard_normal(shape).astype(np.float32) for name, shape in clip_shapes(SIZES).items()}
    write_safetensors(tmp_path / "clip.safetensors", tensors, {})
    return tmp_path / "clip.safetensors"


def test_table_and_file(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "ours.safetensors"
    result = convert(source, target)
    assert result.returncode == 0, result.stderr
    lines = [line.split(maxsplit=1) for line in result.stdout.splitlines()]
    assert ["visual.conv1.weight", "64 x 3 x 8 x 8"] in lines and ["logit_scale", "scalar"] in lines
    weights = read_clip_weights(source)
    assert {name for line in lines for name in line[:1] if name in weights.tensors} == set(weights.tensors)
    assert weights.sha256 in result.stdout
    written = read_clip_weights(target)
    assert all(np.array_equal(written.tensors[name], array) for name, array in weights.tensors.items())
    assert written.source.meta["source_sha256"] == weights.sha256 and written.config == weights.config
    refused(convert(source, target), "exists", "--force")
    assert convert(source, target, "--force", "--dtype", "float16").returncode == 0
    assert {array.dtype for array in read_weight_file(target).tensors.values()} == {np.dtype(np.float16)}


@pytest.mark.parity
def test_recorded_files_give_one_and_the_same(golden: Path, tmp_path: Path) -> None:
    folder = golden / "torch_release" / "convert"
    outputs = []
    for path in (*folder.glob("torchscript*"), *folder.glob("hf_clip.safetensors")):
        target = tmp_path / f"{path.stem}.safetensors"
        assert convert(path, target, "--image-heads", 4, "--text-heads", 4).returncode == 0
        outputs.append(read_clip_weights(target))
    first, second = outputs
    assert first.config == second.config and first.config["image_heads"] == 4
    assert all(np.array_equal(first.tensors[name], second.tensors[name]) for name in first.tensors)


def test_heads_that_nothing_tells_are_asked_for(golden: Path, tmp_path: Path) -> None:
    path = golden / "torch_release" / "convert" / "hf_clip.safetensors"
    refused(convert(path, tmp_path / "a.safetensors"), "--image-heads")
    refused(convert(path, tmp_path / "a.safetensors", "--image-heads", 4, "--text-heads", 5), "--text-heads")
    assert convert(path).returncode == 0  # looking needs no heads
    assert not list(tmp_path.iterdir())


def test_what_is_refused_leaves_nothing(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "a.safetensors"
    content = source.read_bytes()
    partial = read_weight_file(source).tensors
    del partial["ln_final.bias"]
    write_safetensors(source, partial, {})
    refused(convert(source, target), "missing: ln_final.bias", source.name)
    source.write_bytes(content[:-10])
    refused(convert(source, target), "truncated")
    refused(convert(tmp_path / "none.pt", target), "does not exist")
    source.write_bytes(content)
    refused(convert(source, tmp_path / "a.pth"), ".safetensors")
    refused(convert(source, target, "--dtype", "int8"), "int8")
    refused(convert(source, source / "a.safetensors"), "cannot write")
    assert os.listdir(tmp_path) == ["clip.safetensors"]


def test_a_vocabulary_of_its_own_is_kept_and_the_source_is_never_overwritten(tmp_path: Path) -> None:
    source, target = tmp_path / "clip.safetensors", tmp_path / "a.safetensors"
    write_clip(source)
    content, meta = source.read_bytes(), read_weight_file(source).meta
    assert convert(source, target).returncode == 0
    assert read_weight_file(target).meta.items() >= meta.items() and meta["vocabulary"]
    refused(convert(source, source, "--force"), "is the source itself")
    assert source.read_bytes() == content


def test_numbers_too_large_for_half_are_refused(source: Path, tmp_path: Path) -> None:
    tensors = read_weight_file(source).tensors
    tensors["ln_final.bias"][3] = 1e6
    write_safetensors(source, tensors, {})
    refused(convert(source, tmp_path / "a.safetensors", "--dtype", "float16"), "ln_final.bias", "not finite")
