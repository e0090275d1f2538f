"""Tests of tools/repeat_step.py on what a run with bad numbers leaves behind."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from jseg.engine import checkpoint
from jseg.errors import UserError
from jseg.weights import record
from jseg.weights.reader import read_weight_file
from tests.tools.training_process import TINY
from tools import repeat_step, run_net


@pytest.fixture(scope="module")
def left_behind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a run whose loss overflowed: a weight of the loss far too large."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "tiny.py").write_text(TINY)
    arguments = ["--config-file", str(folder / "tiny.py"), "--work-dir", str(folder / "run"), "--no-cuda"]
    with pytest.raises(UserError, match=r"2 steps in a row.*iteration 2 \(.*repeat_step.py .*bad_step_0000001") as stop:
        run_net.main([*arguments, "data.workers=0", "train.max_bad_steps=2", "loss.mask=3e38", "loss.focal_gamma=0.0"])
    assert not checkpoint.checkpoints_in(folder / "run") or "0000001" in str(stop.value)
    return folder / "run" / "bad_step_0000001.safetensors"


def test_the_step_repeats_with_its_numbers(left_behind: Path, capsys: pytest.CaptureFixture) -> None:
    assert repeat_step.main([str(left_behind), "--no-cuda"]) == 1
    shown = capsys.readouterr().out
    before, now = re.findall(r"(?:in the run|now): ([^;\n]*)", shown)
    assert (before == now and "not finite" in before) or "inf" in before
    assert "iteration 2 on cpu, pictures" in shown and "pictures: 0 values that are not finite" in shown


def test_a_change_of_the_config_can_be_tried(left_behind: Path, capsys: pytest.CaptureFixture) -> None:
    assert repeat_step.main([str(left_behind), "--no-cuda", "loss.mask=100.0"]) == 0
    assert "now: fine" in capsys.readouterr().out


def test_the_file_is_no_checkpoint_to_go_on_from(left_behind: Path) -> None:
    file = read_weight_file(left_behind)
    assert file.tensors["batch.images"].shape == (2, 3, 64, 64) and file.meta["bad_step"]["names"]
    assert left_behind not in checkpoint.checkpoints_in(left_behind.parent)


def test_other_files_are_refused(left_behind: Path, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a.safetensors", {"backbone.x": np.ones(2, np.float32)}, {"format": record.FORMAT})
    with pytest.raises(UserError, match="optimiser state"):
        repeat_step.main([str(tmp_path / "a.safetensors")])
    with pytest.raises(UserError, match="does not exist"):
        repeat_step.main([str(tmp_path / "b.safetensors")])
