"""Published numbers beside ours: arithmetic, verdicts, tables."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from jseg.reproduction import PAPER, SUITES, Metrics, Missing, compare, markdown, missing_lines, row_results, write


def metrics(unseen: float | None) -> Metrics:
    return {"pAcc": 95.5, "mIoU(S)": 92.0, "mIoU(U)": unseen, "hIoU": 88.0}


def test_mean_and_spread() -> None:
    result = compare("hIoU", [88.0, 90.0, 86.0], {"hIoU": [88.4, 0.5]})
    assert (result.mean, result.std, result.passed) == (88.0, 2.0, True)
    assert compare("hIoU", [87.8], {"hIoU": [88.4, 0.5]}).passed is False
    single = compare("hIoU", [87.8], {})
    assert (single.std, single.published, single.passed) == (None, None, None)


def test_an_undefined_number_misses_a_published_one() -> None:
    result = compare("mIoU(U)", [80.0, None], {"mIoU(U)": [84.4, 3.0]})
    assert (result.mean, result.passed) == (None, False)
    assert compare("mIoU(U)", [None], {}).passed is None


def test_seeds_are_put_together_and_a_given_file_is_apart() -> None:
    row = PAPER.row("voc12_inductive")
    ours, given = row_results(row, {"seed_0": metrics(80.0), "seed_1": metrics(84.0), "given": metrics(84.4)})
    assert ours.sources == ["seed_0", "seed_1"] and not ours.given and given.given
    unseen = next(item for item in ours.comparisons if item.metric == "mIoU(U)")
    assert (unseen.mean, unseen.values, unseen.passed) == (82.0, [80.0, 84.0], True)
    lines = markdown([ours, given]).splitlines()
    assert "| voc12, inductive | 2 | " in lines[2] and "| 82.0 ± 2.8 (84.4) |" in lines[2]
    assert "| voc12, inductive (given file) | 1 | " in lines[3] and "| 84.4 (84.4) |" in lines[3]
    assert len(lines) == 2 + 2


def test_the_split_is_named_and_an_undefined_number_is_a_dash() -> None:
    (result,) = row_results(PAPER.row("context_B_inductive"), {"seed_0": metrics(None)})
    assert markdown([result]).splitlines()[2] == "| context (split B), inductive | 1 | 95.5 | 92.0 | - | 88.0 |  |"


def test_a_thing_that_several_rows_lack_is_told_once() -> None:
    item = Missing("CLIP weights: a.pt", "python tools/fetch_pretrained.py ViT-B-16")
    lines = missing_lines({"first": [item], "second": [item, Missing("x", "y")]})
    assert lines[0] == "missing CLIP weights: a.pt (for first, second)" and lines[1].strip() == item.command
    assert len(lines) == 4


def test_files(tmp_path: Path) -> None:
    results = row_results(PAPER.row("voc12_inductive"), {"seed_0": metrics(70.0)})
    paths = write(results, {"voc12_supervised": [Missing("x", "y")]}, PAPER, tmp_path)
    assert [path.name for path in paths] == ["paper.md", "paper.json"]
    assert "**missed**" in paths[0].read_text() and "missing x (for voc12_supervised)" in paths[0].read_text()
    content = json.loads(paths[1].read_text())
    assert content["rows"][0]["comparisons"][2]["passed"] is False and content["missing"]["voc12_supervised"]


def test_what_was_missed_stands_in_its_row() -> None:
    (row,) = row_results(SUITES["shapes"].row("shapes_inductive"), {"seed_0": metrics(1.0), "seed_1": metrics(3.0)})
    expected = {"pAcc": [1, 2], "hIoU": [88, 1]}
    row = replace(row, comparisons=[compare(name, [95.5, 95.5], expected) for name in ("pAcc", "mIoU(S)")])
    assert (
        markdown([row]).splitlines()[2]
        == "| CLIP-RC, inductive | 2 | 95.5 ± 0.0 (1.0) | 95.5 ± 0.0 | **missed**: pAcc |"
    )


@pytest.mark.parametrize("suite", SUITES.values(), ids=SUITES)
def test_suites_name_what_is_there(suite: object) -> None:
    names = [row.name for row in suite.rows]
    assert len(set(names)) == len(names)
    for place, row in enumerate(suite.rows):
        config = row.read()
        assert not row.start or row.start in names[:place]
        assert not row.weights_of or (row.weights_of in names[:place] and config.cross_dataset)
        assert bool(row.start) == (config.data.setting == "transductive")
