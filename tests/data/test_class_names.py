"""Class lists: counts, uniqueness, splits, palettes; lists to calibrate on, where held-out classes play the unseen."""

from __future__ import annotations

import numpy as np
import pytest

from jseg.config import DataConfig
from jseg.data.class_names import (
    IGNORED,
    PUBLISHED_IMAGES,
    SHAPES_NAMES,
    class_labels,
    class_list,
    count_note,
    held_out_list,
    suggestion,
    training_labels,
    voc_palette,
)
from jseg.data.dataset import open_dataset
from jseg.errors import UserError

VOC = class_list("voc12")

LISTS = [
    ("shapes", "", 20, 5),
    ("voc12", "", 20, 5),
    ("coco_stuff", "", 171, 15),
    ("context", "A", 59, 10),
    ("context", "B", 59, 10),
]


@pytest.mark.parametrize(("dataset", "split", "count", "unseen"), LISTS)
def test_lists_have_the_published_counts(dataset: str, split: str, count: int, unseen: int) -> None:
    classes = class_list(dataset, split)
    assert len(classes.names) == len(set(classes.names)) == len(classes.stored) == len(set(classes.stored)) == count
    assert len(classes.unseen) == len(set(classes.unseen)) == unseen
    assert sorted(classes.seen + classes.unseen) == list(range(count))
    assert not set(classes.stored) & set(classes.stored_ignored)
    assert classes.palette.shape == (count, 3) and len({tuple(colour) for colour in classes.palette.tolist()}) == count


def test_unseen_classes_by_name() -> None:
    def unseen(dataset: str, split: str = "") -> str:
        classes = class_list(dataset, split)
        return ", ".join(classes.names[index] for index in classes.unseen)

    assert unseen("voc12") == "pottedplant, sheep, sofa, train, tvmonitor"
    assert unseen("coco_stuff") == (
        "cow, giraffe, suitcase, frisbee, skateboard, carrot, scissors, cardboard, clouds, grass, playingfield, river, "
        "road, tree, wall-concrete"
    )
    assert unseen("context", "A") == ("aeroplane, bird, boat, cat, cow, fence, keyboard, motorbike, sofa, tvmonitor")
    assert unseen("context", "B") == "aeroplane, bed, bedclothes, boat, bottle, car, cloth, cow, keyboard, plate"


def test_any_two_words_name_a_shapes_class_and_one_does_not() -> None:
    words = [name.split() for name in SHAPES_NAMES]
    for left_out in range(3):
        pairs = {tuple(part for i, part in enumerate(name) if i != left_out) for name in words}
        assert len(pairs) == len(SHAPES_NAMES)
    classes = class_list("shapes")
    for index in classes.unseen:
        for place, word in enumerate(words[index]):
            assert sum(words[seen][place] == word for seen in classes.seen) >= 2


def test_palette_is_that_of_voc() -> None:
    expected = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128)]  # of the development kit
    np.testing.assert_array_equal(voc_palette(5), expected)
    np.testing.assert_array_equal(voc_palette(256)[255], (224, 224, 192))
    np.testing.assert_array_equal(class_list("voc12").palette[0], (128, 0, 0))


def test_default_split_and_unknown_names() -> None:
    assert class_list("context") == class_list("context", "A") and class_list("context").title == "context (split A)"
    with pytest.raises(UserError, match="choose from shapes, voc12, coco_stuff, context"):
        class_list("voc")
    with pytest.raises(UserError, match="choose from A, B"):
        class_list("context", "C")
    with pytest.raises(UserError, match="only one"):
        class_list("voc12", "A")


def test_published_numbers() -> None:
    assert PUBLISHED_IMAGES["voc12"] == (1464 + 9118, 1449) and count_note("voc12", "val", 1449) == ""
    assert count_note("context", "val", 5104) == "context val has 5,104 images, the published runs 5,105"


def test_held_out_list() -> None:
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


def test_held_out_list_of_classes_in_the_middle() -> None:
    coco = class_list("coco_stuff")
    classes = held_out_list(coco, ("person",))
    assert len(classes.names) == 171 - 15 and not {coco.names[index] for index in coco.unseen} & set(classes.names)
    labels = class_labels(np.arange(171, dtype=np.uint8)[None], classes, "a.png")[0]
    for index, name in enumerate(coco.names):
        assert labels[index] == (IGNORED if index in coco.unseen else classes.names.index(name))


def test_shapes_follow_held_out() -> None:
    plain, held = DataConfig(), DataConfig(held_out=("red dotted square",))
    for index in range(6):
        (_, before, _), (_, after, _) = (open_dataset(data, "train").read(index) for data in (plain, held))
        np.testing.assert_array_equal(after, np.where(before >= 15, IGNORED, before))  # unseen ones are the last five


@pytest.mark.parametrize("names", [("sofa",), ("zebra",), ("cat", "cat"), VOC.names[:15]])
def test_classes_that_cannot_be_held_out(names: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match="some, not all, of the seen classes of voc12: choose from aeroplane"):
        held_out_list(VOC, names)


@pytest.mark.parametrize("dataset, count", [("voc12", 4), ("coco_stuff", 14), ("context", 8), ("shapes", 4)])
def test_suggestion_keeps_the_share_of_unseen_classes(dataset: str, count: int) -> None:
    classes = class_list(dataset)
    names = suggestion(classes)
    assert len(names) == count
    held_out_list(classes, names)
