"""tools/prepare_context.py: categories to 59 classes, lists, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat, savemat

from jseg.data.class_names import voc_palette
from jseg.errors import UserError
from tests.replicas import Replica, make_context, save_list
from tools.prepare_context import CONTEXT_IDS, main, stored_values


@pytest.fixture
def context(tmp_path: Path) -> Replica:
    return make_context(tmp_path)


def run(context: Replica) -> int:
    return main([str(context.root), "--mat", str(context.sources), "--workers", "0"])


def test_categories_map_to_classes_in_order() -> None:
    lookup = stored_values()
    assert lookup.shape == (460,) and len(CONTEXT_IDS) == 59 and list(CONTEXT_IDS) == sorted(set(CONTEXT_IDS))
    assert lookup[list(CONTEXT_IDS)].tolist() == list(range(1, 60))
    assert lookup.sum() == 59 * 60 // 2 and lookup[0] == 0  # every other category is background
    assert (lookup[2], lookup[9], lookup[284], lookup[458]) == (1, 2, 37, 59)  # aeroplane, bag, person, wood


def test_every_map_is_converted(context: Replica) -> None:
    assert run(context) == 0
    seen: set[int] = set()
    for name in context.train + context.val:
        categories = loadmat(context.sources / f"{name}.mat")["LabelMap"]
        with Image.open(context.root / "SegmentationClassContext" / f"{name}.png") as made:
            assert made.mode == "P"
            np.testing.assert_array_equal(np.array(made.getpalette()).reshape(-1, 3)[:60], voc_palette(60))
            stored = np.array(made)
        expected = np.where(np.isin(categories, CONTEXT_IDS), np.searchsorted(CONTEXT_IDS, categories) + 1, 0)
        np.testing.assert_array_equal(stored, expected)
        seen |= set(np.unique(stored).tolist())
    assert seen == set(range(60))


def test_lists_come_from_voc_2010_unless_given(context: Replica) -> None:
    lists = context.root / "ImageSets" / "SegmentationContext"
    save_list(lists / "val.txt", context.val[:4])
    assert run(context) == 0
    assert (lists / "train.txt").read_text().split() == context.train
    assert (lists / "val.txt").read_text().split() == context.val[:4]
    (lists / "val.txt").unlink()
    (context.root / "ImageSets" / "Main" / "val.txt").unlink()
    with pytest.raises(UserError, match=r"Main/val\.txt does not exist"):
        run(context)


def test_bad_sources_are_named(context: Replica, capsys: pytest.CaptureFixture[str]) -> None:
    missing, cut, high = (context.sources / f"{name}.mat" for name in context.train[:3])
    missing.unlink()
    cut.write_bytes(cut.read_bytes()[:200])
    savemat(high, {"LabelMap": np.full((72, 96), 460.5)})
    assert run(context) == 1
    shown = capsys.readouterr().out
    assert f"{missing}: missing" in shown and f"{cut}: missing, or no .mat file" in shown
    assert f"{high}: label values 460.5 to 460.5, expected whole numbers 0..459" in shown
    assert "3 could not be made" in shown
