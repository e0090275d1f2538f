"""tools/check_parity.py: exit codes and what is printed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).parents[2]
CORE = REPOSITORY / "tests" / "golden" / "torch_release"


def check(golden: Path | str, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, REPOSITORY / "tools" / "check_parity.py", "--golden", golden, *options]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)


@pytest.fixture
def small_set(tmp_path: Path) -> Path:
    for name in ("tolerances.json", "losses_only.npz"):
        shutil.copy(CORE / name, tmp_path)
    return tmp_path


def test_a_pass(small_set: Path) -> None:
    done = check(small_set, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    *lines, summary = done.stdout.splitlines()
    assert len(lines) == 1 and lines[0].startswith("ok") and "losses_only.npz" in lines[0]
    assert summary.startswith("cpu: 1 files within tolerance, 0 over, 0 not run")


def test_a_miss(small_set: Path) -> None:
    arrays = dict(np.load(small_set / "losses_only.npz"))
    arrays["basic.loss_mask"] = arrays["basic.loss_mask"] * np.float32(1.001)
    np.savez(small_set / "losses_only.npz", **arrays)
    done = check(small_set)
    assert done.returncode == 1
    assert done.stdout.startswith("FAILED") and "basic.loss_mask" in done.stdout


@pytest.mark.parametrize("golden", ["nowhere", "empty"])
def test_user_errors_are_one_line(tmp_path: Path, golden: str) -> None:
    (tmp_path / "empty").mkdir()
    done = check(tmp_path / golden)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
