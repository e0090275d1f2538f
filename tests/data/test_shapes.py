"""The drawn data set: exact masks, determinism, variety, captions, and that colour alone does not solve it."""

import itertools
import pickle
from collections import Counter

import cv2
import numpy as np
import pytest

from jseg.config import DataConfig, ShapesConfig
from jseg.data import shapes
from jseg.data.class_names import SHAPES_NAMES, SHAPES_OPEN_NAMES, class_list
from jseg.data.shapes import Scene, ShapesDataset
from jseg.metrics import ConfusionMatrix

RECORDED_OBJECTS = [
    ["red ringed star", "yellow striped square", "purple striped cross", "green ringed circle"],
    ["purple checked square", "red striped circle", "yellow striped square"],
    ["red checked triangle", "green striped triangle", "yellow striped square", "purple checked square"],
]
RECORDED_MEANS = [110.76, 107.46, 117.12]


def dataset(split: str = "train", **options: object) -> ShapesDataset:
    return ShapesDataset(DataConfig(shapes=ShapesConfig(**options)), split)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    data = dataset()
    return [data.scene(index) for index in range(300)]


def test_scenes_depend_on_seed_split_and_index_only() -> None:
    first, again = dataset(), pickle.loads(pickle.dumps(dataset()))
    for index in (5, 0, 5):
        np.testing.assert_array_equal(first.read(index)[0], again.read(index)[0])
        np.testing.assert_array_equal(first.read(index)[1], again.read(index)[1])
    np.testing.assert_array_equal(dataset("test").read(3)[0], dataset("val").read(3)[0])
    kinds = itertools.product(("train", "val"), (0, 1, 101, 102), (0, 1, 99))  # 101 and 102 tell the splits apart
    images = [dataset(split, seed=seed).read(index)[0].tobytes() for split, seed, index in kinds]
    assert len(set(images)) == len(images)
    image, labels, name = dataset("val").read(7)
    assert image.shape == (96, 96, 3) and labels.shape == (96, 96) and image.dtype == labels.dtype == np.uint8
    assert name == "val_000007" and len(dataset("val")) == 100 and len(dataset("train")) == 2000


def test_the_generator_has_not_changed() -> None:
    """Shipped weights and expected numbers belong to these scenes: a change here asks for new ones."""
    data = dataset()
    found = [[SHAPES_NAMES[item.class_index] for item in data.scene(index).objects] for index in range(3)]
    assert found == RECORDED_OBJECTS
    means = [data.scene(index).image.mean() for index in range(3)]
    np.testing.assert_allclose(means, RECORDED_MEANS, atol=0.5)  # rounding may differ between processors


def test_shapes_open_has_other_classes_of_the_same_words() -> None:
    """Each word as often as in `shapes`, so that no word is rarer; the scenes are drawn by these names."""
    assert len({*SHAPES_NAMES, *SHAPES_OPEN_NAMES}) == 40
    words = [Counter(" ".join(names).split()) for names in (SHAPES_NAMES, SHAPES_OPEN_NAMES)]
    assert words[0] == words[1]
    scenes = [ShapesDataset(DataConfig(dataset=name), "val").scene(0) for name in ("shapes_open", "shapes")]
    same = (scenes[0].labels != 255) & (scenes[0].labels == scenes[1].labels)  # the first scenes have the same places
    assert same.sum() > 500 and (scenes[0].image != scenes[1].image)[same].any(axis=1).mean() > 0.1


def test_labels_show_the_objects_and_nothing_else(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert set(np.unique(scene.labels)) - {255} == {item.class_index for item in scene.objects}
        assert len({item.class_index for item in scene.objects}) == len(scene.objects)
        assert (scene.labels == 255).any()


def test_variety(scenes: list[Scene]) -> None:
    objects = [item for scene in scenes for item in scene.objects]
    assert set(Counter(len(scene.objects) for scene in scenes)) == {1, 2, 3, 4}
    diameters = np.array([item.diameter for item in objects])
    assert 0.2 <= diameters.min() < 0.23 and 0.7 < diameters.max() <= 0.8  # 1:4
    counts = Counter(item.class_index for item in objects)
    assert len(counts) == 20 and min(counts.values()) > 0.5 * len(objects) / 20
    assert np.ptp([scene.image.mean() for scene in scenes]) > 80
    assert {(scene.labels[0] != 255).any() for scene in scenes} == {True, False}  # some are cut off by the border


def outline_distance(points: np.ndarray, size: int) -> np.ndarray:
    """Signed distance of every pixel centre to a polygon, positive inside: an oracle in plain geometry."""
    contour = (points * 1000).astype(np.int32).reshape(-1, 1, 2)
    places = [(1000.0 * column, 1000.0 * row) for row in range(size) for column in range(size)]
    return np.array([cv2.pointPolygonTest(contour, place, True) / 1000 for place in places]).reshape(size, size)


@pytest.mark.parametrize("shape", ["circle", "square", "triangle", "star", "cross"])
def test_masks_are_the_outline_to_a_pixel(shape: str) -> None:
    points = shapes.outline(shape) * 17.3 + (24.2, 22.7)
    mask, distance = shapes.fill(points, (48, 48)), outline_distance(points, 48)
    assert mask[distance > 0.1].all() and not mask[distance < -1].any()
    radii = np.hypot(*shapes.outline(shape).T)
    assert 0.9 < radii.max() < 1.2


def test_other_sizes_and_object_counts() -> None:
    scene = dataset(size=(64, 160), objects=(1, 1)).scene(0)
    assert scene.image.shape == (64, 160, 3) and scene.labels.shape == (64, 160) and len(scene.objects) == 1
    assert max(len(dataset(objects=(6, 6)).scene(index).objects) for index in range(5)) >= 5


def test_captions_speak_of_what_is_there() -> None:
    data, captions = dataset(), []
    attributes = {word for name in SHAPES_NAMES for word in name.split()}
    for index in range(200):
        objects = data.scene(index).objects
        caption = shapes.describe(objects, np.random.default_rng(index))
        words = {*caption.rstrip(".").replace(",", "").split()}
        allowed = {word for item in objects for word in SHAPES_NAMES[item.class_index].split()}
        assert words & allowed and words & attributes <= allowed, caption
        assert caption == caption.strip() and caption.endswith(".") and "  " not in caption
        captions.append(caption)
    assert len(set(captions)) > 190
    full = sum(any(name in caption for name in SHAPES_NAMES) for caption in captions)
    assert 0.7 < full / len(captions) < 0.98  # most name a class in full, some leave words out
    assert all(word in " ".join(captions) for word in ("large", "small", "there", "this"))
    assert all(SHAPES_NAMES[index] in " ".join(captions) for index in class_list("shapes").unseen)


@pytest.mark.parametrize("blur", [1, 9])
@pytest.mark.parametrize("space", ["RGB", "hue"])
def test_nearest_colour_fails(space: str, blur: int) -> None:
    """Even with the labels of all 20 classes to learn from, the nearest mean colour stays below 20 hIoU."""

    def pixels(data: ShapesDataset, count: int) -> tuple[np.ndarray, np.ndarray]:
        colours, labels = [], []
        for image, found, _ in map(data.read, range(count)):
            image = cv2.blur(image, (blur, blur)).astype(np.float32)
            if space == "hue":
                hsv = cv2.cvtColor(image / 255, cv2.COLOR_RGB2HSV)
                angle = np.deg2rad(hsv[..., 0])
                image = np.stack([np.cos(angle), np.sin(angle)], -1) * hsv[..., 1:2]
            colours.append(image[found != 255])
            labels.append(found[found != 255])
        return np.concatenate(colours), np.concatenate(labels)

    colours, labels = pixels(dataset("train"), 200)
    means = np.stack([colours[labels == index].mean(0) for index in range(20)])
    colours, labels = pixels(dataset("val"), 60)
    matrix, classes = ConfusionMatrix(20), class_list("shapes")
    matrix.update(((colours[:, None] - means) ** 2).sum(-1).argmin(1), labels)
    assert 2 < matrix.summary(classes.seen, classes.unseen, classes.names)["hIoU"] < 20
