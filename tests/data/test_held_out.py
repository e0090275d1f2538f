"""Class lists for calibration: the unseen classes are gone, held-out seen ones take their place."""

from __future__ import annotations

import numpy as np
import pytest

from jseg.config import DataConfig
from jseg.data.class_names import IGNORED, class_list
from jseg.data.dataset import SegmentationDataset, open_dataset
from jseg.data.held_out import classes_of, held_out_list, suggestion
from jseg.data.label_maps import class_labels, training_labels
from jseg.errors import UserError

VOC = class_list("voc12")


def test_list() -> None:
    classes = held_out_list(VOC, ("cat", "bird"))
    assert classes.names == VOC.names[:15] and "sofa" not in classes.names
    assert [classes.names[index] for index in classes.unseen] == ["bird", "cat"]
    assert classes.title == "voc12 (split held out: bird, cat)"
    stored = np.array([[0, 1, 3, 8, 15, 16, 20, 255]], np.uint8)  # 16, 20: pottedplant, tvmonitor
    labels = class_labels(stored, classes, "a.png")
    np.testing.assert_array_equal(labels, [[255, 0, 2, 7, 14, 255, 255, 255]])
    # in training neither the held-out nor the unseen classes are there
    np.testing.assert_array_equal(
        training_labels(labels, classes, "inductive"), [[255, 0, 255, 255, 12, 255, 255, 255]]
    )


def test_unseen_classes_in_the_middle_of_the_list() -> None:
    coco = class_list("coco_stuff")
    classes = held_out_list(coco, ("person",))
    assert len(classes.names) == 171 - 15 and not {coco.names[index] for index in coco.unseen} & set(classes.names)
    labels = class_labels(np.arange(171, dtype=np.uint8)[None], classes, "a.png")[0]
    for index, name in enumerate(coco.names):
        assert labels[index] == (IGNORED if index in coco.unseen else classes.names.index(name))


def test_data_sets_follow_the_config(voc: DataConfig) -> None:
    voc.held_out = ("cat",)
    dataset = SegmentationDataset(voc, "train")
    assert dataset.class_list == classes_of(voc) and dataset.class_list.unseen == (7,)
    values = np.unique(dataset.read(0)[1])
    assert set(values.tolist()) <= {*range(15), IGNORED}


def test_shapes_follow_the_config() -> None:
    plain, held = DataConfig(), DataConfig(held_out=("red dotted square",))
    for index in range(6):
        (_, before, _), (_, after, _) = (open_dataset(data, "train").read(index) for data in (plain, held))
        np.testing.assert_array_equal(after, np.where(before >= 15, IGNORED, before))  # unseen ones are the last five


@pytest.mark.parametrize(
    "names, match",
    [
        (("sofa",), "'sofa' is an unseen class of voc12: choose from aeroplane"),
        (("zebra",), "'zebra' is no class of voc12"),
        (("cat", "cat"), "different classes"),
        (VOC.names[:15], "fewer than the 15 seen"),
    ],
)
def test_mistakes(names: tuple[str, ...], match: str) -> None:
    with pytest.raises(UserError, match=match):
        held_out_list(VOC, names)


@pytest.mark.parametrize("dataset, count", [("voc12", 4), ("coco_stuff", 14), ("context", 8), ("shapes", 4)])
def test_suggestion_keeps_the_share_of_unseen_classes(dataset: str, count: int) -> None:
    classes = class_list(dataset)
    names = suggestion(classes)
    assert len(names) == count
    held_out_list(classes, names)
