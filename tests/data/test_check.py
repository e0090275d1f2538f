"""Faults of a data set on disk: each kind is found, right data pass, and a quick check says it in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jseg.config import DataConfig
from jseg.data.class_names import ClassList, class_list
from jseg.data.dataset import SegmentationDataset, check_split, open_dataset, quick_check, value_fault
from jseg.errors import UserError
from tests.replicas import save_image, save_palette_png
from tools.prepare_coco_stuff import COCO_STUFF_IDS

VOC, COCO, CONTEXT = class_list("voc12"), class_list("coco_stuff"), class_list("context")


def opened(voc: DataConfig) -> SegmentationDataset:
    return SegmentationDataset(voc, "train", check_files=False)


def labels_of(voc: DataConfig, name: str) -> Path:
    return Path(voc.root) / "SegmentationClass" / f"{name}.png"


def fault(maps: list[list[int]], classes: ClassList, change: Callable[[int], int] = int) -> str:
    """What is wrong with label maps that hold the given values, each changed first."""
    counts = np.zeros(256, np.int64)
    for values in maps:
        counts[sorted({change(value) % 256 for value in values})] += 1
    return value_fault(counts, len(maps), classes)


def right_maps(classes: ClassList, background: bool, ignored: bool, seed: int = 0) -> list[list[int]]:
    """Values of 60 label maps: one to three classes, background in most, 255 at the borders."""
    rng = np.random.default_rng(seed)
    found = [rng.choice(classes.stored, rng.integers(1, 4), replace=False).tolist() for _ in range(60)]
    return [[*values, *[0] * (background and i % 5 > 0), *[255] * ignored] for i, values in enumerate(found)]


KINDS = [(VOC, True, True), (VOC, True, False), (COCO, False, True), (CONTEXT, True, False)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("classes", "background", "ignored"), KINDS)
def test_right_values_pass(classes: ClassList, background: bool, ignored: bool, seed: int) -> None:
    assert fault(right_maps(classes, background, ignored, seed), classes) == ""
    assert fault(right_maps(classes, background, ignored, seed)[:3], classes) == ""
    assert fault([], classes) == fault([[6, 7, 255]] * 4, VOC) == ""


@pytest.mark.parametrize("classes", [VOC, COCO, CONTEXT])
def test_labels_shifted_by_one(classes: ClassList) -> None:
    high = fault(right_maps(classes, classes is not COCO, True), classes, lambda value: value + 1)
    assert "shifted by one" in high and "one too high" in high, high
    if classes is not COCO:
        low = fault(right_maps(classes, True, True), classes, lambda value: 255 if value in (0, 255) else value - 1)
        assert low.startswith("labels are shifted by one: 0 (background) is in ") and "aeroplane is stored as 0" in low


def test_values_outside_the_list() -> None:
    assert fault([[0, 1, 77]], VOC).startswith("label values 77 are not in the class list of voc12")
    ids = fault([[0, 5]] + [[value] for value in range(171)], COCO, lambda value: COCO_STUFF_IDS[value])
    assert "label values 171, 172, 173, 174, 175, 176, 177, 178 and 3 more" in ids and "prepare_coco_stuff.py" in ids


def test_a_right_split_has_no_problems(voc: DataConfig) -> None:
    report = check_split(opened(voc))
    assert report.problems == [] and report.read == len(report.dataset) == 3
    stored = [np.array(Image.open(labels_of(voc, name))) for name in ("a1", "b2", "c3")]
    for value in range(256):
        assert report.pixels[value] == sum((labels == value).sum() for labels in stored)
        assert report.maps[value] == sum((labels == value).any() for labels in stored)


def test_bad_files_are_all_named(voc: DataConfig) -> None:
    image = Path(voc.root) / "JPEGImages" / "a1.jpg"
    image.write_bytes(image.read_bytes()[:200])
    labels_of(voc, "b2").unlink()
    Image.open(labels_of(voc, "c3")).convert("RGB").save(labels_of(voc, "c3"))
    truncated, colours, count, missing = check_split(opened(voc)).problems
    assert truncated == f"{image}: truncated" and colours.startswith(f"{labels_of(voc, 'c3')}: 8-bit RGB PNG")
    assert count.startswith("1 files are missing; tools/prepare_voc12.py makes the masks")
    assert missing == f"{labels_of(voc, 'b2')}: missing"


def test_sizes_values_and_damage_inside(voc: DataConfig) -> None:
    stored = np.array(Image.open(labels_of(voc, "a1")))
    save_palette_png(labels_of(voc, "a1"), stored[:, :40])
    stored[5, 5:7] = 21, 200
    save_palette_png(labels_of(voc, "b2"), stored)
    content = bytearray(labels_of(voc, "c3").read_bytes())
    content[-60] ^= 255  # inside the pixels: begin and end of the file are right
    labels_of(voc, "c3").write_bytes(content)
    whole, size, values, damage = check_split(opened(voc)).problems
    assert whole.startswith("label values 21, 200 are not in the class list of voc12; tools/prepare_voc12.py")
    assert size == f"{labels_of(voc, 'a1')}: the label map is 40x36 pixels, its image 48x36"
    assert values.startswith(f"{labels_of(voc, 'b2')}: label values 21, 200 are not")
    assert damage.startswith(f"{labels_of(voc, 'c3')}: ")


def test_a_fraction_reads_fewer_but_misses_no_missing_file(voc: DataConfig) -> None:
    assert check_split(opened(voc), fraction=0.34).read == 1
    for name in ("a1", "b2", "c3"):
        labels_of(voc, name).unlink()
    report = check_split(opened(voc), fraction=0.34)
    assert report.read == 0 and len(report.problems) == 1 + 3


def test_quick_check_reads_fifty_pairs_and_names_a_few(voc: DataConfig) -> None:
    quick_check(open_dataset(voc, "train"))
    quick_check(open_dataset(DataConfig(), "train"))  # shapes: nothing on disk
    root, names = Path(voc.root), [f"n{index:02}" for index in range(60)]
    stored = np.full((20, 20), 200)
    for name in names:
        save_image(root / "JPEGImages" / f"{name}.jpg", stored, 0)
        save_palette_png(labels_of(voc, name), stored)
    (root / "ImageSets" / "train.txt").write_text("\n".join(names))
    with pytest.raises(UserError) as caught:
        quick_check(open_dataset(voc, "train"))
    message = str(caught.value)
    assert "train, 50 random pairs: label values 200 are not in the class list" in message
    assert message.count(".png: label values 200") == 3 and "and 47 more" in message
