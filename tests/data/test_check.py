"""Faults of a data set on disk: each kind is found, right data pass, and a quick check says it in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jseg.config import DataConfig
from jseg.data.check import check_split, quick_check, value_fault
from jseg.data.class_names import COCO_STUFF_IDS, PUBLISHED_IMAGES, ClassList, class_list, count_note
from jseg.data.dataset import SegmentationDataset, open_dataset
from jseg.errors import UserError
from tests.replicas import save_image, save_palette_png

VOC, COCO, CONTEXT = class_list("voc12"), class_list("coco_stuff"), class_list("context")


def opened(voc: DataConfig, section: str = "train") -> SegmentationDataset:
    return SegmentationDataset(voc, section, check_files=False)


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
    assert fault([], classes) == ""


@pytest.mark.parametrize("classes", [VOC, CONTEXT])
def test_labels_one_too_low_are_training_labels(classes: ClassList) -> None:
    text = fault(right_maps(classes, True, True), classes, lambda value: 255 if value in (0, 255) else value - 1)
    assert text.startswith("labels are shifted by one: 0 (background) is in ") and "aeroplane is stored as 0" in text


def test_a_few_label_maps_without_background_are_no_shift() -> None:
    assert fault([[6, 7, 255]] * 4, VOC) == ""
    assert "shifted by one" in fault([[6, 7, 255]] * 5, VOC)


def test_background_counted_as_class_0() -> None:
    maps = [[value for value in values if value < 20] for values in right_maps(VOC, True, True)]
    assert "background is counted as class 0 (aeroplane)" in fault(maps, VOC, lambda value: value + 1)


@pytest.mark.parametrize("classes", [VOC, COCO, CONTEXT])
def test_labels_one_too_high(classes: ClassList) -> None:
    text = fault(right_maps(classes, classes is not COCO, True), classes, lambda value: value + 1)
    assert "shifted by one" in text and "one too high" in text, text


def test_values_outside_the_list() -> None:
    assert fault([[0, 1, 77]], VOC).startswith("label values 77 are not in the class list of voc12")
    ids = fault([[0, 5]] + [[value] for value in range(171)], COCO, lambda value: COCO_STUFF_IDS[value])
    assert "label values 171, 172, 173, 174, 175, 176, 177, 178 and 3 more" in ids and "prepare_coco_stuff.py" in ids


def test_published_numbers() -> None:
    assert all(count_note(*key, count) == "" for key, count in PUBLISHED_IMAGES.items())
    assert PUBLISHED_IMAGES["voc12", "train"] == 1464 + 9118 and count_note("shapes", "train", 7) == ""
    assert count_note("context", "val", 5104) == "context val has 5,104 images, the published runs 5,105"


def test_a_right_split_has_no_faults_if_partial(voc: DataConfig) -> None:
    report = check_split(opened(voc), partial=True)
    assert report.faults == {} and report.read == len(report.dataset) == 3
    stored = [np.array(Image.open(labels_of(voc, name))) for name in ("a1", "b2", "c3")]
    for value in range(256):
        assert report.pixels[value] == sum((labels == value).sum() for labels in stored)
        assert report.maps[value] == sum((labels == value).any() for labels in stored)
    (note,) = check_split(opened(voc)).faults
    assert note.startswith("voc12 train has 3 images, the published runs 10,582")


def test_bad_files_are_all_named_by_kind(voc: DataConfig) -> None:
    image = Path(voc.root) / "JPEGImages" / "a1.jpg"
    image.write_bytes(image.read_bytes()[:200])
    labels_of(voc, "b2").unlink()
    Image.open(labels_of(voc, "c3")).convert("RGB").save(labels_of(voc, "c3"))
    faults = {kind.split(";")[0].split(",")[0]: (kind, files) for kind, files in
              check_split(opened(voc), partial=True).faults.items()}  # fmt: skip
    assert set(faults) == {"truncated", "missing", "8-bit RGB PNG"}
    assert faults["truncated"][1] == [str(image)] and faults["missing"][1] == [str(labels_of(voc, "b2"))]
    assert "tools/prepare_voc12.py makes the masks" in faults["missing"][0]


def test_sizes_values_and_damage_inside(voc: DataConfig) -> None:
    stored = np.array(Image.open(labels_of(voc, "a1")))
    save_palette_png(labels_of(voc, "a1"), stored[:, :40])
    stored[5, 5:7] = 21, 200
    save_palette_png(labels_of(voc, "b2"), stored)
    content = bytearray(labels_of(voc, "c3").read_bytes())
    content[-60] ^= 255  # inside the pixels: begin and end of the file are right
    labels_of(voc, "c3").write_bytes(content)
    faults = check_split(opened(voc), partial=True).faults
    size, damage, values = sorted(faults, key=lambda kind: ("size" not in kind, "read" not in kind))
    assert faults[size] == [f"{labels_of(voc, 'a1')} (40x36 pixels, its image 48x36)"]
    assert faults[damage][0].startswith(f"{labels_of(voc, 'c3')}: ")
    assert values.startswith("label values 21, 200 are not in the class list of voc12")
    assert faults[values] == [f"{labels_of(voc, 'b2')} (values 21, 200)"]


def test_a_fraction_reads_fewer_but_misses_no_missing_file(voc: DataConfig) -> None:
    assert check_split(opened(voc), fraction=0.34, partial=True).read == 1
    for name in ("a1", "b2", "c3"):
        labels_of(voc, name).unlink()
    report = check_split(opened(voc), fraction=0.34, partial=True)
    assert report.read == 0 and [len(files) for files in report.faults.values()] == [3]


def test_quick_check_passes_right_data(voc: DataConfig) -> None:
    quick_check(open_dataset(voc, "train"))
    quick_check(open_dataset(DataConfig(), "train"))  # shapes: nothing on disk
    voc.val.labels = ""
    quick_check(open_dataset(voc, "test"))


def test_quick_check_says_what_is_wrong_in_one_line(voc: DataConfig) -> None:
    names = [f"n{value:02}" for value in range(2, 8)]
    for value, name in enumerate(names, 2):  # training labels: background has become 255
        stored = np.full((36, 48), 255)
        stored[9:20, 9:30] = value
        save_image(Path(voc.root) / "JPEGImages" / f"{name}.jpg", stored, 0)
        save_palette_png(labels_of(voc, name), stored)
    (Path(voc.root) / "ImageSets" / "train.txt").write_text("\n".join(names))
    with pytest.raises(UserError, match=r"voc12 train, 6 random pairs: labels are shifted by one: 0 \(background\) is"):
        quick_check(open_dataset(voc, "train"))


def test_quick_check_reads_fifty_pairs_and_names_three_files(voc: DataConfig) -> None:
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
    assert message.count("values 200)") == 3 and "and 47 more" in message
    assert message.endswith("tools/check_dataset.py looks at all of them")
