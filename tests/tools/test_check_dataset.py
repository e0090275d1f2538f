"""tools/check_dataset.py on prepared replicas of the three data sets, right and deliberately wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jseg.data.class_names import IGNORED, voc_palette
from jseg.data_preparation import coco_stuff, context, voc12
from tests.replicas import make_coco_stuff, make_context, make_voc12, save_list, save_palette_png

REPOSITORY = Path(__file__).resolve().parents[2]
TOOL = REPOSITORY / "tools" / "check_dataset.py"
CONFIGS = REPOSITORY / "configs"
VOC_CONFIG = CONFIGS / "voc12_inductive.py"


def check(config: Path, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(TOOL), "--config-file", str(config), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def found(result: subprocess.CompletedProcess, *words: str) -> None:
    """Exit code 1, and the words in what it says."""
    assert result.returncode == 1 and not result.stderr, result.stdout + result.stderr
    assert all(word in result.stdout for word in words), result.stdout


def passed(result: subprocess.CompletedProcess) -> None:
    assert result.returncode == 0 and "nothing wrong was found" in result.stdout, result.stdout + result.stderr


def refused(result: subprocess.CompletedProcess, *words: str) -> None:
    assert result.returncode == 2 and result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert all(word in result.stderr for word in words), result.stderr


def rewrite(folder: Path, pattern: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Changes the stored values of every label map in a folder."""
    for path in folder.glob(pattern):
        with Image.open(path) as image:
            stored = np.array(image)
        save_palette_png(path, change(stored))


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """A prepared VOC 2012 aug."""
    replica = make_voc12(tmp_path)
    assert voc12.prepare(replica.root, replica.sbd, workers=0, allow_partial=True) == 0
    return replica.root


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """A prepared COCO-Stuff."""
    replica = make_coco_stuff(tmp_path)
    assert coco_stuff.prepare(replica.root, workers=0, allow_partial=True) == 0
    return replica.root


@pytest.fixture
def context_set(tmp_path: Path) -> Path:
    """A prepared PASCAL Context."""
    replica = make_context(tmp_path)
    assert context.prepare(replica.root, replica.mat_files, workers=0, allow_partial=True) == 0
    return replica.root


def check_voc(root: Path, *arguments: object) -> subprocess.CompletedProcess:
    return check(VOC_CONFIG, "--allow-partial", *arguments, f"data.root={root}")


def check_coco(root: Path, *arguments: object) -> subprocess.CompletedProcess:
    return check(CONFIGS / "coco_stuff_inductive.py", "--allow-partial", *arguments, f"data.root={root}")


def check_context(root: Path, *arguments: object) -> subprocess.CompletedProcess:
    return check(CONFIGS / "context_inductive.py", "--allow-partial", *arguments, f"data.root={root}")


def test_prepared_voc_passes(voc: Path) -> None:
    result = check_voc(voc)
    passed(result)
    lines = result.stdout.splitlines()
    assert "train: 10 pairs (published: 10,582), 10 of them read" in lines and f"voc12: {voc}" in lines
    assert "  unseen classes present: 5 of 5 (pottedplant, sheep, sofa, train, tvmonitor)" in lines
    assert "  label PNGs: 10 palette" in lines and "  pictures from 96x72 to 96x72 pixels" in lines
    assert "note: voc12 val has 8 pictures, the published runs have 1,449" in lines
    with Image.open(voc / "SegmentationClass" / "2009_000001.png") as image:
        size = image.size[0] * image.size[1]
    stored = [np.array(Image.open(path)) for path in (voc / "SegmentationClass").glob("2009*.png")]
    share, maps = (
        sum((labels == 18).sum() for labels in stored) / size / 8,
        sum((labels == 18).any() for labels in stored),
    )
    row = next(line for line in lines if "sofa (unseen)" in line).split()
    assert row[0] == "18" and row[-2:] == [f"{100 * share:.3f}", str(maps)]


def test_a_part_of_the_data_set_is_found_unless_allowed(voc: Path) -> None:
    found(check(VOC_CONFIG, f"data.root={voc}"), "train has 10 pictures, the published runs have 10,582", "2 findings")


def test_prepared_coco_and_context_pass(coco: Path, context_set: Path) -> None:
    passed(check_coco(coco))
    result = check_context(context_set, "--fraction", 0.5, "data.split=B")
    passed(result)
    assert "context (split B): " in result.stdout and "train: 6 pairs (published: 4,998), 3 of them" in result.stdout


def test_labels_shifted_by_one(voc: Path) -> None:
    for folder in ("SegmentationClass", "SegmentationClassAug"):
        rewrite(voc / folder, "*.png", lambda stored: np.where((stored == 0) | (stored == 255), 255, stored - 1))
    found(check_voc(voc), "labels are shifted by one: 0 is in", "aeroplane is stored as 0")
    for folder in ("SegmentationClass", "SegmentationClassAug"):  # and two up: background has become class 0
        rewrite(voc / folder, "*.png", lambda stored: np.where(stored == 255, 1, np.minimum(stored + 2, 20)))
    found(check_voc(voc), "background is counted as class 0 (aeroplane)")


def test_aug_masks_missing(voc: Path) -> None:
    for path in (voc / "SegmentationClassAug").glob("2008*.png"):
        path.unlink()
    why = "6 of the missing masks in SegmentationClassAug are SBD's, which VOC itself lacks: tools/prepare_voc12.py"
    found(check_voc(voc), "label map missing: 6", why, str(voc / "SegmentationClassAug" / "2008_000004.png"))
    why = "6 of the missing masks in SegmentationClass are SBD's, which VOC itself lacks"
    found(check_voc(voc, "data.train.labels=SegmentationClass"), why)  # the folder is there, the masks are not


def test_masks_of_train_missing_because_only_sbd_was_converted(voc: Path) -> None:
    (voc / "SegmentationClassAug" / "2007_000002.png").unlink()
    found(check_voc(voc), "1 of the missing masks in SegmentationClassAug are in SegmentationClass")


def test_rgb_encoded_labels(voc: Path) -> None:
    for path in (voc / "SegmentationClass").glob("2009*.png"):
        Image.fromarray(voc_palette(256)[np.array(Image.open(path))]).save(path)
    found(check_voc(voc), "RGB-encoded label map: 8", "2009_000001.png (8-bit RGB PNG, labels must be palette or")


def test_coco_ids_not_converted(coco: Path) -> None:
    result = check_coco(coco, "data.train.label_suffix=.png")
    found(result, "these are the ids of stuffthingmaps, not converted", "NOT IN THE CLASS LIST", "1 findings")
    assert "found: label values 171, 172, 173, 174, 175, 176, 177, 178 and 3 more (over 8 label maps)" in result.stdout


def test_coco_labels_missing(coco: Path) -> None:
    for path in coco.glob("annotations/val2017/*_labelTrainIds.png"):
        path.unlink()
    found(check_coco(coco), "label map missing: 8; tools/prepare_coco_stuff.py makes")


def test_context_shifted_and_not_converted(context_set: Path) -> None:
    folder = context_set / "SegmentationClassContext"
    whole = {path: path.read_bytes() for path in folder.iterdir()}
    rewrite(folder, "*.png", lambda stored: np.where(stored == 0, IGNORED, stored - 1))
    found(check_context(context_set), "labels are shifted by one: 0 is in")
    for path, content in whole.items():
        path.write_bytes(content)
    rewrite(folder, "*.png", lambda stored: np.append(0, np.arange(2, 252, 4)[:59])[stored])
    found(check_context(context_set), "ids of PASCAL-Context's 459 categories, not converted")


def test_val_pictures_in_train(voc: Path) -> None:
    lists = voc / "ImageSets" / "Segmentation"
    save_list(lists / "trainaug.txt", [*(lists / "trainaug.txt").read_text().split(), "2009_000001"])
    (voc / "SegmentationClassAug" / "2009_000001.png").write_bytes(
        (voc / "SegmentationClass" / "2009_000001.png").read_bytes()
    )
    (voc / "JPEGImages" / "2009_000002.jpg").write_bytes((voc / "JPEGImages" / "2007_000001.jpg").read_bytes())
    found(check_voc(voc), "in train and in val: 1\n  2009_000001", "in train under another name: 1", "2009_000002.jpg")


def test_report_names_every_file(voc: Path, tmp_path: Path) -> None:
    names = [f"n{index}" for index in range(30)]
    save_list(voc / "ImageSets" / "Segmentation" / "trainaug.txt", names)
    result = check_voc(voc, "--report", tmp_path / "report.json")
    found(result, "label map missing: 30", "and 10 more (--report FILE names all)")
    report = json.loads((tmp_path / "report.json").read_text())
    assert sorted(len(finding["files"]) for finding in report["findings"]) == [30, 30]
    assert report["splits"]["val"]["label_maps"]["0"] == 8 and report["dataset"] == "voc12"


def test_cross_data_set_configs_have_val_only(voc: Path, context_set: Path) -> None:
    for name, root in (("voc12", voc), ("context", context_set)):
        result = check(CONFIGS / f"cross_coco_to_{name}.py", "--allow-partial", f"data.root={root}")
        passed(result)
        assert f"{name}" in result.stdout.splitlines()[0] and "train:" not in result.stdout


def test_user_errors(voc: Path, tmp_path: Path) -> None:
    refused(check_voc(tmp_path), "JPEGImages does not exist")
    refused(check_voc(voc, "data.train.names=nothing.txt"), "nothing.txt does not exist", "tools/prepare_voc12.py")
    refused(check_voc(voc, "data.train.labels=nothing"), "folder", "tools/prepare_voc12.py")
    refused(check_voc(voc, "--fraction", 0), "--fraction 0.0: must be above 0")
    refused(check_voc(voc, "data.train.images=", "data.val.images="), "names no files to check")
    refused(check(tmp_path / "nothing.py"), "nothing.py does not exist")
    result = check(REPOSITORY / "configs" / "shapes_demo.py")
    assert result.returncode == 0 and "no files to check" in result.stdout
