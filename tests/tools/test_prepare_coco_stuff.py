"""tools/prepare_coco_stuff.py: parallel, restartable, exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.replicas import make_coco_stuff

TOOL = Path(__file__).resolve().parents[2] / "tools" / "prepare_coco_stuff.py"


def prepare(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(TOOL), *map(str, arguments)], capture_output=True, text=True)


def test_prepare_and_prepare_again(tmp_path: Path) -> None:
    root = make_coco_stuff(tmp_path, train=20).root
    result = prepare(root, "--workers", 2)
    assert result.returncode == 1 and "the published runs have 118,287 (--allow-partial" in result.stdout
    assert len(list(root.glob("annotations/train2017/*_labelTrainIds.png"))) == 20
    result = prepare(root, "--allow-partial")
    assert result.returncode == 0 and not result.stderr and "train: 20 label maps are there, 0 to make" in result.stdout
    assert "the published runs have 5,000" in result.stdout and result.stdout.endswith("all there\n")


def test_user_errors(tmp_path: Path) -> None:
    for result, words in (
        (prepare(tmp_path), "images/train2017 does not exist"),
        (prepare(tmp_path / "nothing"), "nothing does not exist"),
        (prepare(tmp_path, "--sbd", "x"), "--sbd"),
    ):
        assert result.returncode == 2 and result.stderr.count("\n") == 1 and words in result.stderr
