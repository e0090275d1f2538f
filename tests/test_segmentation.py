"""Segmentation results: masks, polygons and annotations against pycocotools, files, how they show themselves."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO

from jseg.errors import UserError
from jseg.outputs import is_ours
from jseg.segmentation import PARTS, Segmentation, outlines, run_lengths

NAMES = ("cat", "red car", "emu")


@pytest.fixture
def result() -> Segmentation:
    """Patches of three classes of which one is not there, and of none."""
    labels = np.random.default_rng(0).choice([0, 1, 255], (6, 9)).astype(np.int32).repeat(5, 0).repeat(4, 1)
    image, confidence = np.full((*labels.shape, 3), 90, np.uint8), np.linspace(0, 1, labels.size, dtype=np.float32)
    scores = np.random.default_rng(1).random((3, *labels.shape), dtype=np.float32)
    return Segmentation(labels, NAMES, scores, confidence.reshape(labels.shape), image)


def masks() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    ring = np.zeros((9, 9), bool)
    ring[1:8, 1:8], ring[3:6, 3:6], ring[4, 4] = True, False, True  # an island in a hole
    noise = [rng.random((20, 31)) < share for share in (0.2, 0.5, 0.8)]
    return [ring, *noise, np.ones((3, 4), bool), np.zeros((3, 4), bool), np.eye(5, dtype=bool), ~np.eye(6, dtype=bool)]


@pytest.mark.parametrize("mask", masks())
def test_run_lengths_and_polygons_cover_exactly_the_mask(mask: np.ndarray) -> None:
    height, width = mask.shape
    packed = coco_masks.frPyObjects(run_lengths(mask), height, width)
    assert packed == coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))
    drawn = np.zeros_like(mask)
    for polygon in outlines(mask):
        encoded = coco_masks.frPyObjects([polygon.reshape(-1).tolist()], height, width)
        region = coco_masks.decode(encoded)[..., 0].astype(bool)
        assert not (drawn & region).any()
        drawn |= region
    np.testing.assert_array_equal(drawn, mask)


def test_coco_annotations(result: Segmentation, tmp_path: Path) -> None:
    result.save(tmp_path, "x", ["json"])
    data = COCO(tmp_path / "x.json")
    assert [item["name"] for item in data.loadCats(data.getCatIds())] == list(NAMES)
    assert data.loadImgs(1)[0] == {"id": 1, "file_name": "x", "width": 36, "height": 30}
    annotations = data.loadAnns(data.getAnnIds())
    assert [item["category_id"] for item in annotations] == [1, 2]  # no emu
    for item, name in zip(annotations, NAMES, strict=False):
        mask, packed = result.mask(name), data.annToRLE(item)
        np.testing.assert_array_equal(data.annToMask(item), mask)
        assert item["area"] == coco_masks.area(packed) and item["bbox"] == coco_masks.toBbox(packed).tolist()
        assert item["score"] == pytest.approx(result.confidence[mask].mean(), abs=1e-4)
        assert [np.reshape(polygon, (-1, 2)).tolist() for polygon in item["polygons"]] == [
            polygon.tolist() for polygon in result.polygons(name)
        ]


def test_label_studio_tasks(result: Segmentation) -> None:
    """The keys of labelstud.io/guide/predictions; polygons, in percent of the image, to within a pixel of the mask."""
    disc = np.hypot(*np.mgrid[-15:15, -18:18]) < 12
    disc[20, 30] = True  # too small for a polygon
    for item in (result, Segmentation(np.where(disc, 1, 255).astype(np.int32), NAMES)):
        task = json.loads(json.dumps(item.to_label_studio("a folder/x.png")))
        assert task["data"]["image"] == "/data/local-files/?d=a%20folder/x.png"
        [prediction] = task["predictions"]
        drawn = np.full_like(item.labels, 255)
        for region in prediction["result"]:
            assert (region["type"], region["from_name"], region["to_name"]) == ("polygonlabels", "label", "image")
            assert (region["original_width"], region["original_height"], region["image_rotation"]) == (36, 30, 0)
            [name], points = region["value"]["polygonlabels"], np.array(region["value"]["points"]) * (0.36, 0.30)
            packed = coco_masks.frPyObjects([points.reshape(-1).tolist()], 30, 36)
            drawn[coco_masks.decode(packed)[..., 0].astype(bool)] = NAMES.index(name)
        assert len({region["id"] for region in prediction["result"]}) == len(prediction["result"])
        if item is result:  # corners of patches stay
            np.testing.assert_array_equal(drawn, item.labels)
        else:
            assert len(prediction["result"]) == 1 and len(points) < 0.6 * len(item.polygons("red car")[0])
            distance = np.abs(np.hypot(*np.mgrid[-15:15, -18:18]) - 12)[drawn != np.where(disc, 1, 255)]
            assert (np.sort(distance)[:-1] <= 1.5).all()  # the last one is the small region


def test_files_read_back_and_are_replaced_only_if_ours(result: Segmentation, tmp_path: Path) -> None:
    files = result.save(tmp_path, "deep/x.y", PARTS)
    ends = (".png", "_overlay.png", "_mask_cat.png", "_mask_red_car.png", "_mask_emu.png", "_scores.npz", ".json")
    ends += ("_label_studio.json",)
    assert files == [tmp_path / f"deep/x.y{end}" for end in ends]
    assert all(is_ours(path) for path in files) and result.save(tmp_path, "deep/x.y", PARTS) == files
    with Image.open(files[0]) as labels, Image.open(files[3]) as mask:
        np.testing.assert_array_equal(np.asarray(labels), result.labels)
        np.testing.assert_array_equal(np.asarray(mask), 255 * result.mask("red car"))
    with np.load(files[5]) as file:
        assert tuple(file["names"]) == NAMES
        np.testing.assert_allclose(file["scores"], result.scores, rtol=0, atol=2**-12)
    assert result.save(tmp_path, "deep/x.y", "overlay, json") == [files[1], files[6]]
    files[6].write_text(json.dumps({"images": []}))
    before = sorted(path.stat().st_mtime_ns for path in files)
    with pytest.raises(UserError, match=r"x\.y\.json was not written by jseg"):
        result.save(tmp_path, "deep/x.y", PARTS)
    assert sorted(path.stat().st_mtime_ns for path in files) == before
    for parts, message in (
        (["label"], "label is not known: choose from labels"),
        (["scores"], "with_scores=True"),
        ("labels,mask", "mask is not known"),
    ):
        with pytest.raises(UserError, match=message):
            Segmentation(result.labels, NAMES).save(tmp_path, "y", parts)


def test_shows_itself(result: Segmentation) -> None:
    bare = Segmentation(result.labels, NAMES)
    shares = result.shares
    assert repr(bare).startswith("Segmentation(36x30: ") and "none of these" in repr(bare) and "emu" not in repr(bare)
    assert sum(shares.values()) == pytest.approx(1) and shares["cat"] == pytest.approx((result.labels == 0).mean())
    with Image.open(io.BytesIO(result._repr_png_())) as image:
        np.testing.assert_array_equal(np.asarray(image), result.overlay())
    assert bare._repr_png_() is None
    with pytest.raises(UserError, match="no image"):
        bare.overlay()
    with pytest.raises(UserError, match="'dog' is not among the class names"):
        result.mask("dog")
