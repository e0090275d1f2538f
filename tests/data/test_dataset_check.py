"""Checks of a data set on disk: what is found in single files, over a split, between splits, and before a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jseg.config import DataConfig
from jseg.data.check import check_split, duplicates, quick_check
from jseg.data.dataset import SegmentationDataset, open_dataset
from jseg.errors import UserError
from tests.replicas import save_palette_png, save_picture


def texts(report: object) -> list[str]:
    return [finding.text for finding in report.findings]


def opened(voc: DataConfig, section: str = "train") -> SegmentationDataset:
    return SegmentationDataset(voc, section, check_files=False)


def labels_of(voc: DataConfig, name: str) -> Path:
    return Path(voc.root) / "SegmentationClass" / f"{name}.png"


def test_a_right_split_has_no_findings_if_partial(voc: DataConfig) -> None:
    report = check_split(opened(voc), partial=True)
    assert texts(report) == [] and report.length == report.read == 3
    assert report.notes == ["voc12 train has 3 pictures, the published runs have 10,582"]
    assert report.tally.modes == {"P": 3} and report.tally.sizes == [(36, 48), (36, 48)]
    stored = [np.array(Image.open(labels_of(voc, name))) for name in ("a1", "b2", "c3")]
    for value in range(256):
        assert report.tally.counts.pixels[value] == sum((labels == value).sum() for labels in stored)
        assert report.tally.counts.maps[value] == sum((labels == value).any() for labels in stored)
    assert texts(check_split(opened(voc))) == report.notes


def test_bad_files_are_all_named_by_kind(voc: DataConfig) -> None:
    root = Path(voc.root)
    image = root / "JPEGImages" / "a1.jpg"
    image.write_bytes(image.read_bytes()[:200])
    labels_of(voc, "b2").unlink()
    Image.open(labels_of(voc, "c3")).convert("RGB").save(labels_of(voc, "c3"))
    report = check_split(opened(voc), partial=True)
    found = {finding.text.split(":")[0]: finding for finding in report.findings}
    assert set(found) == {"picture cannot be read", "label map missing", "RGB-encoded label map"}
    assert found["picture cannot be read"].files == [f"{image} (truncated)"]
    assert found["label map missing"].files[0].startswith(str(labels_of(voc, "b2")))
    assert "1; 1 of the missing masks in SegmentationClass are SBD's" in found["label map missing"].text
    assert "8-bit RGB PNG" in found["RGB-encoded label map"].files[0]


def test_sizes_values_and_palettes(voc: DataConfig) -> None:
    stored = np.array(Image.open(labels_of(voc, "a1")))
    save_palette_png(labels_of(voc, "a1"), stored[:, :40])
    stored[5, 5:7] = 21, 200
    save_palette_png(labels_of(voc, "b2"), stored)
    colours = Image.open(labels_of(voc, "c3")).convert("RGB").quantize(22, dither=Image.Dither.NONE)
    colours.save(labels_of(voc, "c3"))
    report = check_split(opened(voc), partial=True)
    found = {finding.text.split(":")[0]: finding for finding in report.findings}
    size = found["label map of another size than its picture"]
    assert size.files == [f"{labels_of(voc, 'a1')} (40x36 pixels, its picture 48x36)"]
    values = found["label values 21, 200 (over 3 label maps) are not in the class list of voc12"]
    assert values.files[0] == f"{labels_of(voc, 'b2')} (values 21, 200)"
    assert "saved through RGB" in found["palette in another order"].files[0]


def test_a_fraction_reads_fewer_but_misses_no_missing_file(voc: DataConfig) -> None:
    for name in ("a1", "b2", "c3"):
        labels_of(voc, name).unlink()
    report = check_split(opened(voc), fraction=0.34, partial=True)
    assert report.read == 1 and len(report.findings) == 1 and len(report.findings[0].files) == 3


def test_classes_that_never_occur(voc: DataConfig) -> None:
    for name in ("a1", "b2", "c3"):
        stored = np.array(Image.open(labels_of(voc, name)))
        stored[(stored == 3) | (stored == 17)] = 0
        save_palette_png(labels_of(voc, name), stored)
    stored[-1] = 3
    save_palette_png(labels_of(voc, "c3"), stored)
    message = "train: classes that never occur: 1 unseen (sheep)"
    assert message in texts(check_split(opened(voc)))
    assert message in check_split(opened(voc), partial=True).notes
    (Path(voc.root) / "ImageSets" / "train.txt").write_text("a1\nb2\n")
    assert "train: classes that never occur: 1 seen (bird) and 1 unseen (sheep)" in texts(check_split(opened(voc)))


def test_names_that_occur_twice(voc: DataConfig) -> None:
    (Path(voc.root) / "ImageSets" / "train.txt").write_text("a1\nb2\na1\n")
    finding = check_split(opened(voc), partial=True).findings[0]
    assert finding.text == "names that the list of train holds twice: 1" and finding.files == ["a1"]


def test_pictures_in_train_and_val(voc: DataConfig) -> None:
    by_name = duplicates(opened(voc), opened(voc, "val"))
    assert [(finding.text, finding.files) for finding in by_name] == [("names that are in train and in val: 1", ["a1"])]
    root = Path(voc.root)
    (root / "JPEGImages" / "d4.jpg").write_bytes((root / "JPEGImages" / "b2.jpg").read_bytes())
    (root / "ImageSets" / "val.txt").write_text("d4\nmissing\n")
    by_content = duplicates(opened(voc), opened(voc, "val"))
    assert len(by_content) == 1 and by_content[0].text == "pictures of val that are in train under another name: 1"
    assert by_content[0].files == [f"{root / 'JPEGImages' / 'd4.jpg'} (train: {root / 'JPEGImages' / 'b2.jpg'})"]
    (root / "JPEGImages" / "d4.jpg").unlink()
    assert duplicates(opened(voc), opened(voc, "val")) == []


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
        save_picture(Path(voc.root) / "JPEGImages" / f"{name}.jpg", stored, 0)
        save_palette_png(labels_of(voc, name), stored)
    (Path(voc.root) / "ImageSets" / "train.txt").write_text("\n".join(names))
    with pytest.raises(UserError, match=r"voc12 train, 6 random pairs: labels are shifted by one: 0 is in 0 and 255"):
        quick_check(open_dataset(voc, "train"))


def test_quick_check_reads_fifty_pairs_and_names_three_files(voc: DataConfig) -> None:
    root, names = Path(voc.root), [f"n{index:02}" for index in range(60)]
    stored = np.full((20, 20), 200)
    for name in names:
        save_picture(root / "JPEGImages" / f"{name}.jpg", stored, 0)
        save_palette_png(labels_of(voc, name), stored)
    (root / "ImageSets" / "train.txt").write_text("\n".join(names))
    with pytest.raises(UserError) as caught:
        quick_check(open_dataset(voc, "train"))
    message = str(caught.value)
    assert "train, 50 random pairs: label values 200 (over 50 label maps) are not in the class list" in message
    assert message.count("values 200)") == 3 and "and 47 more" in message
    assert message.endswith("tools/check_dataset.py looks at all of them")


def test_opening_names_the_masks_that_sbd_has(voc: DataConfig) -> None:
    labels_of(voc, "b2").unlink()
    with pytest.raises(UserError, match=r"b2\.png \(missing\); 1 of the missing masks in SegmentationClass are SBD's"):
        open_dataset(voc, "train")
    voc.train.labels = "SegmentationClassAug"
    with pytest.raises(UserError, match=r"SegmentationClassAug does not exist: .* \(tools/prepare_voc12\.py makes"):
        open_dataset(voc, "train")
