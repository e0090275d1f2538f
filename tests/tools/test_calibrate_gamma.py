"""Tests of tools/calibrate_gamma.py: the sweep against plain evaluations, and what it refuses."""

import json
from pathlib import Path

import pytest

from jseg.errors import UserError
from tests.tools.tiny_runs import TINY, run_net
from tools import calibrate_gamma

HELD_OUT = 'data.held_out=("red dotted square", "green checked cross", "blue dotted cross")'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny config and two short runs of it: one with held-out classes, one without."""
    path = tmp_path_factory.mktemp("calibration")
    (path / "tiny.py").write_text(TINY)
    for name, rest in (("held", [HELD_OUT]), ("plain", [])):
        arguments = ["--config-file", str(path / "tiny.py"), "--work-dir", str(path / name), "--no-cuda"]
        assert run_net.main([*arguments, "train.iterations=2", *rest]) == 0
    return path


def arguments(folder: Path, run: str, *rest: str) -> list[str]:
    weights = str(folder / run / "weights.safetensors")
    return ["--config-file", str(folder / "tiny.py"), "--weights", weights, "--no-cuda", *rest]


def test_the_sweep_equals_evaluations_one_by_one(folder: Path, capsys: pytest.CaptureFixture) -> None:
    """12 scenes of val: every gamma's numbers are those that run_net gives for it."""
    calibrate_gamma.main(arguments(folder, "held", "--split", "val", "data.shapes.val_scenes=12"))
    shown = capsys.readouterr().out
    result = json.loads((folder / "held" / "gamma.json").read_text())
    assert [item["gamma"] for item in result["results"][::4]] == [0, 0.1, 0.2, 0.3, 0.4, 0.5]
    assert "published" in shown and f"chosen: test.gamma={result['chosen']:g} (published: 0.1)" in shown
    assert "red dotted square" in shown
    best = max(item["hIoU"] for item in result["results"])
    assert best == next(item["hIoU"] for item in result["results"] if item["gamma"] == result["chosen"])
    for item in result["results"][:12:4]:
        run_net.main(
            ["--config-file", str(folder / "tiny.py"), "--work-dir", str(folder / "held"), "--no-cuda", "--task", "val"]
            + ["--resume", HELD_OUT, "data.shapes.val_scenes=12", f"test.gamma={item['gamma']}"]
        )
        metrics = json.loads((folder / "held" / "metrics.json").read_text())
        for key in ("pAcc", "mIoU(S)", "mIoU(U)", "hIoU"):
            assert item[key] == pytest.approx(metrics[key], abs=0.02)  # the rounding of `sigmoid - gamma`


@pytest.mark.parametrize("run, rest, match", [
    ("plain", [], r"was not trained with held-out classes.*data\.held_out=\"\('"),
    ("held", ['data.held_out=("red dotted square",)'], "other unseen classes"),
    ("held", ["data.setting=transductive"], "gamma has no effect"),
    ("held", ["test.flip=True", "data.shapes.train_scenes=2"], "one view"),
    ("held", ["data.shapes.train_scenes=1", "data.shapes.objects=(1,1)"], "show no held-out"),
])  # fmt: skip
def test_what_is_refused(folder: Path, run: str, rest: list[str], match: str) -> None:
    with pytest.raises(UserError, match=match):
        calibrate_gamma.main(arguments(folder, run, *rest))
