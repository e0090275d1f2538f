"""Rules of tolerances.json: what they measure, which one applies, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from jseg.errors import UserError
from jseg.parity.tolerances import Rule, find_rule, read_tolerances


def rule(**limits: float | bool) -> Rule:
    return Rule("*", ("*",), **limits)


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
def test_excess(limits: dict, ours: list[float], expected: float) -> None:
    assert rule(**limits).excess(np.array(ours), REFERENCE, sum_lr=0.3) == pytest.approx(expected)


def test_more_is_allowed_on_fast_math_devices_but_not_where_equality_is_asked() -> None:
    ours = REFERENCE + 0.05
    assert rule(atol=0.1).excess(ours, REFERENCE, factor=10) == pytest.approx(0.05)
    assert rule(exact=True).excess(ours, REFERENCE, factor=10) == math.inf


def test_special_values() -> None:
    special = np.array([math.nan, math.inf, -math.inf, 0.0])
    assert rule(rtol=1e-3).excess(special, special) == 0
    assert rule(rtol=1e-3).excess(np.array([0.0, 1e-30]), np.array([0.0, 0.0])) == math.inf
    assert rule(rtol_of_max=1e-3).excess(np.zeros(3), np.zeros(3)) == 0
    assert rule(atol=1.0).excess(np.array(["a"]), np.array(["b"])) == math.inf
    assert rule(atol=1.0).excess(np.zeros((0, 2)), np.zeros((0, 2))) == 0


def test_the_first_matching_rule_decides(tmp_path: Path) -> None:
    path = tmp_path / "tolerances.json"
    rules = [
        {"files": "train_*", "arrays": ["grad.*.bias"], "max_abs": 1.0, "note": "why"},
        {"files": "train_*", "arrays": ["grad.*"], "rtol_of_max": 0.1},
    ]
    path.write_text(json.dumps({"about": "…", "rules": rules}))
    read = read_tolerances(path)
    assert find_rule(read, "train_full_A", "grad.x.bias").max_abs == 1.0
    assert find_rule(read, "train_full_A", "grad.x.weight").rtol_of_max == 0.1
    assert find_rule(read, "forward_eval_A", "grad.x.weight") is None


@pytest.mark.parametrize("rules", ["{", '{"rules": [{"files": "*", "arrays": ["*"], "atoll": 1}]}', "{}"])
def test_bad_tolerances_are_user_errors(tmp_path: Path, rules: str) -> None:
    (tmp_path / "tolerances.json").write_text(rules)
    with pytest.raises(UserError, match=r"tolerances\.json"):
        read_tolerances(tmp_path / "tolerances.json")


def test_missing_tolerances_are_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is missing"):
        read_tolerances(tmp_path / "tolerances.json")
