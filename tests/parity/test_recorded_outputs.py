"""Every recorded output of the released PyTorch model, one test per kind of file."""

from pathlib import Path

import pytest

from jseg.parity.report import CHECKS, check_set

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("beginning", [key for key, check in CHECKS.items() if check])
def test_recorded_outputs(golden: Path, beginning: str) -> None:
    if not any(golden.rglob(f"{beginning}*")):
        pytest.skip("this golden set has no file of this kind")
    reports = list(check_set(golden, only=beginning))
    lines = "\n".join(report.line() for report in reports)
    assert not any(report.failed or report.unchecked for report in reports), f"\n{lines}"
    if not all(report.passed for report in reports):
        pytest.skip(lines)
