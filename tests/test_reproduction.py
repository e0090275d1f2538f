"""Published numbers beside ours: arithmetic, verdicts, tables."""

import csv
import json
from pathlib import Path

import pytest

from jseg.reproduction import PAPER, SUITES, Metrics, Plan, Row, compare, row_results
from jseg.reproduction_tables import csv_table, latex, markdown


def metrics(unseen: float | None) -> Metrics:
    return {"pAcc": 95.5, "mIoU(S)": 92.0, "mIoU(U)": unseen, "hIoU": 88.0}


def row(name: str) -> Row:
    return next(row for row in PAPER if row.name == name)


@pytest.mark.parametrize("values, expected, mean, std, passed", [
    ([88.0, 90.0, 86.0], {"hIoU": [88.4, 0.5]}, 88.0, 2.0, True),
    ([87.8], {"hIoU": [88.4, 0.5]}, 87.8, None, False), ([87.8], {}, 87.8, None, None),
    ([80.0, None], {"hIoU": [84.4, 3.0]}, None, None, False),  # an undefined number misses any published one
    ([None], {}, None, None, None),
])  # fmt: skip
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
    assert markdown([result]).splitlines()[2] == "| context (split B), inductive | 1 | 95.5 | 92.0 | - | 88.0 |  |  |"


def test_other_methods_stand_below_ours_whether_or_not_ours_was_measured() -> None:
    """Numbers typed from the papers' tables of base models."""
    published = {
        "CAT-Seg-B": (31.8, 57.5, 94.6), "SED-B": (31.8, 57.7, 94.4), "MAFT+-B": (34.6, 57.5, 95.4), "OTSeg": (21.9,),
    }  # fmt: skip
    first, *rows = SUITES["open-vocabulary"]
    assert [row.name for row in rows] == ["A-150", "PC-59", "PAS-20"] and not first.others
    for place, item in enumerate(rows):
        ours, *others = row_results(item, {"seed_0": metrics(None) | {"mIoU": 30.25}})
        assert row_results(item, {}) == others and item.weights_of == first.name
        shown = [[line["title"], [x["mean"] for x in line["comparisons"]], line["sources"]] for line in (ours, *others)]
        values = {method: means[place] for method, means in published.items() if place < len(means)}
        expected = [[f"{item.name}: {method}", [None, value], []] for method, value in values.items()]
        assert shown == [[f"{item.name}: CLIP-RC", [95.5, 30.25], ["seed_0"]], *expected]
    lines = markdown([*row_results(row("voc12_inductive"), {"seed_0": metrics(84.4)}), ours, *others]).splitlines()
    assert lines[0] == "| row | n | pAcc | mIoU(S) | mIoU(U) | hIoU | mIoU | as expected | records |"
    assert lines[3] == "| PAS-20: CLIP-RC | 1 | 95.5 |  |  |  | 30.2 |  |  |"
    assert lines[4] == "| PAS-20: CAT-Seg-B | published | - |  |  |  | 94.6 |  |  |"


def test_tables_to_hand_on() -> None:
    results = row_results(row("voc12_inductive"), {"seed_0": metrics(70.0), "seed_1": metrics(74.0)})
    results[0] |= {"title": "50 % of a_b & c", "records": {"seed_0": "a b/record.json", "training of seed_0": "../r"}}
    shown = markdown(results).splitlines()[2]
    assert shown.endswith("| **missed**: mIoU(U) | [seed_0](<a b/record.json>), [training of seed_0](<../r>) |")
    assert latex(results) == (
        "% <!-- jseg -->\n\\begin{tabular}{lrrrrrl}\n"
        "row & n & pAcc & mIoU(S) & mIoU(U) & hIoU & as expected \\\\\n\\hline\n"
        "50 \\% of a\\_b \\& c & 2 & 95.5 $\\pm$ 0.0 (95.8) & 92.0 $\\pm$ 0.0 (92.8) & 72.0 $\\pm$ 2.8 (84.4) & "
        "88.0 $\\pm$ 0.0 (88.4) & missed: mIoU(U) \\\\\n\\end{tabular}\n"
    )
    head, line = csv.reader(csv_table(results).splitlines())
    found = dict(zip(head, line, strict=True))
    assert (found["row (jseg)"], found["title"], found["n"]) == ("voc12_inductive", "50 % of a_b & c", "2")
    assert float(found["mIoU(U) std"]) == pytest.approx(8**0.5) and found["mIoU(U) published"] == "84.4"
    assert found["mIoU(U) tolerance"] == "3.0" and found["mIoU(U)"] == "72.0" and len(head) == 3 + 4 * 4


@pytest.mark.parametrize("suite", SUITES.values(), ids=SUITES)
def test_suites_name_what_is_there(suite: tuple[Row, ...]) -> None:
    names = [row.name for row in suite]
    assert len(set(names)) == len(names)
    for place, item in enumerate(suite):
        config = item.read()
        assert not item.start or item.start in names[:place]
        assert not item.weights_of or item.weights_of in names[:place]
        assert bool(item.start) == (config.data.setting == "transductive" and not item.weights_of)


def test_the_plan_estimates_then_goes_by_measured_steps(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """9 and 14 TFLOP a step of VOC and COCO-Stuff: at 10 TFLOP/s 40,000 and 80,000 of them take 10.0 and 31.1 h."""
    runs = {tmp_path / name / "seed_0": row(name).read() for name in ("voc12_inductive", "coco_stuff_inductive")}
    (done := tmp_path / "voc12_supervised" / "seed_0").mkdir(parents=True)
    (done / "weights.safetensors").touch()
    plan = Plan({**runs, done: row("voc12_supervised").read()})
    shown = capsys.readouterr().out
    assert "2 training runs: 8.6 GB of disk" in shown and "voc12_supervised" not in shown
    assert "voc12_inductive, seed_0: 40,000 steps, 10.0 h\n" in shown
    assert "coco_stuff_inductive, seed_0: 80,000 steps, 31.1 h\ntraining: 41.1 h on a GPU" in shown
    run = next(iter(runs))
    run.mkdir(parents=True)
    for iteration, step, expected in (
        (2049, 9.0, ""),  # 49 steps after it was resumed
        (2050, 0.5, "voc12_inductive, seed_0: 37,950 steps, 5.3 h\ncoco_stuff_inductive, seed_0: 80,000 steps, 17.3 h\n"
                    "training: 22.6 h at 0.500 s a step, measured in voc12_inductive\n"),
        (2100, 9.0, ""),  # once is enough
    ):  # fmt: skip
        line = {"event": "train", "iteration": iteration, "step": step}
        (run / "log.jsonl").write_text(json.dumps(line))
        plan.watch(run, 2000)
        assert capsys.readouterr().out == expected
