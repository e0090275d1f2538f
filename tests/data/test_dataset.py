"""Data sets in VOC's layout: what they read, every bad input they must name in one line, and the check of the files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jseg.config import DataConfig
from jseg.data.class_names import ClassList, class_list, classes_of
from jseg.data.dataset import SegmentationDataset, check_split, open_dataset, quick_check, value_fault
from jseg.errors import UserError
from tests.replicas import save_image, save_palette_png
from tools.prepare_coco_stuff import COCO_STUFF_IDS

VOC, COCO, CONTEXT = class_list("voc12"), class_list("coco_stuff"), class_list("context")


def labels_of(voc: DataConfig, name: str) -> Path:
    return Path(voc.root) / "SegmentationClass" / f"{name}.png"


def refused(voc: DataConfig, split: str = "train") -> str:
    """The error message of a data set that cannot be opened."""
    with pytest.raises(UserError) as caught:
        open_dataset(voc, split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_pairs_come_in_the_order_of_the_split_file(voc: DataConfig) -> None:
    dataset = SegmentationDataset(voc, "train")
    assert len(dataset) == 3 and dataset.names == ["a1", "b2", "c3"] and dataset.class_list == VOC
    image, labels, name = dataset.read(1)
    assert image.shape == (36, 48, 3) and image.dtype == labels.dtype == np.uint8 and name == "b2"
    stored = np.array(Image.open(labels_of(voc, "b2")))
    assert set(np.unique(stored)) == {*range(21), 255}
    np.testing.assert_array_equal(labels, np.where(stored == 0, 255, np.where(stored == 255, 255, stored - 1)))


def test_split_file_and_labels_may_be_left_out(voc: DataConfig) -> None:
    assert SegmentationDataset(voc, "val").names == ["a1"]  # its file has blank lines
    voc.val.names = voc.val.labels = ""
    assert SegmentationDataset(voc, "test").names == ["a1", "b2", "c3"]
    assert SegmentationDataset(voc, "test").read(0)[1] is None
    assert "data.val.labels is not set" in refused(voc, "val")


def test_lists_of_folders_and_name_files_go_together(voc: DataConfig) -> None:
    """VOC's own masks for train.txt, those of SegmentationClassAug for aug.txt, as the published runs."""
    root = Path(voc.root)
    (root / "SegmentationClassAug").mkdir()
    labels_of(voc, "c3").rename(root / "SegmentationClassAug" / "c3.png")
    (root / "ImageSets" / "train.txt").write_text("a1\nb2\n")
    (root / "ImageSets" / "aug.txt").write_text("c3\n")
    voc.train.labels = ("SegmentationClass", "SegmentationClassAug")
    voc.train.names = ("ImageSets/train.txt", "ImageSets/aug.txt")
    dataset = SegmentationDataset(voc, "train")
    assert dataset.names == ["a1", "b2", "c3"] and dataset.read(2)[1] is not None
    assert [dataset.labels_path(i).parent.name for i in range(3)] == ["SegmentationClass"] * 2 + [
        "SegmentationClassAug"
    ]
    voc.train.names = ("ImageSets/train.txt",) * 3
    assert "lists of images, labels and names have different lengths" in refused(voc)


def test_what_is_missing_is_named(voc: DataConfig) -> None:
    root, split = Path(voc.root), Path(voc.root) / "ImageSets" / "train.txt"
    (root / "JPEGImages" / "b2.jpg").unlink()
    labels_of(voc, "c3").unlink()
    message = refused(voc)
    assert "2 files are missing" in message and "b2.jpg, " in message
    assert "c3.png (masks of train.txt and val.txt are in Seg" in message
    for name in ("/etc/x", "../a1", "sub/../../a1"):
        split.write_text(f"a1\n{name}\n", encoding="utf-8-sig")
        assert f"{split}: {name!r} is no name inside the data folder" in refused(voc)
    for content in (b"a1\n\0b2", b"a\x1b[2J1"):
        split.write_bytes(content)
        assert "no control characters" in refused(voc)
    for encoding in ("utf-16", "latin-1"):
        split.write_bytes("é1\nb2".encode(encoding))
        assert "it must be UTF-8 text (not UTF-16)" in refused(voc)
    split.write_text("a1.jpg\nb2.jpg\n")
    assert "names in ImageSets/train.txt must have no suffix .jpg" in refused(voc)
    split.write_bytes("a1\n".encode("utf-8-sig"))
    assert SegmentationDataset(voc, "train").names == ["a1"]
    split.write_text(" \n\n")
    assert "names no image" in refused(voc)
    split.unlink()
    assert f"split file {split} does not exist: correct data.train.names" in refused(voc)
    voc.train.images = "Images"
    assert "Images does not exist: correct data.root or data.train.images" in refused(voc)
    voc.val.names, voc.val.image_suffix = "", ".jpeg"
    assert "holds no *.jpeg" in refused(voc, "val")
    voc.root = ""
    assert "data.root is not set" in refused(voc)


def test_real_photos(test_data: Path) -> None:
    data, found = DataConfig(dataset="voc12", root=str(test_data / "voc_samples")), {}
    for split in ("train", "val"):
        files = getattr(data, split)
        files.images, files.labels = "JPEGImages", "SegmentationClass"
        files.names = f"ImageSets/Segmentation/{split}.txt"
        dataset = open_dataset(data, split)
        for image, labels, name in map(dataset.read, range(len(dataset))):
            assert image.shape[:2] == labels.shape and image.std() > 10
            found[name] = {dataset.class_list.names[value] for value in np.unique(labels[labels != 255])}
    assert found["2011_000003"] == {"bottle", "person"} and found["2011_000025"] == {"bus", "car"}


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


@pytest.mark.parametrize(("classes", "background", "ignored"), KINDS)
def test_right_values_pass(classes: ClassList, background: bool, ignored: bool) -> None:
    for seed in range(5):
        maps = right_maps(classes, background, ignored, seed)
        assert fault(maps, classes) == fault(maps[:3], classes) == fault([[6, 7, 255]] * 4, VOC) == ""


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
    report = check_split(SegmentationDataset(voc, "train", check_files=False))
    assert report.problems == [] and report.read == len(report.dataset) == 3
    stored = [np.array(Image.open(labels_of(voc, name))) for name in ("a1", "b2", "c3")]
    for value in range(256):
        assert report.pixels[value] == sum((labels == value).sum() for labels in stored)
        assert report.maps[value] == sum((labels == value).any() for labels in stored)
    quick_check(open_dataset(voc, "train"))
    quick_check(open_dataset(DataConfig(), "train"))  # shapes: nothing on disk


def test_bad_files_are_all_named(voc: DataConfig) -> None:
    paths = {name: labels_of(voc, name) for name in ("a1", "b2", "c3", "d4", "e5", "f6")}
    for name in ("d4", "e5", "f6"):
        for path in (paths[name], Path(voc.root) / "JPEGImages" / f"{name}.jpg"):
            path.write_bytes(path.with_stem("a1").read_bytes())
    (Path(voc.root) / "ImageSets" / "train.txt").write_text("\n".join(paths))
    image, stored = Path(voc.root) / "JPEGImages" / "a1.jpg", np.array(Image.open(paths["a1"]))
    image.write_bytes(image.read_bytes()[:200])
    paths["b2"].unlink()
    Image.open(paths["c3"]).convert("RGB").save(paths["c3"])
    save_palette_png(paths["d4"], stored[:, :40])
    stored[5, 5:7] = 21, 200
    save_palette_png(paths["e5"], stored)
    content = bytearray(paths["f6"].read_bytes())
    content[-60] ^= 255  # inside the pixels: begin and end of the file are right
    paths["f6"].write_bytes(content)
    dataset = SegmentationDataset(voc, "train", check_files=False)
    whole, truncated, colours, size, values, damage, count, missing = check_split(dataset).problems
    assert whole.startswith("label values 21, 200 are not in the class list of voc12; masks of train.txt")
    assert truncated == f"{image}: truncated" and colours.startswith(f"{paths['c3']}: 8-bit RGB PNG")
    assert size == f"{paths['d4']}: the label map is 40x36 pixels, its image 48x36"
    assert values.startswith(f"{paths['e5']}: label values 21, 200 are not") and damage.startswith(f"{paths['f6']}: ")
    assert count.startswith("1 files are missing; masks of train.txt and val.txt are in SegmentationClass,")
    assert missing == f"{paths['b2']}: missing"
    report = check_split(dataset, fraction=0.34)  # fewer are read, but no missing file is missed
    assert report.read == 2 and missing in report.problems


def test_quick_check_reads_fifty_pairs_and_names_a_few(voc: DataConfig) -> None:
    root, names = Path(voc.root), [f"n{index:02}" for index in range(60)]
    for name in names:
        save_image(root / "JPEGImages" / f"{name}.jpg", np.full((20, 20), 200), 0)
        save_palette_png(labels_of(voc, name), np.full((20, 20), 200))
    (root / "ImageSets" / "train.txt").write_text("\n".join(names))
    with pytest.raises(UserError, match=r"50 random pairs: label values 200 are not .* and 47 more") as caught:
        quick_check(open_dataset(voc, "train"))
    assert str(caught.value).count(".png: label values 200") == 3


def own_fault(maps: list[list[int]], **changes: object) -> str:
    keys = {"dataset": "custom", "title": "streets", "names": ("road", "car", "bus"), "unseen": ("car",)}
    return fault(maps, classes_of(DataConfig(**{**keys, **changes})))


def test_wrong_values_of_own_data() -> None:
    assert own_fault([[0, 1, 255]] * 9) == own_fault([[255, 1, 2]] * 9, ignored=(0, 255), stored=(1, 2, 3)) == ""
    one_more = own_fault([[0, 1, 3]] * 9)
    assert "label values 3 are not in the class list of streets; add them to data.stored, with a name each" in one_more
    assert "labels are shifted by one, class 0 is stored as 1" in own_fault([[1, 2, 3]] * 9)
    assert "label values 4 are not" in own_fault([[0, 4]], stored=(0, 1, 255), ignored=())


def test_masks_that_are_not_vocs_own(voc: DataConfig) -> None:
    own, aug = (Path(voc.root) / name for name in ("SegmentationClass", "SegmentationClassAug"))
    for name in ("a1", "b2", "c3"):
        save_palette_png(aug / f"{name}.png", np.array(Image.open(own / f"{name}.png")))
    voc.train.labels = aug.name
    quick_check(open_dataset(voc, "train"))
    stored = np.array(Image.open(own / "b2.png"))
    stored[stored == 255] = 0  # as SBD's: no border
    save_palette_png(aug / "b2.png", stored)
    with pytest.raises(UserError, match=r"Aug/b2\.png: not VOC's own mask, .*SegmentationClass/b2\.png: .*--overwrite"):
        quick_check(open_dataset(voc, "train"))


def test_names_of_a_folder_with_several_suffixes_and_folders_below(voc: DataConfig) -> None:
    images, labels = (Path(voc.root) / name for name in ("JPEGImages", "SegmentationClass"))
    (images / "b2.jpg").rename(images / "b2.JPEG")
    for folder, name in ((images, "c3.jpg"), (labels, "c3.png")):
        (folder / "more").mkdir()
        (folder / name).rename(folder / "more" / name)
    (images / "._a1.jpg").write_bytes(b"of macOS")
    voc.train.names, voc.train.image_suffix = "", (".jpg", ".JPEG")
    dataset = SegmentationDataset(voc, "train")
    assert dataset.names == ["a1", "b2", "more/c3"] and dataset.image_path(1).name == "b2.JPEG"
    assert [dataset.read(index)[2] for index in range(3)] == dataset.names
    (images / "b2.jpg").write_bytes(b"")
    assert "holds b2 with several of .jpg, .JPEG: remove one" in refused(voc)
    (images / "b2.jpg").unlink()
    voc.train.images, voc.train.labels, voc.train.image_suffix = ".", "SegmentationClass", ".png"  # images everywhere
    (Path(voc.root) / "a1.png").write_bytes(b"")
    assert SegmentationDataset(voc, "train", check_files=False).names == ["a1"]
    voc.train.images, voc.train.label_suffix = "SegmentationClass", "_mask.png"
    assert SegmentationDataset(voc, "train", check_files=False).names == ["a1", "b2", "more/c3"]
