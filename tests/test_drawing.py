"""Drawings: files read back as they were written, colours and marks where they belong, sizes that fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jseg.drawing import (
    UNSEEN_INK,
    Classes,
    Example,
    check_outputs,
    class_areas,
    distinct_palette,
    largest_first,
    legend,
    output_paths,
    overlay,
    overlay_with_legend,
    sheet,
    write_image,
    write_label_map,
)
from jseg.errors import UserError

PALETTE = np.array([[200, 0, 0], [0, 200, 0], [0, 0, 200]], dtype=np.uint8)
CLASSES = Classes(("cat", "dog", "emu"), PALETTE, unseen=(2,))


def has_colour(image: np.ndarray, colour: tuple[int, ...] | np.ndarray) -> bool:
    return bool((image == np.asarray(colour)).all(axis=-1).any())


def test_label_map_reads_back_with_its_palette(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 2], [2, 1, 0]])
    write_label_map(tmp_path / "a" / "map.png", labels, PALETTE)
    with Image.open(tmp_path / "a" / "map.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), labels)
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), PALETTE[labels])
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["map.png"]


def test_more_classes_than_a_palette_holds(tmp_path: Path) -> None:
    labels = np.array([[0, 299], [255, 256]])
    write_label_map(tmp_path / "map.png", labels, distinct_palette(300))
    with Image.open(tmp_path / "map.png") as image:
        np.testing.assert_array_equal(np.asarray(image), labels)


@pytest.mark.parametrize(("value", "colours"), [(255, 3), (3, 3), (-1, 3), (256, 256), (300, 300)])
def test_labels_without_a_colour_are_refused(tmp_path: Path, value: int, colours: int) -> None:
    """Stored in a short palette, 255 would be cut to the bits of another class."""
    with pytest.raises(UserError, match=r"map\.png: labels .* palette of"):
        write_label_map(tmp_path / "map.png", np.array([[0, value]]), distinct_palette(colours))
    assert not list(tmp_path.iterdir())


def test_outputs_that_would_overwrite_are_refused(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.png").write_text("an input")
    (tmp_path / "link").symlink_to(tmp_path / "labels")
    inputs = [tmp_path / "labels" / "a.png"]
    with pytest.raises(UserError, match=r"a\.png itself would be overwritten"):
        check_outputs(output_paths(tmp_path / "link", "a"), inputs)
    check_outputs(output_paths(tmp_path / "link", "b"), inputs)
    with pytest.raises(UserError, match=r"several images would be written to .*a_overlay\.png"):
        check_outputs([*output_paths(tmp_path, "a"), *output_paths(tmp_path, "a_overlay")], [])


def test_a_failed_write_leaves_nothing_and_says_where(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        write_image(tmp_path / "file" / "image.png", np.zeros((2, 2, 3), np.uint8))
    (tmp_path / "image.png").mkdir()
    with pytest.raises(UserError, match=r"image\.png"):
        write_image(tmp_path / "image.png", np.zeros((2, 2, 3), np.uint8))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "image.png"]


def test_overlay_tints_outlines_and_darkens_the_ignored() -> None:
    image = np.full((8, 8, 3), 100, np.uint8)
    labels = np.zeros((8, 8), np.uint8)
    labels[:, 4:], labels[6:] = 1, 255
    tinted = overlay(image, labels, PALETTE, opacity=0.5)
    np.testing.assert_array_equal(tinted[2, 1], [150, 50, 50])
    np.testing.assert_array_equal(tinted[2, 6], [50, 150, 50])
    np.testing.assert_array_equal(tinted[2, 4], [20, 60, 20])  # the border between the classes
    np.testing.assert_array_equal(tinted[7, 1], [33, 33, 33])
    assert (image == 100).all()


def test_classes_are_sorted_by_area() -> None:
    areas = class_areas(np.array([[2, 2, 0, 255]]), 3)
    np.testing.assert_array_equal(areas, [1, 0, 2])
    assert largest_first(areas) == [2, 0] and largest_first(np.array([3, 4, 4])) == [1, 2, 0]


def test_legend_shows_only_what_is_present_and_marks_the_unseen() -> None:
    seen_only = legend(CLASSES, [0, 1], width=300, text_size=14)
    assert has_colour(seen_only, PALETTE[0]) and has_colour(seen_only, PALETTE[1])
    assert not has_colour(seen_only, PALETTE[2]) and not has_colour(seen_only, UNSEEN_INK)
    assert has_colour(legend(CLASSES, [2], width=300, text_size=14), UNSEEN_INK)


def test_legend_wraps_and_cuts_names_that_do_not_fit() -> None:
    long_names = Classes(["a name far longer than the strip is wide " * 3] * 4, distinct_palette(4))
    strip = legend(long_names, range(4), width=200, text_size=14)
    assert strip.shape[1] == 200
    assert strip.shape[0] > 4 * 14
    assert all(has_colour(strip, colour) for colour in long_names.palette)
    assert (strip[:, -3:] == 255).all()


@pytest.mark.parametrize("shape", [(96, 96), (40, 700), (700, 40), (1, 1), (500, 375)])
def test_overlay_with_legend_at_any_size(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    labels = np.full(shape, 2)
    image = overlay_with_legend(rng.integers(0, 256, (*shape, 3), dtype=np.uint8), labels, CLASSES)
    assert image.dtype == np.uint8
    assert image.shape[0] > shape[0] and image.shape[1] >= shape[1]
    assert has_colour(image[shape[0] :], PALETTE[2])


def test_sheet_has_a_column_for_ground_truth_only_when_there_is_one() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (60, 90, 3), dtype=np.uint8)
    labels = rng.integers(0, 3, (60, 90))
    without = sheet([Example("one", image, labels)], CLASSES)
    truth = np.where(labels == 1, 255, labels)
    examples = [Example("one", image, labels, truth), Example("two", image, labels)]
    with_truth = sheet(examples, CLASSES, title="shapes")
    assert with_truth.shape[1] > without.shape[1]
    assert with_truth.shape[0] > 2 * 60
    assert has_colour(without, UNSEEN_INK)


def test_colours_are_distinct() -> None:
    colours = distinct_palette(24).astype(int)
    distances = np.abs(colours[:, None] - colours[None]).sum(axis=-1) + 1000 * np.eye(24, dtype=int)
    assert distances.min() > 40
    assert distinct_palette(0).shape == (0, 3)
