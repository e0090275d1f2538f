"""tools/check_parity.py: exit codes and what is printed."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).parents[2]
CORE = REPOSITORY / "tests" / "golden" / "torch_release"


def test_exit_codes(tmp_path: Path) -> None:
    def check() -> subprocess.CompletedProcess:
        command = [sys.executable, "tools/check_parity.py", "--golden", tmp_path, "--device", "cpu"]
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)

    done = check()
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    for name in ("tolerances.json", "losses_only.npz"):
        shutil.copy(CORE / name, tmp_path)
    done = check()
    assert done.returncode == 0, done.stderr
    line, summary = done.stdout.splitlines()
    assert line.startswith("ok") and "losses_only.npz" in line
    assert summary.startswith("cpu: 1 files within tolerance, 0 over, 0 not run")
    arrays = dict(np.load(tmp_path / "losses_only.npz"))
    arrays["basic.loss_mask"] = arrays["basic.loss_mask"] * np.float32(1.001)
    np.savez(tmp_path / "losses_only.npz", **arrays)
    done = check()
    assert done.returncode == 1 and done.stdout.startswith("FAILED") and "basic.loss_mask" in done.stdout
