"""tools/prepare_coco_stuff.py: ids to training labels, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jseg.data.class_names import class_list
from tests.replicas import Replica, make_coco_stuff
from tools.prepare_coco_stuff import COCO_STUFF_IDS, SUFFIX, main, training_ids


def prepare(root: Path, workers: int = 0, *options: str) -> int:
    return main([str(root), "--workers", str(workers), *options])


@pytest.fixture
def coco(tmp_path: Path) -> Replica:
    return make_coco_stuff(tmp_path)


def test_ids_map_to_the_published_labels() -> None:
    lookup = training_ids()
    assert len(COCO_STUFF_IDS) == 171 and (lookup == -1).sum() == 256 - 171 - 1
    assert lookup[list(COCO_STUFF_IDS)].tolist() == list(range(171)) and lookup[255] == 255
    names = class_list("coco_stuff").names  # a few known pairs of the published label list
    for value, name in ((0, "person"), (12, "stop sign"), (88, "hair drier"), (91, "banner"), (181, "wood")):
        assert names[lookup[value]] == name
    assert (lookup[182:255] == -1).all()


def test_every_map_is_converted(coco: Replica) -> None:
    assert prepare(coco.root) == 0
    seen: set[int] = set()
    for section, names in (("train", coco.train), ("val", coco.val)):
        folder = coco.root / "annotations" / f"{section}2017"
        assert len(list(folder.iterdir())) == 2 * len(names)
        for name in names:
            with Image.open(folder / f"{name}{SUFFIX}") as made, Image.open(folder / f"{name}.png") as source:
                assert made.mode == "L"
                stored, labels = np.array(source), np.array(made)
            np.testing.assert_array_equal(np.array(COCO_STUFF_IDS)[labels[labels < 255]], stored[stored < 255])
            np.testing.assert_array_equal(stored == 255, labels == 255)
            seen |= set(np.unique(labels).tolist())
    assert seen == {*range(171), 255}


def test_bad_sources_are_named(coco: Replica, capsys: pytest.CaptureFixture[str]) -> None:
    folder = coco.root / "annotations" / "train2017"
    gap, cut, colour = (folder / f"{name}.png" for name in coco.train[:3])
    stored = np.array(Image.open(gap))
    stored[0, :2] = 11, 182
    Image.fromarray(stored).save(gap)
    cut.write_bytes(cut.read_bytes()[:-30])
    Image.open(colour).convert("RGB").save(colour)
    assert prepare(coco.root) == 1
    shown = capsys.readouterr().out
    assert f"{gap}: values 11, 182 are no ids" in shown and f"{cut}: truncated" in shown
    assert f"{colour}: 8-bit RGB PNG" in shown and "3 could not be made" in shown
