"""No tool imports Jittor before `start` prepares the process for it: signals, MPI, the pool of compile processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[2] / "tools"


def test_tools_do_not_import_jittor() -> None:
    names = ", ".join(f"tools.{path.stem}" for path in sorted(TOOLS.glob("*.py")))
    code = f"import sys, {names}; print('jittor' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=TOOLS.parent, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
