"""The configs of the built-in data set: what each row changes, and that its header says how it is run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from jseg.config import flatten, read_config, to_dict
from jseg.reproduction import SUITES

FOLDER = Path(__file__).parents[1] / "configs"
CHANGES = {  # of shapes_inductive, besides what they expect
    "transductive": {"data.setting": "transductive", "train.iterations": None, "train.expected_iteration": None,
                     "train.expected_weights": None, "train.milestones": []},
    "supervised": {"data.setting": "supervised", "loss.recovery": 0.0, "train.milestones": []},
    "short": {"train.iterations": 600, "train.milestones": []},
    "patch_features": {"test.training_free": "patch_features"},
    "value_path": {"test.training_free": "value_path"},
    "class_token": {"test.training_free": "class_token"},
}  # fmt: skip
ABLATIONS = {  # changes of shapes_short
    "no_regions": {"model.region_grid": 0},
    "no_recovery": {"loss.recovery": 0.0},
    "neither": {"model.region_grid": 0, "loss.recovery": 0.0},
    "1_region": {"model.region_grid": 1},
    "4_regions": {"model.region_grid": 2},
    "recovery_3": {"model.recovery_layers": 3},
}
ROWS = ["inductive", *CHANGES, *ABLATIONS]


@pytest.mark.parametrize("name", [*CHANGES, *ABLATIONS])
def test_a_row_changes_one_thing(name: str) -> None:
    configs = (read_config(FOLDER / f"shapes_{row}.py") for row in ("inductive" if name in CHANGES else "short", name))
    base, found = (flatten(to_dict(replace(config, expected={}))) for config in configs)
    changed = {key: value for key, value in found.items() if value != base[key]}
    expected = {**CHANGES, **ABLATIONS}[name]
    assert changed.keys() == {key for key, value in expected.items() if value is None or value != base[key]}
    assert all(value is None or changed[key] == value for key, value in expected.items() if key in changed)


def test_every_row_is_in_the_suite_and_expects_numbers_that_could_be_missed() -> None:
    rows = [row.name for row in SUITES["shapes"]]
    assert sorted(rows) == sorted(f"shapes_{name}" for name in ROWS)
    assert {path.stem for path in FOLDER.glob("shapes_*.py")} == {*rows, "shapes_demo"}
    for name in (*rows, "shapes_demo"):
        expected = read_config(FOLDER / f"{name}.py").expected
        assert tuple(expected) == ("pAcc", "mIoU(S)", "mIoU(U)", "hIoU")
        assert all(0 < tolerance < value for value, tolerance in expected.values())
