"""tools/convert_weights.py: the table, the written file, and what it refuses."""

import os
from pathlib import Path

import numpy as np
import pytest

from jseg.clip.weights import read_clip_weights
from jseg.engine.checkpoint import save
from jseg.errors import UserError
from jseg.segmenter import load_segmenter
from jseg.weights.reader import read_weight_file, write_safetensors
from tests.small_weights import clip_tensors, write_ours
from tools.convert_weights import main

SIZES = {"image_size": 16, "patch_size": 8, "image_width": 64, "image_layers": 1, "image_heads": 1, "context_length": 5,
         "vocab_size": 9, "text_width": 64, "text_layers": 1, "text_heads": 1, "output_dim": 4}  # fmt: skip


def convert(*arguments: object) -> None:
    main([str(argument) for argument in arguments])


def refused(match: str, *arguments: object) -> None:
    with pytest.raises(UserError, match=match):
        convert(*arguments)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small CLIP whose heads follow the convention."""
    write_safetensors(tmp_path / "clip.safetensors", clip_tensors(SIZES), {"vocabulary": [["a", "b"]]})
    return tmp_path / "clip.safetensors"


def test_table_and_file(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    target = tmp_path / "ours.safetensors"
    convert(source, target)
    output = capsys.readouterr().out
    lines = [line.split(maxsplit=1) for line in output.splitlines()]
    assert ["visual.conv1.weight", "64 x 3 x 8 x 8"] in lines and ["logit_scale", "scalar"] in lines
    weights, written = read_clip_weights(source), read_clip_weights(target)
    assert all(np.array_equal(written.tensors[name], array) for name, array in weights.tensors.items())
    assert written.source.meta["source_sha256"] == weights.source.sha256 and weights.source.sha256 in output
    assert written.config == weights.config == SIZES
    assert written.source.meta["vocabulary"] == [["a", "b"]]
    refused("must end in .safetensors", source, tmp_path / "a.pth")
    refused("exists.*--overwrite", source, target)
    convert(source, target, "--overwrite", "--dtype", "float16")
    assert {array.dtype for array in read_weight_file(target).tensors.values()} == {np.dtype(np.float16)}


def test_the_source_is_never_replaced(source: Path, tmp_path: Path) -> None:
    before = source.read_bytes()
    (tmp_path / "hard.safetensors").hardlink_to(source)
    (tmp_path / "soft.safetensors").symlink_to(source)
    for name in ("clip", "hard", "soft"):
        refused("itself would be overwritten", source, tmp_path / f"{name}.safetensors", "--overwrite")
    assert source.read_bytes() == before


def test_weights_of_a_run_are_halved_and_passed_on(tmp_path: Path) -> None:
    """Scores stay within the rounding of 11 bits; nothing of the machine that made them is left."""
    write_ours(tmp_path / "run.safetensors")
    run = read_weight_file(tmp_path / "run.safetensors")
    run.meta["config"]["model"]["init"] = "/home/someone/clip.pt"
    save(tmp_path / "run.safetensors", run.tensors | {"optimizer.m.x": np.ones(3, np.float32)}, run.meta)
    convert(tmp_path / "run.safetensors", tmp_path / "half.safetensors", "--dtype", "float16")
    half = read_weight_file(tmp_path / "half.safetensors")
    assert half.tensors.keys() == run.tensors.keys() and "/home" not in str(half.meta)
    assert {name for name, array in half.tensors.items() if array.dtype != np.float16} == {"text_features"}
    image = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    models = (load_segmenter(tmp_path / f"{name}.safetensors", "cpu") for name in ("run", "half"))
    scores = [model(image, ["cat", "dog"], with_scores=True).scores for model in models]
    np.testing.assert_allclose(*scores, rtol=0, atol=5e-3)
    large = {name: array * 1e6 for name, array in run.tensors.items()}
    save(tmp_path / "large.safetensors", large, run.meta)
    refused("not finite as float16", tmp_path / "large.safetensors", tmp_path / "b.safetensors", "--dtype", "float16")


@pytest.mark.parity
def test_recorded_files_give_one_and_the_same(golden: Path, tmp_path: Path) -> None:
    folder = golden / "torch_release" / "convert"
    outputs = []
    for path in (*folder.glob("torchscript*"), *folder.glob("hf_clip.safetensors")):
        target = tmp_path / f"{path.stem}.safetensors"
        convert(path)  # only to look needs no heads
        refused("--image-heads", path, target)
        convert(path, target, "--image-heads", 4, "--text-heads", 4)
        outputs.append(read_clip_weights(target))
    first, second = outputs
    assert first.config == second.config and first.config["image_heads"] == 4
    assert all(np.array_equal(first.tensors[name], second.tensors[name]) for name in first.tensors)


@pytest.mark.parametrize(("change", "match"), [
    ({"logit_scale": None}, "missing: logit_scale"),
    ({"visual.extra": np.ones(2, np.float32)}, "unknown: extra"),
    ({"visual.positional_embedding": np.ones((9, 64), np.float32)}, "other shape: positional_embedding"),
    ({"ln_final.bias": np.full(64, 1e6, np.float32)}, "ln_final.bias has numbers that are not finite as float16"),
])  # fmt: skip
def test_anything_but_a_whole_clip_is_refused(source: Path, tmp_path: Path, change: dict, match: str) -> None:
    tensors = {name: array for name, array in (clip_tensors(SIZES) | change).items() if array is not None}
    write_safetensors(source, tensors, {})
    refused(match, source, tmp_path / "a.safetensors", "--dtype", "float16")
    assert os.listdir(tmp_path) == ["clip.safetensors"]
