"""Tests of tools/reproduce.py on a tiny suite of drawn shapes: trains, measures, resumes, says what is missing."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from jseg import reproduction
from jseg.errors import UserError
from jseg.reproduction import SUITES, Places, Row, Suite, missing_for_evaluation, missing_for_training
from jseg.weights.reader import read_weight_file
from tests.tools.tiny_runs import TINY, run_net

TOOL = Path(__file__).resolve().parents[2] / "tools" / "reproduce.py"


def load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reproduce", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reproduce = load_tool()


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A suite of an inductive row, a transductive one that starts from its half-way weights, and one of other data."""
    inductive = TINY + 'train |= dict(iterations=2, save_every=1, milestones=(1,))\nexpected = {"pAcc": [50, 50]}\n'
    (tmp_path / "inductive.py").write_text(inductive)
    (tmp_path / "transductive.py").write_text(
        'base = "inductive.py"\ndata = dict(setting="transductive")\n'
        'train = dict(iterations=1, milestones=(), expected_iteration=1, expected_weights="the inductive run")\n'
        'expected = {"mIoU(S)": [99, 0.5]}\n'
    )
    rows = (
        Row("first", str(tmp_path / "inductive.py"), seeds=(0, 1)),
        Row("second", str(tmp_path / "transductive.py"), start="first"),
        Row("third", "voc12_supervised.py", (f"model.init={tmp_path}/ViT-B-16.pt",)),
    )
    monkeypatch.setitem(SUITES, "tiny", Suite("tiny", rows))
    return tmp_path


def arguments(folder: Path, *rest: str) -> list[str]:
    return ["--suite", "tiny", "--checkpoints", str(folder / "runs"), "--no-cuda", *rest]


def table(folder: Path) -> dict:
    return json.loads((folder / "runs" / "results" / "tiny.json").read_text())


def test_whole_recipe_then_nothing_is_done_twice(tiny: Path, capfd: pytest.CaptureFixture) -> None:
    """Two seeds of the first row, the second from a kept checkpoint of the first, which misses its number."""
    assert reproduce.main(arguments(tiny, "--rows", "first,second", "--train")) == 1
    shown = capfd.readouterr().out
    assert "check failed: mIoU(S)" in shown and "**missed**" in shown
    first, second = table(tiny)["rows"]
    assert first["sources"] == ["seed_0", "seed_1"] and second["sources"] == ["seed_0"]
    accuracy = first["comparisons"][0]
    assert accuracy["passed"] and accuracy["std"] is not None and len(accuracy["values"]) == 2
    assert "| shapes, transductive | 1 |" in (tiny / "runs" / "results" / "tiny.md").read_text()

    again = arguments(tiny, "--rows", "first,second", "--train")
    assert reproduce.main(again) == 1
    shown = capfd.readouterr().out
    assert "$ python" not in shown and shown.count("on record in") == 3

    folder = tiny / "runs" / "results" / "first" / "seed_1"
    (folder / "record.json").write_text("{")  # cut off
    assert reproduce.main(arguments(tiny, "--rows", "first")) == 0
    assert capfd.readouterr().out.count("$ python") == 1 and (folder / "metrics.json").exists()
    shutil.rmtree(folder)
    (tiny / "inductive.py").write_text((tiny / "inductive.py").read_text() + "test |= dict(gamma=0.3)\n")
    assert reproduce.main(arguments(tiny, "--rows", "first")) == 0
    assert capfd.readouterr().out.count("$ python") == 2  # another gamma: the other seed is measured again, too

    # an interrupted training goes on; a file from elsewhere is a row of its own
    (tiny / "runs" / "first" / "seed_1" / "weights.safetensors").rename(tiny / "runs" / "first.safetensors")
    assert reproduce.main(arguments(tiny, "--rows", "first", "--train")) == 0
    shown = capfd.readouterr().out
    assert "--resume" in shown and "newest whole checkpoint" in shown
    assert [row["given"] for row in table(tiny)["rows"]] == [False, True]


def test_what_is_missing_is_told_with_the_command(tiny: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(UserError, match="3 of 3 rows could not be measured"):
        reproduce.main(arguments(tiny, "--data-root", str(tiny / "data")))
    shown = capsys.readouterr().out
    assert f"JPEGImages, SegmentationClass, ImageSets/Segmentation/val.txt in {tiny / 'data' / 'VOC2012'}" in shown
    assert f"python tools/prepare_voc12.py {tiny / 'data' / 'VOC2012'} " in shown
    assert "first/seed_0/weights.safetensors, or a released file as" in shown
    assert "the same command with --rows first,second --train" in shown
    assert set(table(tiny)["missing"]) == {"first", "second", "third"}


def test_training_says_what_it_lacks(tiny: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(UserError, match="second, third"):
        reproduce.main(arguments(tiny, "--rows", "second,third", "--train", "--data-root", str(tiny / "data")))
    shown = capsys.readouterr().out
    assert f"checkpoint to start from: {tiny}/runs/first/seed_0/checkpoint_0000001.safetensors" in shown
    assert "SegmentationClassAug, ImageSets/Segmentation/trainaug.txt" in shown
    assert "fetch_pretrained.py ViT-B-16" in shown


def test_a_failed_evaluation_is_no_result(tiny: Path, capfd: pytest.CaptureFixture) -> None:
    (tiny / "runs").mkdir()
    (tiny / "runs" / "first.pth").write_bytes(b"no weights at all")
    with pytest.raises(UserError, match="1 of 1 rows"):
        reproduce.main(arguments(tiny, "--rows", "first"))
    shown = capfd.readouterr()
    assert "the evaluation failed" in shown.out and "error: weight file" in shown.err


def test_rows_are_listed(capsys: pytest.CaptureFixture) -> None:
    assert reproduce.main(["--list"]) == 0
    shown = capsys.readouterr().out
    assert "voc12_inductive " in shown and "cross_coco_to_context " in shown


@pytest.mark.parametrize(
    "rest, match",
    [
        (["--rows", "fisrt"], "'fisrt' is no row of suite tiny: did you mean 'first'"),
        (["--seeds", "1,a", "--train"], "whole numbers"),
        (["--seeds=-1", "--train"], "0 or more"),
        (["--seeds", "1"], "goes with --train"),
    ],
)
def test_mistakes(tiny: Path, rest: list[str], match: str) -> None:
    with pytest.raises(UserError, match=match):
        reproduce.main(arguments(tiny, *rest))


def test_the_shipped_clip_is_all_that_suite_shapes_needs(tmp_path: Path) -> None:
    suite, places = SUITES["shapes"], Places(None, tmp_path)
    for row in suite.rows:
        if row.trains and not row.start:
            assert missing_for_training(row, 0, suite, places) == []
        if not row.trains:
            assert missing_for_evaluation(row, suite, places) == []


def test_seeds_are_counted_or_named() -> None:
    assert (
        reproduce.seeds_of("3") == [0, 1, 2] and reproduce.seeds_of("2,0") == [0, 2] and reproduce.seeds_of("1,") == [1]
    )
    assert reproduce.seeds_of("") == []


@pytest.fixture
def own(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A benchmark of our own in `tiny`: two rows that train in seconds, and CLIP as it is. Runs stay in this process.

    Returns:
        The arguments of every run of run_net, as they come.
    """
    (tiny / "no_regions.py").write_text('base = "inductive.py"\nmodel = dict(region_grid=0)\nexpected = {}\n')
    few = ("data.shapes.val_scenes=2", "data.workers=0")
    rows = (
        Row("plain", "shapes_value_path.py", (*few, "expected={}"), title="CLIP alone"),
        Row("first", str(tiny / "inductive.py"), seeds=(0, 1), title="with regions"),
        Row("second", str(tiny / "no_regions.py"), seeds=(0, 1), title="without regions"),
    )
    monkeypatch.setitem(SUITES, "own", Suite("own", rows, published=False))
    calls: list[list[str]] = []

    def run(arguments: list[str]) -> int:
        calls.append(arguments)
        if len(calls) == INTERRUPTED_CALL:
            raise KeyboardInterrupt
        return run_net.main(arguments)

    monkeypatch.setattr(reproduction, "run_net", run)
    return calls


INTERRUPTED_CALL = 7  # the training of the second seed of the second row
SEEDS = {"plain": ["clip"], "first": ["seed_0", "seed_1"], "second": ["seed_0", "seed_1"]}


def trained(calls: list[list[str]]) -> list[str]:
    """Row and seed of the training runs among `calls`."""
    folders = [Path(call[call.index("--work-dir") + 1]) for call in calls if "train" in call]
    return [f"{folder.parent.name} {folder.name}" for folder in folders]


def test_a_benchmark_of_our_own_trains_seed_by_seed_and_goes_on_after_an_interruption(tiny: Path, own: list) -> None:
    call = ["--suite", "own", "--checkpoints", str(tiny / "runs"), "--no-cuda"]
    with pytest.raises(KeyboardInterrupt):
        reproduce.main(call)
    assert trained(own) == ["first seed_0", "second seed_0", "first seed_1", "second seed_1"]
    folder = tiny / "runs" / "results"
    rows = json.loads((folder / "own.json").read_text())["rows"]
    assert {row["row"]: row["sources"] for row in rows} == {name: found[:1] for name, found in SEEDS.items()}

    assert reproduce.main(call) == 0
    assert trained(own)[4:] == ["second seed_1"]
    rows = json.loads((folder / "own.json").read_text())["rows"]
    assert {row["row"]: row["sources"] for row in rows} == SEEDS
    accuracy = rows[1]["comparisons"][0]
    assert len(accuracy["values"]) == 2
    table = (folder / "own.md").read_text()
    assert "| row | n | pAcc | mIoU(S) | mIoU(U) | hIoU | as expected |" in table
    assert f"| with regions | 2 | {accuracy['mean']:.1f} ± {accuracy['std']:.1f} (50.0) |" in table
    assert table.splitlines()[2].startswith("| CLIP alone | 1 |") and "| yes |" in table
    before = len(own)
    assert reproduce.main([*call, "--no-train"]) == 0
    assert len(own) == before  # everything is on record
    recorded, other = (read_weight_file(tiny / "runs" / "second" / f"seed_{n}" / "weights.safetensors") for n in (0, 1))
    name = "decode_head.q_proj.weight"
    assert np.abs(recorded.tensors[name] - other.tensors[name]).max() > 0.01  # the seed changes the run
    assert recorded.meta["config"]["model"]["region_grid"] == 0  # a checkpoint knows its configuration
    (tiny / "no_regions.py").write_text('base = "inductive.py"\nmodel = dict(region_grid=0)\nloss = dict(mask=3.0)\n')
    with pytest.raises(UserError, match=r"another recipe than second is now \(loss\.mask="):
        reproduce.main(call)
    (tiny / "runs" / "second" / "seed_0" / "weights.safetensors").unlink()  # as if the training had been stopped
    with pytest.raises(UserError, match=r"checkpoint_\d+\.safetensors was trained by another recipe than second"):
        reproduce.main(call)
