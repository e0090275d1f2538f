"""tools/pretrain_clip.py: its command line, a few steps of the real run, and the shipped file."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jseg.clip.tokenizer import Tokenizer
from jseg.clip.weights import read_clip_weights

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "pretrained" / "shapes_clip.safetensors"
VOCABULARY = ROOT / "pretrained" / "shapes_vocabulary.txt.gz"
LARGEST = 4_000_000  # bytes
RECORDED_STEPS = 200  # of the recorded run that the slow test repeats
LOSS_TOLERANCE = 0.15  # of the mean over 50 steps: another machine rounds differently, and early training is chaotic


def pretrain(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "tools" / "pretrain_clip.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("arguments, reason", [
    (["--stop-after", "1000000"], "--stop-after 1000000"),
    (["--output", "weights.pth"], "must end in .safetensors"),
    (["--scenes", "0"], "--scenes 0: must be at least 1"),
    (["--output", str(SHIPPED)], "shapes_clip.safetensors exists"),
])  # fmt: skip
def test_mistakes_are_told_in_one_line(arguments: list[str], reason: str, tmp_path: Path) -> None:
    result = pretrain("--output", str(tmp_path / "clip.safetensors"), *arguments)
    assert result.returncode == 2 and result.stderr.startswith("error: ") and reason in result.stderr
    assert result.stderr.count("\n") == 1


def test_one_step_writes_weights_and_vocabulary(tmp_path: Path) -> None:
    output = tmp_path / "out" / "clip.safetensors"
    arguments = ("--stop-after", "1", "--scenes", "10", "--workers", "0", "--output", str(output), "--device", "cpu")
    result = pretrain(*arguments)
    assert result.returncode == 0, result.stderr
    weights = read_clip_weights(output)
    assert weights.source.meta["iteration"] == 1 and output.stat().st_size <= LARGEST
    assert [step for step, _ in weights.source.meta["losses"]] == [1]
    assert (tmp_path / "out" / VOCABULARY.name).is_file()


@pytest.mark.skipif(not SHIPPED.is_file(), reason="the shipped file is not there")
def test_shipped_file_is_small_and_says_how_it_was_made() -> None:
    weights = read_clip_weights(SHIPPED)
    assert SHIPPED.stat().st_size <= LARGEST
    assert all(array.dtype == np.float16 for array in weights.source.tensors.values())
    tokenizer = Tokenizer(VOCABULARY)
    assert tokenizer.fingerprint == Tokenizer(weights.source.meta["vocabulary"]).fingerprint
    assert tokenizer.vocab_size == weights.config["vocab_size"]
    meta = weights.source.meta
    assert meta["command"] and meta["seed"] == 0 and meta["figures"]["zero-shot accuracy"] > 0
    readme = (ROOT / "pretrained" / "README.md").read_text()
    assert weights.source.sha256 in readme, "the README must name the hash of the shipped file"


@pytest.mark.slow
def test_first_steps_of_the_shipped_run_repeat(tmp_path: Path) -> None:
    """A fraction of the steps that made the shipped file: the loss falls as recorded in it."""
    recorded = {step: loss for step, loss in read_clip_weights(SHIPPED).source.meta["losses"] if step <= RECORDED_STEPS}
    output = tmp_path / "clip.safetensors"
    result = pretrain("--output", str(output), "--stop-after", str(RECORDED_STEPS), "--scenes", "10")
    assert result.returncode == 0, result.stderr
    found = dict(read_clip_weights(output).source.meta["losses"])
    assert found.keys() == recorded.keys(), json.dumps(found)
    for step, loss in recorded.items():
        assert found[step] == pytest.approx(loss, rel=LOSS_TOLERANCE), f"iteration {step}"
    assert found[RECORDED_STEPS] < 0.9 * found[min(found)]
