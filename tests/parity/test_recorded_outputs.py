"""Every recorded output of the released models, one test per kind of file."""

from __future__ import annotations

from pathlib import Path

import pytest

from jseg.parity.check_set import RELEASES, Kind, check_file, golden_folders, kind_of

pytestmark = pytest.mark.parity

CASES = [
    pytest.param(release, kind, id=f"{release}/{kind.pattern}") for release in RELEASES for kind in RELEASES[release]
]


@pytest.mark.parametrize("release, kind", CASES)
def test_recorded_outputs(golden: Path, release: str, kind: Kind) -> None:
    folders = [folder for folder in golden_folders(golden) if folder.kinds is RELEASES[release]]
    reports = [
        report
        for folder in folders
        for path in folder.files()
        if kind_of(folder, path) is kind and (report := check_file(folder, path))
    ]
    if not reports:
        pytest.skip("this golden set has no file of this kind")
    lines = "\n".join(report.line() for report in reports)
    assert not any(report.failed or report.unchecked for report in reports), f"\n{lines}"
    if not all(report.passed for report in reports):
        pytest.skip(lines)
