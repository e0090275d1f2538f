"""tools/check_dataset.py on prepared replicas of the three data sets, right and deliberately wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jseg.data.class_names import IGNORED, voc_palette
from jseg.errors import UserError
from tests.replicas import make_coco_stuff, make_context, make_voc12, save_list, save_palette_png
from tools import check_dataset, prepare_coco_stuff, prepare_context, prepare_voc12

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
Check = Callable[..., tuple[int, str]]
SERIAL = ["--workers", "0", "--allow-partial"]


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> Check:
    """Runs the tool on a part of a data set: exit code and what it says."""

    def run(config: str, *arguments: object) -> tuple[int, str]:
        capsys.readouterr()
        options = ["--config-file", str(CONFIGS / f"{config}.py"), *map(str, arguments)]
        return check_dataset.main(options), capsys.readouterr().out

    return run


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """A prepared VOC 2012 aug."""
    replica = make_voc12(tmp_path)
    assert prepare_voc12.main([str(replica.root), "--sbd", str(replica.sbd), *SERIAL]) == 0
    return replica.root


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """A prepared COCO-Stuff."""
    replica = make_coco_stuff(tmp_path)
    assert prepare_coco_stuff.main([str(replica.root), *SERIAL]) == 0
    return replica.root


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A prepared PASCAL Context."""
    replica = make_context(tmp_path)
    assert prepare_context.main([str(replica.root), "--mat", str(replica.mat_files), *SERIAL]) == 0
    return replica.root


def rewrite(folder: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Changes the stored values of every label map in a folder."""
    for path in folder.glob("*.png"):
        with Image.open(path) as image:
            stored = np.array(image)
        save_palette_png(path, change(stored))


def test_prepared_voc_passes(voc: Path, check: Check) -> None:
    code, shown = check("voc12_inductive", "--allow-partial", f"data.root={voc}")
    lines = shown.splitlines()
    assert code == 0 and lines[-1] == "nothing wrong was found" and f"voc12: {voc}" in lines
    assert "train: 10 pairs, 10 of them read" in lines and "val: 8 pairs, 8 of them read" in lines
    stored = np.stack([np.array(Image.open(path)) for path in (voc / "SegmentationClass").glob("2009*.png")])
    row = next(line for line in lines if "sofa (unseen)" in line).split()
    maps = (stored == 18).any((1, 2)).sum()
    assert row[0] == "18" and row[-2:] == [f"{100 * (stored == 18).mean():.3f}", str(maps)]


def test_a_part_of_the_data_set_is_found_unless_allowed(voc: Path, check: Check) -> None:
    code, shown = check("voc12_inductive", f"data.root={voc}")
    assert code == 1 and "train has 10 images, the published runs 10,582 (--allow-partial" in shown
    assert shown.endswith("2 faults\n")


def test_prepared_coco_and_context_pass(coco: Path, context: Path, check: Check) -> None:
    assert check("coco_stuff_inductive", "--allow-partial", f"data.root={coco}")[0] == 0
    options = ("--allow-partial", "--fraction", 0.5, "data.split=B", f"data.root={context}")
    code, shown = check("context_inductive", *options)
    assert code == 0 and "context (split B): " in shown and "train: 6 pairs, 3 of them read" in shown


def test_labels_shifted_by_one(voc: Path, context: Path, check: Check) -> None:
    for folder in ("SegmentationClass", "SegmentationClassAug"):
        rewrite(voc / folder, lambda stored: np.where((stored == 0) | (stored == 255), 255, stored - 1))
    code, shown = check("voc12_inductive", "--allow-partial", f"data.root={voc}")
    assert code == 1 and "labels are shifted by one: 0 (background) is in" in shown
    rewrite(context / "SegmentationClassContext", lambda stored: np.where(stored == 0, IGNORED, stored - 1))
    code, shown = check("context_inductive", "--allow-partial", f"data.root={context}")
    assert code == 1 and "labels are shifted by one: 0 (background) is in" in shown


def test_missing_rgb_encoded_and_unconverted_labels(voc: Path, coco: Path, check: Check) -> None:
    for path in (voc / "SegmentationClass").glob("2009*.png"):
        Image.fromarray(voc_palette(256)[np.array(Image.open(path))]).save(path)
    save_list(voc / "ImageSets" / "Segmentation" / "trainaug.txt", [f"n{index}" for index in range(15)])
    code, shown = check("voc12_inductive", "--allow-partial", f"data.root={voc}")
    assert code == 1 and "found: val: 8-bit RGB PNG, labels must be palette or" in shown and "and 10 more" in shown
    assert "found: train: missing; tools/prepare_voc12.py makes the masks" in shown
    code, shown = check("coco_stuff_inductive", "--allow-partial", f"data.root={coco}", "data.train.label_suffix=.png")
    assert code == 1 and "not in the class list of coco_stuff; tools/prepare_coco_stuff.py makes" in shown


def test_cross_data_set_configs_have_val_only(voc: Path, context: Path, check: Check) -> None:
    for name, root in (("voc12", voc), ("context", context)):
        code, shown = check(f"cross_coco_to_{name}", "--allow-partial", f"data.root={root}")
        assert code == 0 and name in shown.splitlines()[0] and "train:" not in shown


def test_user_errors(voc: Path, tmp_path: Path, check: Check) -> None:
    for arguments, words in (
        ((f"data.root={tmp_path}",), "JPEGImages does not exist"),
        ((f"data.root={voc}", "data.train.names=nothing.txt"), "nothing.txt does not exist.*tools/prepare_voc12.py"),
        ((f"data.root={voc}", "data.train.labels=nothing"), "folder.*tools/prepare_voc12.py"),
        ((f"data.root={voc}", "--fraction", 0), "--fraction 0.0: must be above 0"),
        ((f"data.root={voc}", "data.train.images=", "data.val.images="), "names no files to check"),
    ):
        with pytest.raises(UserError, match=words):
            check("voc12_inductive", *arguments)
    code, shown = check("shapes_demo")
    assert code == 0 and "no files to check" in shown
