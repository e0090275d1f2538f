"""Captioned images: reproducible, framed around an object, with captions that are true of them."""

import dataclasses

import numpy as np
import pytest

from jseg.data.class_names import SHAPES_NAMES
from jseg.pretraining.images import (
    Settings,
    Stage,
    cut,
    draw,
    image_batch,
    image_batches,
    make_tokenizer,
    phrase_classes,
    true_captions,
)


def index(name: str) -> int:
    return SHAPES_NAMES.index(name)


def test_phrases_name_classes() -> None:
    assert phrase_classes("there are a small red striped circle.") == 1 << index("red striped circle")
    assert phrase_classes("a picture with") == 0
    assert phrase_classes("a red thing") == sum(1 << index(name) for name in SHAPES_NAMES if name.startswith("red "))
    for name in SHAPES_NAMES:  # two of its three words name a class
        for left_out in name.split():
            assert phrase_classes(name.replace(left_out, "")) == 1 << index(name)


def test_captions_are_true_of_images_that_hold_all_they_name() -> None:
    circle, star = 1 << index("red striped circle"), 1 << index("green dotted star")
    captions = ["a photo of a red striped circle.", "a green star, a striped circle in the scene.", "a dotted star."]
    expected = [[True, False, False], [True, True, True], [False, False, True]]
    assert true_captions(captions, [circle, circle | star, star]).tolist() == expected


@pytest.mark.parametrize("objects, zoom", [((1, 1), (0.8, 2.0)), ((2, 4), (0.75, 1.4)), ((2, 4), None)])
def test_images_hold_what_their_caption_names(objects: tuple[int, int], zoom: tuple[float, float] | None) -> None:
    for number in range(40):
        scene, rng = draw(objects, 1, number)
        item = cut(scene, Stage(1, 1, 48, objects, zoom), rng)
        assert item.image.shape == (48, 48, 3) and item.image.dtype == np.uint8
        assert item.present >> item.class_index & 1
        assert true_captions([item.caption], [item.present]).all(), item.caption
        assert item.present & ~sum(1 << thing.class_index for thing in scene.objects) == 0


def test_batches_depend_on_seed_and_iteration_alone(tiny: Settings) -> None:
    tokenizer = make_tokenizer(tiny)
    first = image_batch(tiny, tokenizer, 2)
    for array, again in zip(first, image_batch(tiny, tokenizer, 2), strict=True):
        np.testing.assert_array_equal(array, again)
    assert first[2].diagonal().all()
    other = image_batch(dataclasses.replace(tiny, seed=1), tokenizer, 2)
    assert not np.array_equal(first[0], other[0])


def test_workers_draw_the_same_batches(tiny: Settings) -> None:
    tokenizer = make_tokenizer(tiny)
    found = list(image_batches(dataclasses.replace(tiny, workers=1), tokenizer, 3))
    assert len(found) == 3
    for iteration, batch in enumerate(found):
        for array, expected in zip(batch, image_batch(tiny, tokenizer, iteration), strict=True):
            np.testing.assert_array_equal(array, expected)
