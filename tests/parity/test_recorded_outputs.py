"""Every recorded output of the released PyTorch model, one test per kind of file."""

from __future__ import annotations

from pathlib import Path

import pytest

from jseg.parity.report import KINDS, Kind, check_file, golden_files, read_rules, set_folder

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.pattern) for kind in KINDS])
def test_recorded_outputs(golden: Path, kind: Kind) -> None:
    rules = read_rules(set_folder(golden) / "tolerances.json")
    files = [path for path, found in golden_files(golden).items() if found is kind]
    reports = [check_file(path, path.name, kind, rules) for path in files]
    if not reports:
        pytest.skip("this golden set has no file of this kind")
    lines = "\n".join(report.line() for report in reports)
    assert not any(report.failed or report.unchecked for report in reports), f"\n{lines}"
    if not all(report.passed for report in reports):
        pytest.skip(lines)
