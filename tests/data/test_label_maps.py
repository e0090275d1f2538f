"""Label numbering against recorded label handling of the release."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from jseg.data.class_names import (
    UNSEEN_PIXEL,
    ClassList,
    class_labels,
    class_list,
    stored_lookup,
    training_classes,
    training_labels,
)
from jseg.errors import UserError


def test_recorded_settings(golden: Path) -> None:
    files = sorted((golden / "jseg_release").glob("labels_*.npz"))
    assert files
    for path in files:
        with np.load(path) as file:
            cfg, given = json.loads(str(file["cfg"])), file["in/gt"].astype(np.uint8)
            expected, lookup = file["out/gt_out"], file["out/visibility_lut"]
        count, unseen = cfg["n_cls"], tuple(cfg["novel_class"])
        names = tuple(map(str, range(count)))
        classes = ClassList("recorded", "", names, unseen, tuple(range(count)), (255,))
        setting = "transductive" if cfg["self_training"] else "inductive" if unseen else "supervised"
        found = training_labels(given, classes, setting)
        assert found.dtype == np.int32
        compared = (given < count) | (
            given == 255
        )  # the release lets other values through, ours refuses them on reading
        if setting == "transductive":  # the recorded labels hold pseudo-labels where ours hold the marker
            unseen_pixel = np.isin(given, unseen)
            assert (found[unseen_pixel] == UNSEEN_PIXEL).all() and np.isin(expected[unseen_pixel], unseen).all()
            compared &= ~unseen_pixel
        np.testing.assert_array_equal(found[compared], expected[compared])
        if len(lookup):
            np.testing.assert_array_equal(np.flatnonzero(lookup[:count] >= 0), training_classes(classes, "inductive"))


def test_stored_values_against_the_recorded_reader(golden: Path) -> None:
    with np.load(golden / "jseg_release" / "data.npz") as file:
        recorded = {name: file[f"out/load_ann_reduce_{name}"] for name in ("True", "False")}
    voc, coco = class_list("voc12"), class_list("coco_stuff")
    for classes, table in ((voc, recorded["True"]), (coco, recorded["False"])):
        known = [*classes.stored, *classes.stored_ignored]
        np.testing.assert_array_equal(stored_lookup(classes)[known], table[known])


def test_values_outside_the_list_are_refused_with_file_and_values() -> None:
    stored = np.array([[0, 1, 20], [255, 21, 30]], np.uint8)
    with pytest.raises(UserError, match=r"a/b\.png: label values 21, 30 are not in the class list of voc12") as caught:
        class_labels(stored, class_list("voc12"), "a/b.png")
    assert "\n" not in str(caught.value)
    many = np.arange(256, dtype=np.uint8)[None]
    with pytest.raises(UserError, match="21, 22, 23, 24, 25, 26, 27, 28 and 226 more"):
        class_labels(many, class_list("voc12"), "a/b.png")


def test_settings() -> None:
    classes = class_list("context", "B")
    labels = np.append(np.arange(59), 255).astype(np.uint8)
    inductive = training_labels(labels, classes, "inductive")
    assert inductive[list(classes.seen)].tolist() == list(range(49)) and (inductive[list(classes.unseen)] == 255).all()
    transductive = training_labels(labels, classes, "transductive")
    assert transductive[list(classes.seen)].tolist() == list(classes.seen)
    assert (transductive[list(classes.unseen)] == UNSEEN_PIXEL).all()
    np.testing.assert_array_equal(training_labels(labels, classes, "supervised"), labels)
    for setting in ("inductive", "transductive", "supervised"):
        assert training_labels(labels, classes, setting)[-1] == 255
        targets = training_labels(labels, classes, setting)
        assert targets[targets != 255].max() < len(training_classes(classes, setting))
