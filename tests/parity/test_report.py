"""The parity report: tolerances, and what it notices: wrong numbers, unknown arrays and files, broken checks."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jseg.errors import UserError
from jseg.parity.report import FileReport, check_set, error_over_tolerance, find_rule, golden_files, read_rules

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
    return {report.name: report for report in check_set(folder, device)}


def test_a_set_passes_and_says_how_far_it_is_off(small_set: Path) -> None:
    (report,) = reports_of(small_set).values()
    assert report.passed and not report.failed and not report.unchecked
    assert 0 < max(report.excess.values()) < 1
    assert report.line().startswith("ok")


@pytest.mark.parametrize("device, error, fails", [("cpu", 3e-5, True), ("cuda", 3e-5, False), ("cuda", 3e-4, True)])
def test_a_number_over_its_tolerance_fails(small_set: Path, device: str, error: float, fails: bool) -> None:
    def edit(arrays: dict[str, np.ndarray]) -> None:
        arrays["basic.loss_dice"] = arrays["basic.loss_dice"] * np.float32(1 + error)

    change(small_set / "losses_only.npz", edit)
    report = reports_of(small_set, device)["losses_only.npz"]
    assert report.failed == fails
    assert max(report.excess, key=report.excess.get) == "basic.loss_dice"
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


def test_files_that_no_check_can_read_are_reported(small_set: Path) -> None:
    shutil.copy(CORE / "torch_release" / "forward_eval_A.npz", small_set)
    for name in ("novelty_A.npz", "train_batch_B.npz"):
        (small_set / name).write_bytes(b"?")
    reports = reports_of(small_set)
    assert reports["forward_eval_A.npz"].not_run == "weights_A.npz is missing"
    for name in ("novelty_A.npz", "train_batch_B.npz"):
        assert reports[name].not_run == "not checked: no check reads this file"
    for name in ("forward_eval_A.npz", "novelty_A.npz", "train_batch_B.npz"):
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


def test_the_set_is_found_from_its_parent() -> None:
    assert golden_files(CORE) == golden_files(CORE / "torch_release")


def test_user_errors(tmp_path: Path, small_set: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        golden_files(tmp_path / "nowhere")
    (small_set / "losses_only.npz").unlink()
    with pytest.raises(UserError, match="no file of a known kind"):
        golden_files(small_set)


REFERENCE = np.array([1.0, -2.0, 4.0])


@pytest.mark.parametrize(
    "limits, ours, expected",
    [
        ({"atol": 0.1}, [1.05, -2.0, 4.0], 0.5),
        ({"rtol": 0.1}, [1.0, -2.4, 4.0], 2.0),
        ({"atol": 0.1, "rtol": 0.1}, [1.0, -2.0, 4.5], 1.0),
        ({"rtol_of_max": 0.01}, [1.02, -2.0, 4.0], 0.5),
        ({"max_abs": 8.0}, [1.0, -2.0, 4.0], 0.5),
        ({"mismatch_fraction": 0.5}, [1.0, -2.0, 5.0], 2 / 3),
        ({"atol_times_sum_lr": 2.0}, [1.3, -2.0, 4.0], 0.5),
        ({"exact": True}, [1.0, -2.0, 4.0], 0.0),
        ({"exact": True}, [1.0, -2.0, 4.0001], math.inf),
        ({"atol": 0.1}, [math.nan, -2.0, 4.0], math.inf),
        ({"atol": 0.1}, [math.inf, -2.0, 4.0], math.inf),
        ({"max_abs": 8.0}, [math.nan, 0.0, 0.0], math.inf),
        ({"atol": 0.1}, [1.0, -2.0], math.inf),
    ],
)
def test_error_over_tolerance(limits: dict, ours: list[float], expected: float) -> None:
    assert error_over_tolerance(limits, np.array(ours), REFERENCE, sum_lr=0.3) == pytest.approx(expected)


def test_more_is_allowed_on_fast_math_devices_but_not_where_equality_is_asked() -> None:
    ours = REFERENCE + 0.05
    assert error_over_tolerance({"atol": 0.1}, ours, REFERENCE, factor=10) == pytest.approx(0.05)
    assert error_over_tolerance({"exact": True}, ours, REFERENCE, factor=10) == math.inf


def test_special_values() -> None:
    special = np.array([math.nan, math.inf, -math.inf, 0.0])
    assert error_over_tolerance({"rtol": 1e-3}, special, special) == 0
    assert error_over_tolerance({"rtol": 1e-3}, np.array([0.0, 1e-30]), np.array([0.0, 0.0])) == math.inf
    assert error_over_tolerance({"rtol_of_max": 1e-3}, np.zeros(3), np.zeros(3)) == 0
    assert error_over_tolerance({"atol": 1.0}, np.array(["a"]), np.array(["b"])) == math.inf
    assert error_over_tolerance({"atol": 1.0}, np.zeros((0, 2)), np.zeros((0, 2))) == 0


def test_the_first_matching_rule_decides(tmp_path: Path) -> None:
    path = tmp_path / "tolerances.json"
    rules = [
        {"files": "train_*", "arrays": ["grad.*.bias"], "max_abs": 1.0, "note": "why"},
        {"files": "train_*", "arrays": ["grad.*"], "rtol_of_max": 0.1},
    ]
    path.write_text(json.dumps({"about": "…", "rules": rules}))
    read = read_rules(path)
    assert find_rule(read, "train_full_A", "grad.x.bias")["max_abs"] == 1.0
    assert find_rule(read, "train_full_A", "grad.x.weight")["rtol_of_max"] == 0.1
    assert find_rule(read, "forward_eval_A", "grad.x.weight") is None


@pytest.mark.parametrize("rules", ["{", '{"rules": [{"files": "*", "arrays": ["*"], "atoll": 1}]}', "{}"])
def test_bad_tolerances_are_user_errors(tmp_path: Path, rules: str) -> None:
    (tmp_path / "tolerances.json").write_text(rules)
    with pytest.raises(UserError, match=r"tolerances\.json"):
        read_rules(tmp_path / "tolerances.json")


def test_missing_tolerances_are_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is missing"):
        read_rules(tmp_path / "tolerances.json")
