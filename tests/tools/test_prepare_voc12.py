"""tools/prepare_voc12.py: one command from the downloaded files to a data set that passes its check."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.replicas import Voc12Replica, make_voc12

TOOLS = Path(__file__).resolve().parents[2] / "tools"


def prepare(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(TOOLS / "prepare_voc12.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def refused(result: subprocess.CompletedProcess, *words: str) -> None:
    assert result.returncode == 2 and result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert all(word in result.stderr for word in words), result.stderr


@pytest.fixture
def voc(tmp_path: Path) -> Voc12Replica:
    return make_voc12(tmp_path, train=12, aug=12)  # two tasks for two workers


def test_prepare_then_check_then_prepare_again(voc: Voc12Replica) -> None:
    options = (voc.root, "--sbd", voc.sbd, "--workers", 2)
    result = prepare(*options)
    assert result.returncode == 1 and not result.stderr
    assert "train has 24 images, the published runs have 10,582 (--allow-partial" in result.stdout
    assert "12 masks of VOC (train.txt), 12 of SBD (aug.txt)" in result.stdout
    result = prepare(*options, "--allow-partial")
    assert result.returncode == 0 and "24 masks are there, 0 to make" in result.stdout
    assert result.stdout.endswith("all there\n") and (voc.root / "manifest_voc12.json").is_file()
    check = [sys.executable, TOOLS / "check_dataset.py", "--config-file", "configs/voc12_inductive.py"]
    checked = subprocess.run(
        [*check, "--allow-partial", f"data.root={voc.root}"], capture_output=True, text=True, cwd=TOOLS.parent
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_user_errors(voc: Voc12Replica, tmp_path: Path) -> None:
    refused(prepare(tmp_path / "nothing"), "nothing does not exist")
    refused(prepare(tmp_path), "JPEGImages does not exist: give the folder of PASCAL VOC 2012")
    refused(prepare(voc.root), "pass --sbd FOLDER")
    refused(prepare(voc.root, "--sbd", tmp_path / "nothing"), "no folder cls")
    refused(prepare(voc.root, "--workers", -1), "--workers -1")
    refused(prepare(), "root")


def test_without_scipy(voc: Voc12Replica, tmp_path: Path) -> None:
    code = (
        "import importlib.util, sys; find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'scipy' else find(name, *rest)\n"
        f"sys.path.insert(0, {str(TOOLS.parent)!r})\n"
        "from jseg.runtime.command_line import run; from tools.prepare_voc12 import main\n"
        f"run(lambda: main([{str(voc.root)!r}, '--sbd', {str(voc.sbd)!r}]))"
    )
    refused(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True), "pip install -e '.[prepare]'")
