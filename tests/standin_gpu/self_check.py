"""The table of `python -m jseg.runtime --check --device cuda` on the stand-in GPU, without the golden file."""

from __future__ import annotations

import sys
from pathlib import Path

from jseg.parity import self_check

self_check.GOLDEN = Path("nowhere")
sys.exit(self_check.check("cuda"))
