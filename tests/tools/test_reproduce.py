"""Tests of tools/reproduce.py on a tiny suite of drawn shapes: trains, measures, resumes, says what is missing."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jseg import reproduction
from jseg.errors import UserError
from jseg.reproduction import SUITES, Row, missing
from jseg.weights.reader import read_weight_file
from tests.tools.tiny_runs import TINY, run_net
from tools import reproduce

INTERRUPTED_CALL = 5  # of run_net: the training of the second seed


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A suite: CLIP as it is, an inductive row, a transductive one from its half-way weights, one of other data."""
    inductive = TINY + 'train |= dict(iterations=2, save_every=1, milestones=(1,))\nexpected = {"pAcc": [50, 50]}\n'
    (tmp_path / "inductive.py").write_text(inductive)
    (tmp_path / "transductive.py").write_text(
        'base = "inductive.py"\ndata = dict(setting="transductive")\n'
        'train = dict(iterations=1, milestones=(), expected_iteration=1, expected_weights="the inductive run")\n'
        'expected = {"mIoU(S)": [99, 0.5]}\n'
    )
    few = ("data.shapes.val_scenes=2", "data.workers=0", "expected={}")
    rows = (
        Row("plain", "shapes_value_path.py", few, title="CLIP alone"),
        Row("first", str(tmp_path / "inductive.py"), seeds=(0, 1)),
        Row("second", str(tmp_path / "transductive.py"), start="first"),
        Row("third", "voc12_supervised.py", (f"model.init={tmp_path}/ViT-B-16.pt",)),
    )
    monkeypatch.setitem(SUITES, "tiny", rows)
    return tmp_path


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The arguments of all runs of run_net, which stay in this process; one of them is interrupted."""
    found: list[list[str]] = []

    def run(tool: str, arguments: list[str], meanwhile: Callable = lambda: None) -> int:
        if tool != "run_net":  # a plan of downloads
            return 0
        found.append(arguments)
        if len(found) == INTERRUPTED_CALL:
            raise KeyboardInterrupt
        try:
            return run_net.main(arguments)
        except UserError as error:
            print(error)
            return 2

    monkeypatch.setattr(reproduction, "run_tool", run)
    return found


def reproduce_tiny(folder: Path, *rest: str) -> int:
    return reproduce.main(["--suite", "tiny", "--checkpoints", str(folder / "runs"), "--no-cuda", *rest])


def rows_of_table(folder: Path) -> dict[str, dict]:
    rows = json.loads((folder / "runs" / "results" / "tiny.json").read_text())["rows"]
    return {row["row"] + (" given" if row["given"] else ""): row for row in rows}


def test_whole_recipe_interrupted_and_nothing_done_twice(
    tiny: Path, calls: list, capsys: pytest.CaptureFixture
) -> None:
    """Seed by seed; the second row starts from a kept checkpoint of the first, and misses its number."""
    chosen = ("--rows", "plain,first,second")
    with pytest.raises(KeyboardInterrupt):
        reproduce_tiny(tiny, *chosen)
    assert [call[call.index("--task") + 1] for call in calls] == ["train", "train", "val", "val", "val"]
    calls.clear()
    shutil.rmtree(tiny / "runs" / "results")
    calls.extend([[]] * INTERRUPTED_CALL)  # nothing is interrupted any more
    assert reproduce_tiny(tiny, *chosen) == 1
    found = rows_of_table(tiny)
    sources = {name: row["sources"] for name, row in found.items()}
    assert sources == {"plain": ["clip"], "first": ["seed_0", "seed_1"], "second": ["seed_0"]}
    accuracy = found["first"]["comparisons"][0]
    assert accuracy["passed"] and accuracy["std"] is not None and len(accuracy["values"]) == 2
    table = (tiny / "runs" / "results" / "tiny.md").read_text()
    assert f"| shapes, inductive | 2 | {accuracy['mean']:.1f} ± {accuracy['std']:.1f} (50.0) |" in table
    assert table.splitlines()[3].startswith("| CLIP alone | 1 |") and "**missed**: mIoU(S)" in table

    done = len(calls)
    capsys.readouterr()
    assert reproduce_tiny(tiny, *chosen, "--no-train") == 1
    assert len(calls) == done and capsys.readouterr().out.count("on record in") == 4
    one, other = (read_weight_file(tiny / "runs" / "first" / f"seed_{n}" / "weights.safetensors") for n in (0, 1))
    name = "decode_head.q_proj.weight"
    assert np.abs(one.tensors[name] - other.tensors[name]).max() > 0  # the seed changes the run

    folder = tiny / "runs" / "results" / "first" / "seed_1"
    (folder / "record.json").unlink()
    assert reproduce_tiny(tiny, "--rows", "first", "--no-train") == 0
    assert len(calls) == done + 1
    more = "test |= dict(gamma=0.3)\ntrain |= dict(eval_every=1)\n"
    (tiny / "inductive.py").write_text((tiny / "inductive.py").read_text() + more)
    assert reproduce_tiny(tiny, "--rows", "first", "--no-train") == 0
    assert len(calls) == done + 3  # another gamma: both seeds are measured again; evaluations change no weights

    # an interrupted training goes on; a file from elsewhere is a row of its own
    (tiny / "runs" / "first" / "seed_1" / "weights.safetensors").rename(tiny / "runs" / "first.safetensors")
    assert reproduce_tiny(tiny, "--rows", "first") == 0
    assert sum("--resume" in call for call in calls) == 1
    assert list(rows_of_table(tiny)) == ["first", "first given"]
    (tiny / "inductive.py").write_text((tiny / "inductive.py").read_text() + "optimizer |= dict(lr=2e-4)\n")
    with pytest.raises(UserError, match=r"another config .optimizer.lr 0.0001 -> 0.0002"):
        reproduce_tiny(tiny, "--rows", "first")


def test_what_is_missing_is_told_with_the_command(tiny: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(UserError, match="3 of 3 rows could not be measured"):
        reproduce_tiny(tiny, "--rows", "first,second,third", "--no-train", "--data-root", str(tiny / "data"))
    shown = capsys.readouterr().out
    assert f"JPEGImages, SegmentationClass, ImageSets/Segmentation/val.txt in {tiny / 'data' / 'VOC2012'}" in shown
    assert f"python tools/fetch_dataset.py voc12 --root {tiny / 'data'}\n" in shown
    assert "first/seed_0/weights.safetensors, or a released file" in shown
    assert "the same command with --rows first,second --train" in shown

    with pytest.raises(UserError, match="second, third"):
        reproduce_tiny(tiny, "--rows", "second,third", "--train", "--data-root", str(tiny / "data"))
    shown = capsys.readouterr().out
    assert f"checkpoint to start from: {tiny}/runs/first/seed_0/checkpoint_0000001.safetensors" in shown
    assert "/train.txt, SegmentationClassAug, ImageSets/Segmentation/aug.txt in" in shown
    assert "fetch_pretrained.py ViT-B-16" in shown


@pytest.mark.parametrize("rest, match", [
    (["--rows", "fisrt"], "'fisrt' is no row of suite tiny: did you mean 'first'"),
    (["--seeds", "1,a"], "whole numbers"), (["--seeds=-1"], "0 or more"),
    (["--seeds", "1", "--no-train"], "goes with --train"),
    (["--report", "/dev/null/page.html"], "folder /dev/null cannot be written"),
])  # fmt: skip
def test_mistakes(tiny: Path, rest: list[str], match: str) -> None:
    with pytest.raises(UserError, match=match):
        reproduce_tiny(tiny, *rest)


def test_the_shipped_clip_is_all_that_suite_shapes_needs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert reproduce.main(["--suite", "shapes", "--list"]) == 0
    assert "shapes_1_region " in capsys.readouterr().out
    for row in SUITES["shapes"]:
        assert row.start or missing(row, tmp_path, None if row.read().test.training_free else 0) == []
