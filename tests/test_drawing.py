"""Drawings: files read back as they were written, colours and marks where they belong, sizes that fit."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jseg.data.class_names import SHAPES_NAMES, class_list, class_palette
from jseg.drawing import (
    GREY,
    UNSEEN_INK,
    confusion_image,
    legend,
    overlay,
    overlay_with_legend,
    sheet,
    write_label_map,
    write_segmentation,
)
from jseg.errors import UserError
from jseg.outputs import is_ours

PALETTE = np.array([[200, 0, 0], [0, 200, 0], [0, 0, 200]], dtype=np.uint8)
CLASSES = ("cat", "dog", "emu"), PALETTE, (2,)  # emu is unseen


def has_colour(image: np.ndarray, colour: tuple[int, ...] | np.ndarray) -> bool:
    return bool((image == np.asarray(colour)).all(axis=-1).any())


@pytest.mark.parametrize("classes", [3, 256, 300])
def test_label_map_reads_back_with_its_palette(tmp_path: Path, classes: int) -> None:
    """Up to 256 classes; more than a palette holds are grey values of 16 bits."""
    labels, palette = np.array([[0, 1, classes - 1], [2, 1, 0]]), class_palette(["thing"] * classes)
    write_label_map(tmp_path / "a" / "map.png", labels, palette)
    with Image.open(tmp_path / "a" / "map.png") as image:
        np.testing.assert_array_equal(np.asarray(image), labels)
        if classes <= 256:
            np.testing.assert_array_equal(np.asarray(image.convert("RGB")), palette[labels])


@pytest.mark.parametrize(("value", "colours"), [(254, 3), (-1, 3), (300, 300)])
def test_labels_without_a_colour_are_refused(tmp_path: Path, value: int, colours: int) -> None:
    with pytest.raises(UserError, match=r"map\.png: labels .* palette of"):
        write_label_map(tmp_path / "map.png", np.array([[0, value]]), class_palette(["thing"] * colours))
    assert not list(tmp_path.iterdir())


def test_255_is_no_class_in_a_palette_of_any_length(tmp_path: Path) -> None:
    """In a shorter palette PNG cuts 255 to fewer bits: another class."""
    for count in (2, 3, 255):
        write_label_map(tmp_path / "map.png", np.array([[0, 255, 1]]), class_palette(["thing"] * count))
        with Image.open(tmp_path / "map.png") as image:
            assert np.asarray(image).tolist() == [[0, 255, 1]]
            assert np.asarray(image.convert("RGB"))[0, 1].tolist() == list(GREY)


def test_colours_are_far_apart_bright_and_follow_colour_words() -> None:
    names = ["dog", "Red car", "red striped circle", "green tree", "white cat", *(f"thing {n}" for n in range(12))]
    colours = class_palette(names).astype(int)
    gaps = np.linalg.norm(colours[:, None] - [*colours, GREY], axis=2) + 999 * np.eye(17, 18)
    assert gaps.min() > 40 and colours.max(axis=1).min() > 100
    assert (colours[1:3, 0] > colours[1:3, 1:].max(axis=1) + 90).all()  # both red ones
    assert colours[3].argmax() == 1 and colours[4].min() > 200
    assert class_palette(["a red dot on green", "white a", "white b"])[0].argmax() == 0  # the first word counts
    assert class_palette([]).shape == (0, 3)
    assert len(np.unique(class_palette([f"n{index}" for index in range(256)]), axis=0)) == 256


def test_colours_of_the_drawn_scenes_are_those_of_the_names() -> None:
    highest = {"red": [0], "green": [1], "blue": [2], "purple": [0, 2], "yellow": [0, 1]}
    for name, colour in zip(SHAPES_NAMES, class_list("shapes").palette.astype(int), strict=True):
        channels = highest[name.split()[0]]
        assert colour[channels].min() > np.delete(colour, channels).max() - 60, name
        assert colour.argmax() in channels, name


def test_both_outputs_of_an_image_appear_or_none(tmp_path: Path) -> None:
    """The longest name that a label map can have leaves no room for that of the overlay."""
    labels, drawn = np.zeros((2, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)
    with pytest.raises(OSError, match="File name too long"):
        write_segmentation(tmp_path, "x" * 250, labels, PALETTE, drawn)
    with pytest.raises(UserError, match="do not fit a palette"):
        write_segmentation(tmp_path, "a", labels + 9, PALETTE, drawn)
    assert list(tmp_path.iterdir()) == []
    write_segmentation(tmp_path, "a", labels, PALETTE, drawn)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a_overlay.png"]
    assert all(is_ours(path) for path in tmp_path.iterdir())
    with Image.open(tmp_path / "a.png") as image:  # an editor that changes the image drops the mark
        image.save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png was not written by jseg \(--overwrite"):
        write_segmentation(tmp_path, "a", labels, PALETTE, drawn)
    write_segmentation(tmp_path, "a", labels, PALETTE, drawn, overwrite=True)
    assert is_ours(tmp_path / "a.png")


def test_overlay_tints_outlines_and_shows_pixels_of_no_class_in_grey() -> None:
    image = np.full((8, 8, 3), (100, 50, 0), np.uint8)  # as grey: 59
    labels = np.zeros((8, 8), np.uint8)
    labels[:, 4:], labels[6:] = 1, 255
    tinted = overlay(image, labels, PALETTE, opacity=0.5)
    np.testing.assert_array_equal(tinted[2, 1], [150, 25, 0])
    np.testing.assert_array_equal(tinted[2, 6], [50, 125, 0])
    np.testing.assert_array_equal(tinted[2, 4], [20, 50, 0])  # the border between the classes
    np.testing.assert_allclose(tinted[7, 1], 94, atol=1)
    lines = overlay(image, labels, PALETTE, outline=True)
    np.testing.assert_array_equal(lines[2, [1, 3, 4]], [image[0, 0], PALETTE[0], PALETTE[1]])


def test_outlines_grow_with_the_image_and_large_regions_are_named() -> None:
    labels = np.zeros((1500, 1500), np.uint8)
    labels[:, 750:], labels[:9, :9] = 1, 2
    image = np.full((*labels.shape, 3), 200, np.uint8)
    plain, named = (overlay(image, labels, PALETTE, names=names) for names in ((), CLASSES[0]))
    assert (plain[1000].max(axis=1) < 100).nonzero()[0].tolist() == [749, 750, 751]
    changed = (plain != named).any(axis=2)
    assert changed[:, :750].any() and changed[:, 750:].any()  # both large regions, in their middle
    assert not changed[:200].any() and not changed[1300:].any()


def test_legend_shows_only_what_is_present_largest_first_and_marks_the_unseen() -> None:
    labels = np.array([[1, 1, 0, 255]])
    seen_only = legend([labels], *CLASSES, width=300, text_size=14)
    columns = [np.flatnonzero((seen_only == colour).all(axis=2).any(axis=0)) for colour in PALETTE]
    assert 0 < columns[1].max() < columns[0].min() and not columns[2].size
    assert not has_colour(seen_only, UNSEEN_INK)
    assert has_colour(legend([np.array([[2]])], *CLASSES, width=300, text_size=14), UNSEEN_INK)


def test_legend_of_one_image_has_ten_entries_and_names_the_rest() -> None:
    labels = np.repeat(np.arange(14), range(20, 6, -1))[None]  # each smaller than that before it
    names, palette = [f"n{index}" for index in range(14)], class_palette(["thing"] * 14)
    strip = legend([np.append(labels, np.full((1, 30), 255), axis=1)], names, palette, (), 300, 14, shares=True)
    shown = [has_colour(strip, colour) for colour in (GREY, *palette)]
    assert shown == [True] * 10 + [False] * 5


@pytest.mark.parametrize("shape", [(40, 700), (700, 40), (1, 1)])
def test_overlay_with_legend_at_any_size(shape: tuple[int, int]) -> None:
    image = overlay_with_legend(np.zeros((*shape, 3), np.uint8), np.full(shape, 2), *CLASSES)
    assert image.dtype == np.uint8 and image.shape[0] > shape[0] and image.shape[1] >= shape[1]
    assert has_colour(image[shape[0] :], PALETTE[2])


def test_sheet_compares_with_the_ground_truth_when_there_is_one() -> None:
    image, labels = np.full((60, 90, 3), 100, np.uint8), np.arange(5400).reshape(60, 90) % 3
    without = sheet([("one", image, labels, None)], *CLASSES, "shapes")
    assert has_colour(without, UNSEEN_INK)
    truth = np.zeros((288, 288), int)
    truth[:, 96:192] = 255
    prediction = np.where(np.arange(288) < 240, 0, 2) * np.ones_like(truth)  # from left: right, does not count, wrong
    grey = np.full((*truth.shape, 3), 100, np.uint8)
    found = sheet([("x", grey, prediction, truth), ("y", grey, prediction, None)], *CLASSES, "shapes")
    assert found.shape[1] > without.shape[1]
    row = found[200, 12:].reshape(-1, 300, 3)[:, [40, 140, 220, 270]].astype(int)  # image, truth, prediction, errors
    tinted, none = (0.3 * 100 + 0.7 * np.array([*PALETTE, (255, 255, 255), (230, 0, 0)])), 0.3 * 100 + 0.7 * 128
    expected = [[100] * 3] * 4, [tinted[0], [none] * 3, tinted[0], tinted[0]]
    expected += [tinted[0], [none] * 3, tinted[0], tinted[2]], [tinted[3], [none] * 3, tinted[3], tinted[4]]
    np.testing.assert_allclose(row, np.array([[np.broadcast_to(x, 3) for x in panel] for panel in expected]), atol=1)
    second = found[200 + 288 + 19, 12:].reshape(-1, 300, 3)[:, 270]
    np.testing.assert_allclose(second, [[100] * 3, [255] * 3, tinted[2], [255] * 3], atol=1)


@pytest.mark.parametrize(("classes", "cell"), [(15, 36), (59, 33), (171, 11), (400, 5)])
def test_a_confusion_matrix_is_drawn_at_any_number_of_classes(classes: int, cell: int) -> None:
    """Right is blue, wrong red, a row without pixels grey; the row counts, not the pixels; names where they fit."""
    counts = np.zeros((classes, classes), np.int64)
    counts[0, 0], counts[1, :2], counts[3, 3] = 10**9, (3, 1), 1
    image = confusion_image(counts, [f"thing {index}" for index in range(classes)], (1,)).astype(int)
    assert image.shape == (180 + cell * classes, 180 + cell * classes, 3)
    cells = image[180:, 180:][2::cell, 2::cell]  # a corner of each, where no number is
    np.testing.assert_array_equal(cells[0, 0], cells[3, 3])
    assert cells[0, 0].argmax() == cells[1, 1].argmax() == 2 and cells[1, 0].argmax() == 0
    sums = cells.sum(axis=2)  # darker the larger the share
    assert sums[0, 0] < sums[1, 1] < sums[0, 1] == sums[0, 2] == 3 * 255 and sums[1, 0] < sums[0, 1]
    assert (cells[2] == 200).all() and (cells[4:] == 200).all()
    for strip in (image[180:, :180], image[:180, 180:].transpose(1, 0, 2)):
        named = [(line < 255).any() for line in np.split(strip, classes)]
        red = [has_colour(line, UNSEEN_INK) for line in np.split(strip, classes)]
        assert named == [classes <= 200] * classes and (red[1] or cell < 12) and sum(red) <= (classes <= 200)
    written = [(image[180:, 180:][2:cell, cell * x + 2 : cell * (x + 1)] != cells[0, x]).any() for x in (0, 1)]
    assert written == [cell >= 25, False]  # the percents
