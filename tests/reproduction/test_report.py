"""Published numbers beside ours: arithmetic, verdicts, tables."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest

from jseg.reproduction.needs import Missing
from jseg.reproduction.report import compare, markdown, missing_lines, row_results, write
from jseg.reproduction.runs import Measurement
from jseg.reproduction.suites import PAPER, SUITES


def measurement(source: str, unseen: float | None, row: str = "voc12_inductive") -> Measurement:
    metrics = {"pAcc": 95.5, "mIoU(S)": 92.0, "mIoU(U)": unseen, "hIoU": 88.0}
    return Measurement(row, source, metrics, "0" * 64)


def test_mean_spread_and_difference() -> None:
    result = compare("hIoU", [88.0, 90.0, 86.0], {"hIoU": [88.4, 0.5]})
    assert (result.mean, result.std, result.passed) == (88.0, 2.0, True)
    assert result.difference == pytest.approx(-0.4)
    assert compare("hIoU", [87.8], {"hIoU": [88.4, 0.5]}).passed is False
    single = compare("hIoU", [87.8], {})
    assert (single.std, single.published, single.difference, single.passed) == (None, None, None, None)


def test_an_undefined_number_misses_a_published_one() -> None:
    result = compare("mIoU(U)", [80.0, None], {"mIoU(U)": [84.4, 3.0]})
    assert (result.mean, result.passed) == (None, False)
    assert compare("mIoU(U)", [None], {}).passed is None


def test_seeds_are_put_together_and_a_given_file_is_apart() -> None:
    row = PAPER.row("voc12_inductive")
    measured = [measurement("seed_0", 80.0), measurement("seed_1", 84.0), measurement("given", 84.4)]
    ours, given = row_results(row, measured)
    assert ours.sources == ["seed_0", "seed_1"] and not ours.given and given.given
    unseen = next(item for item in ours.comparisons if item.metric == "mIoU(U)")
    assert (unseen.mean, unseen.values, unseen.passed) == (82.0, [80.0, 84.0], True)
    lines = markdown([ours, given]).splitlines()
    assert "| voc12_inductive: voc12, inductive | mIoU(U) | 84.4 | 82.0 ± 2.8 | -2.4 | 3.0 | 2 | ok |" in lines
    assert "| voc12_inductive (given file): voc12, inductive | mIoU(U) | 84.4 | 84.4 | +0.0 | 3.0 | 1 | ok |" in lines
    assert len(lines) == 2 + 8


def test_the_split_is_named_and_nothing_published_is_a_dash() -> None:
    (result,) = row_results(PAPER.row("context_B_inductive"), [measurement("seed_0", None, "context_B_inductive")])
    lines = markdown([result]).splitlines()
    assert lines[2] == "| context_B_inductive: context (split B), inductive | pAcc | - | 95.5 | - | - | 1 |  |"
    assert "| mIoU(U) | - | - | - | - | 1 |" in lines[4]


def test_a_thing_that_several_rows_lack_is_told_once() -> None:
    item = Missing("CLIP weights: a.pt", "python tools/fetch_pretrained.py ViT-B-16")
    lines = missing_lines({"first": [item], "second": [item, Missing("x", "y")]})
    assert lines[0] == "missing CLIP weights: a.pt (for first, second)" and lines[1].strip() == item.command
    assert len(lines) == 4


def test_files(tmp_path: Path) -> None:
    results = row_results(PAPER.row("voc12_inductive"), [measurement("seed_0", 70.0)])
    paths = write(results, {"voc12_supervised": [Missing("x", "y")]}, PAPER, tmp_path)
    assert [path.name for path in paths][:2] == ["paper.md", "paper.json"]
    assert "**missed**" in paths[0].read_text() and "missing x (for voc12_supervised)" in paths[0].read_text()
    content = json.loads(paths[1].read_text())
    assert content["rows"][0]["comparisons"][2]["passed"] is False and content["missing"]["voc12_supervised"]


def test_bars(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    results = row_results(PAPER.row("voc12_inductive"), [measurement("seed_0", 70.0), measurement("seed_1", None)])
    *_, path = write(results, {}, PAPER, tmp_path)
    assert path.read_bytes()[:4] == b"\x89PNG"


def test_rows_of_our_own_benchmark(tmp_path: Path) -> None:
    """A line for each row; what was missed is told; bars of the rows."""
    names = ("shapes_inductive", "shapes_neither")
    found = [
        measurement("seed_0", 1.0, names[0]),
        measurement("seed_1", 3.0, names[0]),
        measurement("given", 5.0, names[1]),
    ]
    results = [result for name in names for result in row_results(SUITES["shapes"].row(name), found)]
    inductive = replace(results[0], comparisons=[compare("pAcc", [95.5, 95.5], {"pAcc": [1, 2]})])
    lines = markdown([inductive, *results[1:]], published=False).splitlines()
    assert lines[2] == "| CLIP-RC, inductive | 2 | 95.5 ± 0.0 | **missed**: pAcc 1.0 within 2.0 |"
    neither = SUITES["shapes"].row(names[1]).title
    assert lines[3].startswith(f"| {neither} (given file) | 1 | 95.5 | 92.0 | 5.0 | 88.0 |")
    assert "| CLIP-RC, inductive | 2 | 95.5 ± 0.0 | 92.0 ± 0.0 | 2.0 ± 1.4 | 88.0 ± 0.0 |" in markdown(results, False)
    if importlib.util.find_spec("matplotlib"):
        *_, path = write(results, {}, SUITES["shapes"], tmp_path)
        assert path.name == "shapes.png" and path.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("suite", SUITES.values(), ids=SUITES)
def test_suites_name_what_is_there(suite: object) -> None:
    names = [row.name for row in suite.rows]
    assert len(set(names)) == len(names)
    for place, row in enumerate(suite.rows):
        config = row.read()
        assert not row.start or row.start in names[:place]
        assert not row.weights_of or (row.weights_of in names[:place] and config.cross_dataset)
        assert bool(row.start) == (config.data.setting == "transductive")
