"""Published numbers beside ours: arithmetic, verdicts, tables."""

from __future__ import annotations

import pytest

from jseg.reproduction import PAPER, SUITES, Metrics, Row, compare, markdown, row_results


def metrics(unseen: float | None) -> Metrics:
    return {"pAcc": 95.5, "mIoU(S)": 92.0, "mIoU(U)": unseen, "hIoU": 88.0}


def row(name: str) -> Row:
    return next(row for row in PAPER if row.name == name)


@pytest.mark.parametrize(
    "values, expected, mean, std, passed",
    [
        ([88.0, 90.0, 86.0], {"hIoU": [88.4, 0.5]}, 88.0, 2.0, True),
        ([87.8], {"hIoU": [88.4, 0.5]}, 87.8, None, False),
        ([87.8], {}, 87.8, None, None),
        ([80.0, None], {"hIoU": [84.4, 3.0]}, None, None, False),  # an undefined number misses any published one
        ([None], {}, None, None, None),
    ],
)
def test_mean_spread_and_verdict(
    values: list[float | None], expected: dict, mean: float | None, std: float | None, passed: bool | None
) -> None:
    found = compare("hIoU", values, expected)
    assert (found["mean"], found["std"], found["passed"]) == (mean, std, passed)


def test_seeds_are_put_together_and_a_given_file_is_apart() -> None:
    results = row_results(
        row("voc12_inductive"), {"seed_0": metrics(70.0), "seed_1": metrics(74.0), "given": metrics(84.4)}
    )
    assert [(result["sources"], result["given"]) for result in results] == [
        (["seed_0", "seed_1"], False), (["given"], True)
    ]  # fmt: skip
    lines = markdown(results).splitlines()
    assert "| voc12, inductive | 2 | " in lines[2] and "| 72.0 ± 2.8 (84.4) |" in lines[2]
    assert "**missed**" in lines[2] and "mIoU(U)" in lines[2].rpartition("**")[2]
    assert "| voc12, inductive (given file) | 1 | " in lines[3] and "| 84.4 (84.4) |" in lines[3]
    assert len(lines) == 2 + 2


def test_the_split_is_named_and_an_undefined_number_is_a_dash() -> None:
    (result,) = row_results(row("context_B_inductive"), {"seed_0": metrics(None)})
    assert markdown([result]).splitlines()[2] == "| context (split B), inductive | 1 | 95.5 | 92.0 | - | 88.0 |  |"


@pytest.mark.parametrize("suite", SUITES.values(), ids=SUITES)
def test_suites_name_what_is_there(suite: tuple[Row, ...]) -> None:
    names = [row.name for row in suite]
    assert len(set(names)) == len(names)
    for place, item in enumerate(suite):
        config = item.read()
        assert not item.start or item.start in names[:place]
        assert not item.weights_of or (item.weights_of in names[:place] and config.cross_dataset)
        assert bool(item.start) == (config.data.setting == "transductive")
