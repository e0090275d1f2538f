"""Class lists: counts, splits, palette, calibration on held-out classes; stored values, class numbers and targets."""

import numpy as np
import pytest

from jseg.config import DataConfig
from jseg.data.class_names import (
    SHAPES_NAMES,
    UNSEEN_PIXEL,
    ClassList,
    class_labels,
    class_list,
    class_palette,
    classes_of,
    training_classes,
    training_labels,
    voc_palette,
)
from jseg.errors import UserError

LISTS = {  # data set, split: number of classes, unseen ones
    ("shapes", ""): (20, "red checked triangle, yellow striped square, green dotted star, blue ringed square, "
                         "purple dotted circle"),
    ("voc12", ""): (20, "pottedplant, sheep, sofa, train, tvmonitor"),
    ("coco_stuff", ""): (171, "cow, giraffe, suitcase, frisbee, skateboard, carrot, scissors, cardboard, clouds, "
                              "grass, playingfield, river, road, tree, wall-concrete"),
    ("context", "A"): (59, "aeroplane, bird, boat, cat, cow, fence, keyboard, motorbike, sofa, tvmonitor"),
    ("ade20k", ""): (150, ""),
    ("context", "B"): (59, "aeroplane, bed, bedclothes, boat, bottle, car, cloth, cow, keyboard, plate"),
}  # fmt: skip


def held_out_list(dataset: str, *names: str) -> ClassList:
    return classes_of(DataConfig(dataset=dataset, held_out=names))


@pytest.mark.parametrize(("dataset", "split"), LISTS)
def test_lists_are_the_published_ones(dataset: str, split: str) -> None:
    classes, (count, unseen) = class_list(dataset, split), LISTS[dataset, split]
    assert len(classes.names) == len(set(classes.names)) == len(classes.stored) == len(set(classes.stored)) == count
    assert ", ".join(classes.names[index] for index in classes.unseen) == unseen
    assert sorted(classes.seen + classes.unseen) == list(range(count))
    assert not set(classes.stored) & set(classes.stored_ignored)
    assert classes.palette.shape == (count, 3) and len({tuple(colour) for colour in classes.palette.tolist()}) == count


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


def test_unknown_names() -> None:
    assert class_list("context") == class_list("context", "A") and class_list("context").title == "context (split A)"
    for arguments, choices in (
        (("voc",), "shapes, shapes_open, voc12, coco_stuff, context, ade20k"),
        (("context", "C"), "A, B"),
        (("voc12", "A"), "only one"),
    ):
        with pytest.raises(UserError, match=choices):
            class_list(*arguments)


def test_held_out_list() -> None:
    classes, voc = held_out_list("voc12", "cat", "bird"), class_list("voc12")
    assert classes.names == voc.names[:15] and classes.title == "voc12 (split held out: bird, cat)"
    assert [classes.names[index] for index in classes.unseen] == ["bird", "cat"]
    stored = np.array([[0, 1, 3, 8, 15, 16, 20, 255]], np.uint8)  # 16, 20: pottedplant, tvmonitor
    labels = class_labels(stored, classes, "a.png")
    np.testing.assert_array_equal(labels, [[255, 0, 2, 7, 14, 255, 255, 255]])
    # in training neither the held-out nor the unseen classes are there
    found = training_labels(labels, classes, "inductive")
    np.testing.assert_array_equal(found, [[255, 0, 255, 255, 12, 255, 255, 255]])


@pytest.mark.parametrize("names", [("sofa",), ("zebra",), ("cat", "cat"), class_list("voc12").names[:15]])
def test_classes_that_cannot_be_held_out(names: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match="some, not all, of the seen classes of voc12: choose from aeroplane"):
        held_out_list("voc12", *names)


def test_values_outside_the_list_are_refused_with_file_and_values() -> None:
    with pytest.raises(UserError, match=r"a/b\.png: label values 21, 22, 23, 24, 25, 26, 27, 28 and 226 more are not"):
        class_labels(np.arange(256, dtype=np.uint8)[None], class_list("voc12"), "a/b.png")


def test_settings() -> None:
    classes = class_list("context", "B")
    labels, seen, unseen = np.append(np.arange(59), 255).astype(np.uint8), list(classes.seen), list(classes.unseen)
    for setting in ("inductive", "transductive", "supervised"):
        targets = training_labels(labels, classes, setting)
        assert targets[-1] == 255 and targets[targets != 255].max() < len(training_classes(classes, setting))
        expected = {"inductive": list(range(49)), "transductive": seen, "supervised": seen}
        assert targets[seen].tolist() == expected[setting]
        expected = {"inductive": [255] * 10, "transductive": [UNSEEN_PIXEL] * 10, "supervised": unseen}
        assert targets[unseen].tolist() == expected[setting]


def own(**changes: object) -> DataConfig:
    keys = {"dataset": "custom", "title": "streets", "names": ("road", "car", "bus"), "unseen": ("car",)}
    return DataConfig(**{**keys, "stored": (7, 26, 28), "ignored": (0, 255), **changes})


def test_own_classes_come_from_the_configuration() -> None:
    classes = classes_of(own(palette=((1, 2, 3), (4, 5, 6), (7, 8, 9))))
    assert classes == ClassList("streets", "", ("road", "car", "bus"), (1,), (7, 26, 28), (0, 255), classes.colours)
    assert classes.title == "streets" and classes.palette.tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    np.testing.assert_array_equal(class_labels(np.array([[0, 7, 26, 28, 255]]), classes, "a"), [[255, 0, 1, 2, 255]])
    held_out = classes_of(own(palette=classes.colours, held_out=("bus",)))
    assert (held_out.names, held_out.unseen, held_out.stored) == (("road", "bus"), (1,), (7, 28))
    assert held_out.palette.tolist() == [[1, 2, 3], [7, 8, 9]] and held_out.stored_ignored == (26, 0, 255)
    for ignored, stored in (((0, 255), (1, 2, 3)), ((255,), (0, 1, 2)), ((1,), (0, 2, 3)), ((), (0, 1, 2))):
        assert classes_of(own(stored=(), ignored=ignored)).stored == stored  # the lowest values that are left
    assert classes_of(own(title="")).title == "custom"
    np.testing.assert_array_equal(classes_of(own(palette=())).palette, class_palette(classes.names))
    assert classes_of(own(unseen=(), setting="supervised")).unseen == ()
    with pytest.raises(UserError, match=r"a\.png: label values 3 are not .* streets \(it has 7, 26, 28 and 0, 255\)"):
        class_labels(np.array([[3]]), classes, "a.png")


@pytest.mark.parametrize(("changes", "words"), [
    ({"names": ()}, "needs data.names"),
    ({"names": ("road", "? 26", "bus")}, "write names in place of those that begin with"),
    ({"names": ("road", "car", "car")}, "data.names: car is there twice"),
    ({"names": ("road", "car")}, "data.names has 2 names, data.stored 3 values"),
    ({"stored": (7, 26, 26)}, "data.stored, data.ignored: 26 is there twice"),
    ({"ignored": (7,)}, "data.stored, data.ignored: 7 is there twice"),
    ({"unseen": ("cat", "car")}, "data.unseen: cat not among data.names .road, car, bus"),
    ({"unseen": ()}, "data.unseen is empty: name the classes"),
    ({"unseen": ("bus", "car", "road")}, "holds all classes"),
    ({"palette": ((0, 0, 0),)}, "1 colours for 3 classes"),
    ({"palette": ((0, 0, 256),) * 3}, "must be 0..255"),
    ({"title": "voc12"}, "is a data set of jseg"),
    ({"dataset": "voc12"}, "describe your own data, not voc12: set data.dataset='custom'"),
])  # fmt: skip
def test_keys_of_own_data_that_do_not_fit_together(changes: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        classes_of(own(**changes))
