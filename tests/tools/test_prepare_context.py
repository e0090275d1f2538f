"""tools/prepare_context.py: from .mat files to label PNGs and lists, exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.replicas import make_context

TOOL = Path(__file__).resolve().parents[2] / "tools" / "prepare_context.py"


def prepare(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(TOOL), *map(str, arguments)], capture_output=True, text=True)


def test_prepare_and_prepare_again(tmp_path: Path) -> None:
    replica = make_context(tmp_path, train=12, val=12)
    result = prepare(replica.root, "--mat", replica.mat_files, "--workers", 2)
    assert result.returncode == 1 and "the published runs have 4,998 (--allow-partial" in result.stdout
    assert len(list((replica.root / "SegmentationClassContext").iterdir())) == 24
    result = prepare(replica.root, "--allow-partial")
    assert result.returncode == 0 and not result.stderr and "24 label maps are there, 0 to make" in result.stdout
    assert (replica.root / "manifest_context.json").is_file() and result.stdout.endswith("all there\n")


def test_user_errors(tmp_path: Path) -> None:
    replica = make_context(tmp_path)
    for result, words in (
        (prepare(replica.root), "12 label maps must be made: pass --mat FOLDER"),
        (prepare(replica.root, "--mat", tmp_path / "nothing"), "no such folder"),
        (prepare(tmp_path), "VOCdevkit/VOC2010"),
    ):
        assert result.returncode == 2 and result.stderr.count("\n") == 1 and words in result.stderr, result.stderr
