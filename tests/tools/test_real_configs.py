"""The paper's configs on small replicas of the data sets: prepare, check, train a few steps, evaluate, draw.

Only sizes are overridden; folders, lists, label files, splits, losses and the way from run to run are the configs' own.
"""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.replicas import make_ade20k, make_coco_stuff, make_context, make_voc12
from tests.tools.tiny_runs import REPOSITORY
from tools import check_dataset, run_net

SIZES = [
    "data.crop_size=(64, 64)", "data.resize_box=(256, 64)", "data.workers=0", "model.image_size=64", "model.width=32",
    "model.layers=2", "model.heads=2", "model.output_dim=16", "model.prompts=2", "model.region_grid=2",
    "model.decoder_layers=1", "model.decoder_heads=2", "text.width=32", "text.layers=1", "text.heads=2",
    "text.context_length=32", "text.vocabulary=generated", "model.init=random", "train.batch_size=2",
    "test.short_side=64", "test.crop_size=(64, 64)", "test.stride=(48, 48)", "expected={}",
]  # fmt: skip
FIRST = ["train.iterations=2", "train.milestones=(1,)"]
START = ["train.iterations=1", "train.expected_iteration=1"]


def prepared(data_set: str, folder: Path) -> Path:
    """Makes a replica, prepares it as a user would, and returns its root."""
    makers = {"voc12": make_voc12, "context": make_context, "coco_stuff": make_coco_stuff, "ade20k": make_ade20k}
    replica = makers[data_set](folder)
    if data_set == "ade20k":  # read as it is downloaded
        return replica.root
    flags = {"voc12": "--sbd", "context": "--mat"}
    rest = [flags[data_set], str(replica.sources)] if data_set in flags else []
    tool = importlib.import_module(f"tools.prepare_{data_set}")
    assert tool.main([str(replica.root), "--workers", "0", *rest]) == 0
    return replica.root


def run(config: str, task: str, work_dir: Path, root: Path, *rest: str) -> int:
    arguments = ["--config-file", str(REPOSITORY / "configs" / f"{config}.py"), "--task", task, "--no-cuda"]
    return run_net.main([*arguments, "--work-dir", str(work_dir), *rest, *SIZES, f"data.root={root}"])


@pytest.mark.parametrize("data_set, classes", [("voc12", 20), ("coco_stuff", 171), ("context", 59)])
def test_from_files_to_metrics(data_set: str, classes: int, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = prepared(data_set, tmp_path)
    config = REPOSITORY / "configs" / f"{data_set}_inductive.py"
    assert check_dataset.main(["--config-file", str(config), "--allow-partial", f"data.root={root}"]) == 0

    inductive = tmp_path / "inductive"
    assert run(f"{data_set}_inductive", "train", inductive, root, *FIRST) == 0
    assert "warning: the effective batch is 2, the recipe's is 16" in capsys.readouterr().out
    assert run(f"{data_set}_inductive", "val", inductive, root, "--resume", *FIRST) == 0
    metrics = json.loads((inductive / "metrics.json").read_text())
    assert len(metrics["IoU"]) == classes and metrics["mIoU(U)"] is not None
    assert ("(split A)" in capsys.readouterr().out) == (data_set == "context")
    assert run(f"{data_set}_inductive", "test", inductive, root, "--resume", *FIRST) == 0
    assert len(list((inductive / "images").glob("*_overlay.png"))) >= 6

    start = str(inductive / "checkpoint_0000001.safetensors")
    transductive = tmp_path / "transductive"
    assert run(f"{data_set}_transductive", "train", transductive, root, "--weights", start, *START) == 0
    assert run(f"{data_set}_transductive", "val", transductive, root, "--resume", *START) == 0
    assert json.loads((transductive / "metrics.json").read_text())["hIoU"] is not None

    supervised = tmp_path / "supervised"
    assert run(f"{data_set}_supervised", "train", supervised, root, "train.iterations=1") == 0
    assert run(f"{data_set}_supervised", "val", supervised, root, "--resume") == 0


def test_trained_on_coco_stuff_evaluated_on_the_others(tmp_path: Path) -> None:
    coco = prepared("coco_stuff", tmp_path / "coco")
    weights = str(tmp_path / "coco_run" / "weights.safetensors")
    assert run("coco_stuff_inductive", "train", tmp_path / "coco_run", coco, "train.iterations=1") == 0
    for data_set, classes in (("voc12", 20), ("context", 59), ("ade20k", 150)):
        root, work_dir = prepared(data_set, tmp_path / data_set), tmp_path / f"cross_{data_set}"
        assert run(f"cross_coco_to_{data_set}", "val", work_dir, root, "--weights", weights) == 0
        metrics = json.loads((work_dir / "metrics.json").read_text())
        assert len(metrics["IoU"]) == classes and metrics["mIoU(U)"] is None and metrics["mIoU(S)"] is not None


def test_ade20k_is_checked_as_it_is_unpacked(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = prepared("ade20k", tmp_path)
    check = ["--config-file", "cross_coco_to_ade20k", f"data.root={root}", "cross_dataset=False"]
    assert check_dataset.main(check) == 1
    assert "ade20k train has 8 images, the published runs 20,210" in capsys.readouterr().out
    assert check_dataset.main([*check, "--allow-partial"]) == 0
    assert "    1  wall  " in (shown := capsys.readouterr().out) and "  150  flag  " in shown
    for path in (root / "annotations" / "validation").iterdir():
        Image.fromarray(np.array(Image.open(path)) - np.uint8(1)).save(path)  # as reduce_zero_label: 0 -> 255
    assert check_dataset.main([*check, "--allow-partial"]) == 1
    assert "label values 255 are not in the class list of ade20k; label PNGs are those of" in capsys.readouterr().out
