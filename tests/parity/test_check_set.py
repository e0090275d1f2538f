"""What the parity checks notice: wrong numbers, unknown arrays and files, missing companions, broken checks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jseg.errors import UserError
from jseg.parity.check_set import check_folders, golden_folders
from jseg.parity.report import FileReport

CORE = Path(__file__).parents[1] / "golden"


@pytest.fixture
def small_set(tmp_path: Path) -> Path:
    """A set of one file that is computed in no time."""
    for name in ("tolerances.json", "losses_only.npz"):
        shutil.copy(CORE / "torch_release" / name, tmp_path)
    return tmp_path


def change(path: Path, edit: Callable[[dict[str, np.ndarray]], object]) -> None:
    """Rewrites an .npz after `edit` has changed its arrays."""
    arrays = dict(np.load(path))
    edit(arrays)
    np.savez(path, **arrays)


def reports_of(folder: Path, device: str = "cpu") -> dict[str, FileReport]:
    return {Path(report.name).name: report for report in check_folders(golden_folders(folder), device)}


def test_a_set_passes_and_says_how_far_it_is_off(small_set: Path) -> None:
    (report,) = reports_of(small_set).values()
    assert report.passed and not report.failed and not report.unchecked
    assert 0 < report.worst[1] < 1
    assert report.line().startswith("ok")


@pytest.mark.parametrize("device, error, fails", [("cpu", 3e-5, True), ("cuda", 3e-5, False), ("cuda", 3e-4, True)])
def test_a_number_over_its_tolerance_fails(small_set: Path, device: str, error: float, fails: bool) -> None:
    def edit(arrays: dict[str, np.ndarray]) -> None:
        arrays["basic.loss_dice"] = arrays["basic.loss_dice"] * np.float32(1 + error)

    change(small_set / "losses_only.npz", edit)
    report = reports_of(small_set, device)["losses_only.npz"]
    assert report.failed == fails
    assert report.worst[0] == "basic.loss_dice"
    assert report.line().startswith("FAILED" if fails else "ok")


def test_an_array_that_no_check_knows_is_reported(small_set: Path) -> None:
    change(small_set / "losses_only.npz", lambda arrays: arrays.update({"basic.loss_new": np.zeros(1)}))
    report = reports_of(small_set)["losses_only.npz"]
    assert report.unchecked == ["basic.loss_new"]
    assert "NOT CHECKED: 1 (basic.loss_new)" in report.line()


def test_an_array_without_a_tolerance_is_reported(small_set: Path) -> None:
    tolerances = json.loads((small_set / "tolerances.json").read_text())
    tolerances["rules"] = [rule for rule in tolerances["rules"] if "*.loss_*" not in rule["arrays"]]
    (small_set / "tolerances.json").write_text(json.dumps(tolerances))
    assert "basic.loss_dice" in reports_of(small_set)["losses_only.npz"].unchecked


def test_files_that_cannot_run_are_shown_and_do_not_count_as_passed(small_set: Path) -> None:
    shutil.copy(CORE / "torch_release" / "forward_eval_A.npz", small_set)
    (small_set / "novelty_A.npz").write_bytes(b"?")
    reports = reports_of(small_set)
    assert reports["forward_eval_A.npz"].not_run == "weights_A.npz is missing"
    assert reports["novelty_A.npz"].not_run == "no check for this kind of file"
    for name in ("forward_eval_A.npz", "novelty_A.npz"):
        assert not reports[name].passed and not reports[name].failed
        assert reports[name].line().startswith("not run")
    assert reports["losses_only.npz"].passed


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 truncated", b"no archive"])
def test_a_damaged_file_fails_and_the_others_still_run(small_set: Path, content: bytes) -> None:
    (small_set / "metrics.npz").write_bytes(content)
    reports = reports_of(small_set)
    assert reports["metrics.npz"].failed and "cannot be read" in reports["metrics.npz"].failure
    assert reports["losses_only.npz"].passed


def test_an_unsupported_configuration_fails_with_its_reason(small_set: Path) -> None:
    for name in ("forward_eval_A.npz", "weights_A.npz"):
        shutil.copy(CORE / "torch_release" / name, small_set)

    def edit(arrays: dict[str, np.ndarray]) -> None:
        values = json.loads(str(arrays["config_json"])) | {"M": 5}
        arrays["config_json"] = np.array(json.dumps(values))

    change(small_set / "weights_A.npz", edit)
    report = reports_of(small_set)["forward_eval_A.npz"]
    assert report.failed and "no square grid" in report.failure


def test_both_releases_are_found_from_their_parent_or_alone() -> None:
    assert [folder.path.name for folder in golden_folders(CORE)] == ["torch_release", "jseg_release"]
    for name in ("torch_release", "jseg_release"):
        assert [folder.path.name for folder in golden_folders(CORE / name)] == [name]


def test_user_errors(tmp_path: Path, small_set: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        golden_folders(tmp_path / "nowhere")
    (small_set / "losses_only.npz").unlink()
    with pytest.raises(UserError, match="no file of a known kind"):
        golden_folders(small_set)
    (small_set / "tolerances.json").unlink()
    with pytest.raises(UserError, match="tolerances"):
        golden_folders(small_set)
