"""Class lists: counts, uniqueness, splits, palettes."""

from __future__ import annotations

import numpy as np
import pytest

from jseg.data.class_names import SHAPES_NAMES, class_list, voc_palette
from jseg.errors import UserError

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


def test_default_split_of_context_is_a_and_named_in_its_title() -> None:
    assert class_list("context") == class_list("context", "A")
    assert class_list("context").title == "context (split A)"
    assert class_list("voc12").title == "voc12"


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
    expected = [
        (0, 0, 0),
        (128, 0, 0),
        (0, 128, 0),
        (128, 128, 0),
        (0, 0, 128),
    ]  # the first five of the development kit
    np.testing.assert_array_equal(voc_palette(5), expected)
    np.testing.assert_array_equal(voc_palette(256)[255], (224, 224, 192))
    np.testing.assert_array_equal(class_list("voc12").palette[0], (128, 0, 0))


def test_unknown_names_list_the_choices() -> None:
    with pytest.raises(UserError, match="choose from shapes, voc12, coco_stuff, context"):
        class_list("voc")
    with pytest.raises(UserError, match="choose from A, B"):
        class_list("context", "C")
    with pytest.raises(UserError, match="only one"):
        class_list("voc12", "A")
