"""`python -m jseg.runtime --check --device cuda` without its report, on the stand-in GPU."""

from __future__ import annotations

import sys

from jseg.runtime.self_check import check

sys.exit(check("cuda"))
