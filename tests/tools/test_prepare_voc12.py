"""tools/prepare_voc12.py: lists, masks, their sources, what is refused; from the downloads to a checked data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat, savemat

from jseg.data.class_names import voc_palette
from jseg.errors import UserError
from tests.replicas import Replica, make_voc12, save_list
from tools.prepare_voc12 import main, sbd_folder


@pytest.fixture
def voc(tmp_path: Path) -> Replica:
    return make_voc12(tmp_path)


def names_of(voc: Replica, name: str) -> list[str]:
    return (voc.root / "ImageSets" / "Segmentation" / f"{name}.txt").read_text().split()


def aug_mask(voc: Replica, name: str) -> Path:
    return voc.root / "SegmentationClassAug" / f"{name}.png"


def run(voc: Replica, **changes: Path) -> int:
    folders = {"root": voc.root, "sbd": voc.sources} | changes
    return main([str(folders["root"]), "--sbd", str(folders["sbd"]), "--workers", "0"])


def refused(voc: Replica, **changes: Path) -> str:
    with pytest.raises(UserError) as caught:
        run(voc, **changes)
    return str(caught.value)


def test_masks_of_train_are_vocs_own_and_the_others_sbds(voc: Replica) -> None:
    assert run(voc) == 0
    assert names_of(voc, "aug") == voc.aug and names_of(voc, "trainaug") == voc.train + voc.aug  # none of val
    for name in voc.train:  # SBD has half of them: its masks have no border and must not be taken
        own = (voc.root / "SegmentationClass" / f"{name}.png").read_bytes()
        assert aug_mask(voc, name).read_bytes() == own
    for name in voc.aug:
        expected = loadmat(voc.sources / "dataset" / "cls" / f"{name}.mat", squeeze_me=True, struct_as_record=False)
        with Image.open(aug_mask(voc, name)) as mask:
            assert mask.mode == "P"
            np.testing.assert_array_equal(np.array(mask), expected["GTcls"].Segmentation)
            np.testing.assert_array_equal(np.array(mask.getpalette()).reshape(-1, 3)[:21], voc_palette(21))


def test_given_lists_are_kept(voc: Replica) -> None:
    path = voc.root / "ImageSets" / "Segmentation" / "aug.txt"
    save_list(path, voc.aug[:3])
    assert run(voc) == 0
    assert names_of(voc, "aug") == voc.aug[:3] and names_of(voc, "trainaug") == voc.train + voc.aug[:3]
    path.unlink()
    kept = aug_mask(voc, voc.aug[0]).stat().st_mtime_ns
    assert run(voc) == 0 and aug_mask(voc, voc.aug[0]).stat().st_mtime_ns == kept
    assert names_of(voc, "aug") == voc.aug[:3]  # from trainaug.txt
    assert not aug_mask(voc, voc.aug[4]).exists()


def test_lists_that_contradict_each_other_are_refused(voc: Replica) -> None:
    lists = voc.root / "ImageSets" / "Segmentation"
    save_list(lists / "aug.txt", voc.aug + voc.val[:2])
    assert f"2 names are also in train.txt or val.txt, first {voc.val[0]}" in refused(voc)
    save_list(lists / "aug.txt", voc.aug)
    save_list(lists / "trainaug.txt", voc.aug)
    assert "trainaug.txt is not train.txt and aug.txt together" in refused(voc)


def test_bad_sources_are_named_and_the_others_made(voc: Replica, capsys: pytest.CaptureFixture[str]) -> None:
    cls = voc.sources / "dataset" / "cls"
    (cls / f"{voc.aug[0]}.mat").unlink()
    (cls / f"{voc.aug[1]}.mat").write_bytes(b"MATLAB 5.0 MAT-file")
    savemat(cls / f"{voc.aug[2]}.mat", {"GTinst": {"Segmentation": np.zeros((72, 96), np.uint8)}})
    savemat(cls / f"{voc.aug[3]}.mat", {"GTcls": {"Segmentation": np.full((72, 96), 21, np.uint8)}})
    rgb = voc.root / "SegmentationClass" / f"{voc.train[0]}.png"
    Image.open(rgb).convert("RGB").save(rgb)
    assert run(voc) == 1
    shown = capsys.readouterr().out
    assert f"{voc.aug[0]}.mat: missing" in shown
    assert f"{voc.aug[1]}.mat: missing, or no .mat file" in shown
    assert f"{voc.aug[2]}.mat: missing, or no .mat file of version 5 that holds GTcls" in shown
    assert f"{voc.aug[3]}.mat: label values 21 to 21, expected whole numbers 0..20" in shown
    assert f"{voc.train[0]}.png: 8-bit RGB PNG" in shown
    made = sorted(path.stem for path in (voc.root / "SegmentationClassAug").iterdir())
    assert made == sorted([*voc.train[1:], *voc.aug[4:]])


def test_folders_that_are_not_what_they_should_be(voc: Replica) -> None:
    assert sbd_folder(voc.sources) == sbd_folder(voc.sources / "dataset") == voc.sources / "dataset"
    assert "no folder cls" in refused(voc, sbd=voc.root)
    assert "VOCdevkit/VOC2012" in refused(voc, root=voc.root.parent)
