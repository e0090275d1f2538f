"""What label values and missing label maps say is wrong: every rule, and what must pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jseg.data.class_names import COCO_STUFF_ID_GAPS, COCO_STUFF_IDS, class_list, voc_palette
from jseg.data.label_faults import ValueCounts, missing_labels_fault, palette_fault, value_fault

VOC, COCO, CONTEXT = class_list("voc12"), class_list("coco_stuff"), class_list("context")


def counted(maps: list[list[int]]) -> ValueCounts:
    """Counts of label maps that hold each of the given values in one pixel."""
    counts = ValueCounts()
    for values in maps:
        counts.add(np.bincount(values, minlength=256))
    return counts


def voc_maps(count: int = 60, border: bool = True, seed: int = 0) -> list[list[int]]:
    """Values as VOC's masks have them: background in all, one to three classes, 255 at the borders."""
    rng = np.random.default_rng(seed)
    found = [[0, *rng.choice(np.arange(1, 21), rng.integers(1, 4), replace=False).tolist()] for _ in range(count)]
    return [[*values, 255] for values in found] if border else found


def coco_maps(count: int = 60, seed: int = 0) -> list[list[int]]:
    """Training labels as COCO-Stuff has them: a person in more than half, ten other classes."""
    rng = np.random.default_rng(seed)
    others = [rng.choice(np.arange(1, 171), 10, replace=False).tolist() for _ in range(count)]
    return [[0, *values, 255] if index % 9 < 5 else [*values, 255] for index, values in enumerate(others)]


def context_maps(count: int = 60, seed: int = 0) -> list[list[int]]:
    """Values as prepared PASCAL Context has them: background in most, seven classes, no 255."""
    rng = np.random.default_rng(seed)
    others = [rng.choice(np.arange(1, 60), 7, replace=False).tolist() for _ in range(count)]
    return [[0, *values] if index % 5 else values for index, values in enumerate(others)]


def changed(maps: list[list[int]], change: Callable[[int], int]) -> ValueCounts:
    return counted([[change(value) % 256 for value in values] for values in maps])


@pytest.mark.parametrize("seed", range(5))
def test_right_labels_pass(seed: int) -> None:
    assert value_fault(counted(voc_maps(seed=seed)), VOC) == ""
    assert value_fault(counted(voc_maps(border=False, seed=seed)), VOC) == ""  # SBD's masks
    assert value_fault(counted(voc_maps(2, seed=seed)), VOC) == ""
    assert value_fault(counted(coco_maps(seed=seed)), COCO, complete=True) == ""
    assert value_fault(counted(coco_maps(3, seed=seed)), COCO) == ""
    assert value_fault(counted(context_maps(seed=seed)), CONTEXT) == ""
    assert value_fault(ValueCounts(), VOC) == ""


@pytest.mark.parametrize(("maps", "classes"), [(voc_maps(), VOC), (context_maps(), CONTEXT)])
def test_labels_one_too_low_are_training_labels(maps: list[list[int]], classes: object) -> None:
    fault = value_fault(changed(maps, lambda value: 255 if value in (0, 255) else value - 1), classes)
    assert fault.startswith("labels are shifted by one: 0 is in ") and "aeroplane is stored as 0" in fault


def test_a_few_pictures_without_background_are_no_shift() -> None:
    assert value_fault(counted([[6, 7, 255]] * 4), VOC) == ""
    assert "shifted by one" in value_fault(counted([[6, 7, 255]] * 5), VOC)


def test_background_counted_as_class_0() -> None:
    maps = [[value for value in values if value < 20] for values in voc_maps()]  # 20 + 1 would be outside the list
    fault = value_fault(changed(maps, lambda value: value + 1), VOC)
    assert "background is counted as class 0 (aeroplane)" in fault and "shifted by one" in fault


@pytest.mark.parametrize("keep_ignored", [True, False])
def test_labels_one_too_high(keep_ignored: bool) -> None:
    def up(value: int) -> int:
        return 255 if value == 255 and keep_ignored else value + 1

    assert "label values 21 (" in value_fault(changed(voc_maps(), up), VOC)
    for maps, classes in ((voc_maps(), VOC), (coco_maps(), COCO), (context_maps(), CONTEXT)):
        fault = value_fault(changed(maps, up), classes)
        assert "shifted by one" in fault and "one too high" in fault, fault


def test_coco_ids_that_were_not_converted() -> None:
    fault = value_fault(changed(coco_maps(), lambda value: (*COCO_STUFF_IDS, *[255] * 85)[value]), COCO)
    assert "ids of stuffthingmaps, not converted" in fault and "prepare_coco_stuff.py" in fault
    fault = value_fault(changed(coco_maps(), lambda value: (*[i + 1 for i in COCO_STUFF_IDS], *[0] * 85)[value]), COCO)
    assert "category ids, which count from 1" in fault
    assert len(set(COCO_STUFF_ID_GAPS) & set(counted(coco_maps()).values)) > 5  # which converted labels do use


def test_coco_without_persons_is_in_another_order() -> None:
    counts = changed(coco_maps(), lambda value: 255 if value == 255 else (value + 80) % 171)
    assert "shifted or in another order: person (0) is in " in value_fault(counts, COCO, complete=True)
    assert value_fault(counts, COCO) == ""  # a part of COCO may have been chosen without persons


def test_grey_values_of_colours() -> None:
    grey = np.round(voc_palette(256) @ [0.299, 0.587, 0.114]).astype(int)
    fault = value_fault(changed(voc_maps(), lambda value: int(grey[value])), VOC)
    assert "grey values of the palette's colours" in fault


def test_context_categories_that_were_not_converted() -> None:
    fault = value_fault(counted([[2, 9, 65, 144, 220], [25, 85, 207]]), CONTEXT)
    assert "459 categories" in fault and "prepare_context.py" in fault


def test_unknown_values_and_empty_maps() -> None:
    fault = value_fault(counted([*voc_maps(), [0, 77]]), VOC)
    assert fault == "label values 77 (over 61 label maps) are not in the class list of voc12"
    assert "no label map holds any class" in value_fault(counted([[0, 255], [255]]), VOC)


def test_palettes_in_another_order() -> None:
    standard = voc_palette(256)
    used = np.array([0, 1, 2])
    assert palette_fault(used, standard.ravel().tolist()) == palette_fault(used, None) == ""
    assert palette_fault(used, standard[[0, 15, 255]].ravel().tolist()).startswith("its palette has VOC's colours in")
    assert palette_fault(used, [0, 0, 0, 1, 2, 3, 9, 9, 9]) == ""  # somebody's own colours say nothing
    assert palette_fault(np.array([7]), standard[:3].ravel().tolist()) == ""


def test_missing_masks_of_voc_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "SegmentationClass").mkdir()
    (tmp_path / "SegmentationClass" / "a.png").write_bytes(b"")
    fault = missing_labels_fault(VOC, tmp_path, ["b", "c"], "SegmentationClassAug")
    assert fault.startswith("2 of the missing masks in SegmentationClassAug are SBD's") and "prepare_voc12.py" in fault
    assert "1 of the missing masks in X are in SegmentationClass" in missing_labels_fault(VOC, tmp_path, ["a"], "X")
    both = missing_labels_fault(VOC, tmp_path, ["a", "b"], "X")
    assert "SBD's, which" in both and "are in SegmentationClass" in both
    assert missing_labels_fault(VOC, tmp_path, [], "X") == ""
    assert "prepare_coco_stuff.py" in missing_labels_fault(COCO, tmp_path, ["a"], "X")
    assert missing_labels_fault(class_list("shapes"), tmp_path, ["a"], "X") == ""
