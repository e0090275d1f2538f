"""The parity report: tolerances, and what it notices: wrong numbers, unknown arrays and files, broken checks."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jseg.errors import UserError
from jseg.parity.report import FileReport, check_set, error_over_tolerance

CORE = Path(__file__).parents[1] / "golden" / "torch_release"


@pytest.fixture
def small_set(tmp_path: Path) -> Path:
    """A set of one file that is computed in no time."""
    for name in ("tolerances.json", "losses_only.npz"):
        shutil.copy(CORE / name, tmp_path)
    return tmp_path


def change(path: Path, edit: Callable[[dict[str, np.ndarray]], object]) -> None:
    """Rewrites an .npz after `edit` has changed its arrays."""
    arrays = dict(np.load(path))
    edit(arrays)
    np.savez(path, **arrays)


def reports_of(folder: Path, device: str = "cpu") -> dict[str, FileReport]:
    return {report.name: report for report in check_set(folder, device)}


@pytest.mark.parametrize(
    "device, error, fails", [("cpu", 0, False), ("cpu", 3e-5, True), ("cuda", 3e-5, False), ("cuda", 3e-4, True)]
)
def test_a_number_over_its_tolerance_fails(small_set: Path, device: str, error: float, fails: bool) -> None:
    def edit(arrays: dict[str, np.ndarray]) -> None:
        arrays["basic.loss_dice"] = arrays["basic.loss_dice"] * np.float32(1 + error)

    change(small_set / "losses_only.npz", edit)
    (report,) = reports_of(small_set, device).values()
    assert (report.failed, report.passed) == (fails, not fails) and not report.unchecked
    assert max(report.excess.values()) > 0
    assert not error or max(report.excess, key=report.excess.get) == "basic.loss_dice"
    assert report.line().startswith("FAILED" if fails else "ok")


def test_arrays_without_a_check_or_a_tolerance_are_reported(small_set: Path) -> None:
    change(small_set / "losses_only.npz", lambda arrays: arrays.update({"basic.loss_new": np.zeros(1)}))
    report = reports_of(small_set)["losses_only.npz"]
    assert report.unchecked == ["basic.loss_new"] and "NOT CHECKED: basic.loss_new" in report.line()
    tolerances = json.loads((small_set / "tolerances.json").read_text())
    tolerances["rules"] = [rule for rule in tolerances["rules"] if "*.loss_*" not in rule["arrays"]]
    (small_set / "tolerances.json").write_text(json.dumps(tolerances))
    assert "basic.loss_dice" in reports_of(small_set)["losses_only.npz"].unchecked


def test_files_that_no_check_can_use_are_reported_and_the_others_still_run(small_set: Path) -> None:
    for name in ("forward_eval_A.npz", "forward_eps_A.npz", "weights_A.npz"):
        shutil.copy(CORE / name, small_set)
    shutil.copy(CORE / "forward_eval_A.npz", small_set / "forward_eval_B.npz")
    for name in ("novelty_A.npz", "metrics.npz"):
        (small_set / name).write_bytes(b"PK\x03\x04 truncated")

    def edit(arrays: dict[str, np.ndarray]) -> None:
        arrays["config_json"] = np.array(json.dumps(json.loads(str(arrays["config_json"])) | {"K": 5}))

    change(small_set / "weights_A.npz", edit)
    reports = reports_of(small_set)
    assert reports["forward_eval_B.npz"].not_run == "weights_B.npz is missing"
    assert reports["novelty_A.npz"].not_run == "not checked: no check reads this file"
    for name in ("forward_eval_B.npz", "novelty_A.npz"):
        assert not reports[name].passed and not reports[name].failed and reports[name].line().startswith("not run")
    assert reports["metrics.npz"].failed
    assert reports["forward_eval_A.npz"].failed and "other shape" in reports["forward_eval_A.npz"].failure
    assert reports["losses_only.npz"].passed


def test_a_folder_without_golden_files_is_a_user_error(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="no golden file"):
            next(check_set(folder))


REFERENCE = np.array([1.0, -2.0, 4.0])
SPECIAL = np.array([math.nan, math.inf, -math.inf, 0.0])


@pytest.mark.parametrize("limits, ours, reference, expected", [
    ({"atol": 0.1}, [1.05, -2.0, 4.0], REFERENCE, 0.5), ({"rtol": 0.1}, [1.0, -2.4, 4.0], REFERENCE, 2.0),
    ({"atol": 0.1, "rtol": 0.1}, [1.0, -2.0, 4.5], REFERENCE, 1.0),
    ({"rtol_of_max": 0.01}, [1.02, -2.0, 4.0], REFERENCE, 0.5),
    ({"max_abs": 8.0}, [1.0, -2.0, 4.0], REFERENCE, 0.5),
    ({"mismatch_fraction": 0.5}, [1.0, -2.0, 5.0], REFERENCE, 2 / 3),
    ({"atol_times_sum_lr": 2.0}, [1.3, -2.0, 4.0], REFERENCE, 0.5),
    ({"exact": True}, [1.0, -2.0, 4.0], REFERENCE, 0.0),
    ({"exact": True}, [1.0, -2.0, 4.0001], REFERENCE, math.inf),
    ({"atol": 0.1}, [math.nan, -2.0, 4.0], REFERENCE, math.inf),
    ({"atol": 0.1}, [math.inf, -2.0, 4.0], REFERENCE, math.inf),
    ({"max_abs": 8.0}, [math.nan, 0.0, 0.0], REFERENCE, math.inf),
    ({"atol": 0.1}, [1.0, -2.0], REFERENCE, math.inf), ({"rtol": 1e-3}, SPECIAL, SPECIAL, 0),
    ({"rtol": 1e-3}, [0.0, 1e-30], [0.0, 0.0], math.inf),
    ({"rtol_of_max": 1e-3}, [0.0, 0.0], [0.0, 0.0], 0), ({"atol": 1.0}, ["a"], ["b"], math.inf),
    ({"atol": 1.0}, [], [], 0), ({}, [1.0, -2.0, 4.0001], REFERENCE, math.inf),
])  # fmt: skip
def test_error_over_tolerance(limits: dict, ours: list, reference: list, expected: float) -> None:
    found = error_over_tolerance(limits, np.array(ours), np.array(reference), sum_lr=0.3)
    assert found == pytest.approx(expected)
