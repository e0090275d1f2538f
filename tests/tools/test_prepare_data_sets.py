"""tools/prepare_{voc12,coco_stuff,context}.py: label maps and lists made from the downloads, and what is refused."""

import json
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat, savemat

from jseg.data.class_names import class_list, voc_palette
from jseg.drawing import write_label_map
from jseg.errors import UserError
from tests.replicas import Replica, make_coco_stuff, make_context, make_voc12, save_list, save_palette_png
from tools import prepare_coco_stuff, prepare_context, prepare_voc12
from tools.prepare_coco_stuff import COCO_STUFF_IDS
from tools.prepare_context import CONTEXT_IDS


@pytest.fixture
def voc(tmp_path: Path) -> Replica:
    return make_voc12(tmp_path)


def run(tool: ModuleType, replica: Replica, sources: Path | None = None) -> int:
    option = {prepare_voc12: "--sbd", prepare_context: "--mat"}.get(tool)
    rest = [option, str(sources or replica.sources)] if option else []
    return tool.main([str(replica.root), "--workers", "0", *rest])


def refused(tool: ModuleType, replica: Replica, sources: Path | None = None) -> str:
    with pytest.raises(UserError) as caught:
        run(tool, replica, sources)
    return str(caught.value)


def lists_of(replica: Replica) -> Path:
    return replica.root / "ImageSets" / "Segmentation"


def aug_mask(voc: Replica, name: str) -> Path:
    return voc.root / "SegmentationClassAug" / f"{name}.png"


def test_masks_of_train_are_vocs_own_and_the_others_sbds(voc: Replica) -> None:
    assert run(prepare_voc12, voc) == 0
    assert (lists_of(voc) / "aug.txt").read_text().split() == voc.aug  # none of val
    assert (lists_of(voc) / "trainaug.txt").read_text().split() == voc.train + voc.aug
    for name in voc.train:  # SBD has half of them: its masks have no border and must not be taken
        own = (voc.root / "SegmentationClass" / f"{name}.png").read_bytes()
        assert aug_mask(voc, name).read_bytes() == own
    for name in voc.aug:
        expected = loadmat(voc.sources / "dataset" / "cls" / f"{name}.mat", squeeze_me=True, struct_as_record=False)
        with Image.open(aug_mask(voc, name)) as mask:
            assert mask.mode == "P"
            np.testing.assert_array_equal(np.array(mask), expected["GTcls"].Segmentation)
            np.testing.assert_array_equal(np.array(mask.getpalette()).reshape(-1, 3)[:21], voc_palette(21))


def test_given_lists_and_masks_are_kept(voc: Replica) -> None:
    path = lists_of(voc) / "aug.txt"
    save_list(path, voc.aug[:3])
    assert run(prepare_voc12, voc) == 0
    assert (lists_of(voc) / "trainaug.txt").read_text().split() == voc.train + voc.aug[:3]
    path.unlink()
    kept = aug_mask(voc, voc.aug[0]).stat().st_mtime_ns
    assert run(prepare_voc12, voc) == 0 and aug_mask(voc, voc.aug[0]).stat().st_mtime_ns == kept
    assert path.read_text().split() == voc.aug[:3] and not aug_mask(voc, voc.aug[4]).exists()  # from trainaug.txt


def test_masks_of_another_program_are_replaced_only_on_demand(voc: Replica, capsys: pytest.CaptureFixture) -> None:
    """A SegmentationClassAug with all masks of SBD, as mmseg and JSeg make it; SBD has half of train.txt."""
    sbd = voc.train[::2] + voc.aug[:3]
    for name in sbd:
        labels = loadmat(voc.sources / "dataset" / "cls" / f"{name}.mat", squeeze_me=True, struct_as_record=False)
        save_palette_png(aug_mask(voc, name), labels["GTcls"].Segmentation)
    before = {name: aug_mask(voc, name).read_bytes() for name in sbd}
    assert run(prepare_voc12, voc) == 0
    shown = capsys.readouterr().out
    assert "train.txt: 4 masks of VOC, 0 of them are in SegmentationClassAug, 2 there are not VOC's own" in shown
    assert "0 of these are replaced\n2 stay, since jseg did not write them: --overwrite replaces them" in shown
    assert "aug.txt: 6 masks of SBD, 3 files are there" in shown and "5 label maps are there, 5 to make" in shown
    assert before == {name: aug_mask(voc, name).read_bytes() for name in sbd}
    assert prepare_voc12.main([str(voc.root), str(voc.sources), "--workers", "0", "--overwrite"]) == 0
    shown = capsys.readouterr().out
    assert "2 of them are in SegmentationClassAug, 2 there" in shown and "2 of these are replaced\naug.txt" in shown
    for name in voc.train:
        assert aug_mask(voc, name).read_bytes() == (voc.root / "SegmentationClass" / f"{name}.png").read_bytes()
    assert [aug_mask(voc, name).read_bytes() for name in voc.aug[:3]] == [before[name] for name in voc.aug[:3]]
    write_label_map(aug_mask(voc, voc.train[0]), np.zeros((72, 96)), voc_palette(256))  # ours: needs no --overwrite
    assert run(prepare_voc12, voc) == 0
    assert "3 of them are in SegmentationClassAug, 1 there" in capsys.readouterr().out
    own = voc.root / "SegmentationClass" / f"{voc.train[0]}.png"
    assert aug_mask(voc, voc.train[0]).read_bytes() == own.read_bytes()


def test_lists_and_folders_that_are_not_what_they_should_be(voc: Replica) -> None:
    assert "no folder cls" in refused(prepare_voc12, voc, voc.root)
    with pytest.raises(UserError, match="give the folder of SBD, once"):
        prepare_voc12.main([str(voc.root)])
    assert "VOCdevkit/VOC2012" in refused(prepare_voc12, Replica(voc.root / "ImageSets", [], [], sources=voc.sources))
    save_list(lists_of(voc) / "aug.txt", voc.aug + voc.val[:2])
    assert f"2 names are also in train.txt or val.txt, first {voc.val[0]}" in refused(prepare_voc12, voc)
    save_list(lists_of(voc) / "aug.txt", voc.aug)
    save_list(lists_of(voc) / "trainaug.txt", voc.aug)
    assert "trainaug.txt is not train.txt and aug.txt together" in refused(prepare_voc12, voc)


def test_bad_sources_of_voc_are_named_and_the_others_made(voc: Replica, capsys: pytest.CaptureFixture[str]) -> None:
    missing, cut, other, high = (voc.sources / "dataset" / "cls" / f"{name}.mat" for name in voc.aug[:4])
    missing.unlink()
    cut.write_bytes(b"MATLAB 5.0 MAT-file")
    savemat(other, {"GTinst": {"Segmentation": np.zeros((72, 96), np.uint8)}})
    savemat(high, {"GTcls": {"Segmentation": np.full((72, 96), 20.5)}})
    rgb = voc.root / "SegmentationClass" / f"{voc.train[0]}.png"
    Image.open(rgb).convert("RGB").save(rgb)
    assert run(prepare_voc12, voc) == 1
    shown = capsys.readouterr().out
    for path in (missing, cut, other):
        assert f"{path}: missing, or no .mat file of version 5 that holds GTcls" in shown
    assert f"{high}: label values 20.5 to 20.5, expected whole numbers 0..20" in shown
    assert f"{rgb}: 8-bit RGB PNG" in shown and "5 could not be made" in shown
    made = sorted(path.stem for path in (voc.root / "SegmentationClassAug").iterdir())
    assert made == sorted([*voc.train[1:], *voc.aug[4:]])


def test_categories_of_context_map_to_classes_in_order() -> None:
    lookup = prepare_context.stored_values()
    assert lookup.shape == (460,) and len(CONTEXT_IDS) == 59 and list(CONTEXT_IDS) == sorted(set(CONTEXT_IDS))
    assert lookup[list(CONTEXT_IDS)].tolist() == list(range(1, 60))
    assert lookup.sum() == 59 * 60 // 2 and lookup[0] == 0  # every other category is background
    assert (lookup[2], lookup[9], lookup[284], lookup[458]) == (1, 2, 37, 59)  # aeroplane, bag, person, wood


def test_every_map_of_context_is_converted(tmp_path: Path) -> None:
    context = make_context(tmp_path)
    lists = context.root / "ImageSets" / "SegmentationContext"
    save_list(lists / "val.txt", context.val)
    assert run(prepare_context, context) == 0
    assert (lists / "train.txt").read_text().split() == context.train
    seen: set[int] = set()
    for name in context.train + context.val:
        categories = loadmat(context.sources / f"{name}.mat")["LabelMap"]
        stored = np.array(Image.open(context.root / "SegmentationClassContext" / f"{name}.png"))
        expected = np.where(np.isin(categories, CONTEXT_IDS), np.searchsorted(CONTEXT_IDS, categories) + 1, 0)
        np.testing.assert_array_equal(stored, expected)
        seen |= set(np.unique(stored).tolist())
    assert seen == set(range(60))


def encoded(mask: np.ndarray) -> str:
    """A mask in COCO's compressed run-length code, from its definition."""
    flat = [0, *mask.ravel(order="F").astype(int).tolist()]
    edges = [place for place in range(1, len(flat)) if flat[place] != flat[place - 1]]
    runs = np.diff([1, *edges, len(flat)]).tolist()
    text = ""
    for index, run in enumerate(runs):
        rest = run - runs[index - 2] if index > 2 else run
        more = True
        while more:
            bits, rest = rest & 31, rest >> 5
            more = rest != (-1 if bits & 16 else 0)
            text += chr(48 + bits + 32 * more)
    return text


def test_run_length_code() -> None:
    assert encoded(np.array([[0, 1], [1, 1]], bool)) == "13"  # by hand: 1 outside, 3 inside
    assert prepare_context.decode_mask("P1", (8, 4)).tolist() == [[False] * 4] * 8  # 32: 00000, more, 00001
    rng = np.random.default_rng(0)
    for size in ((1, 1), (7, 5), (60, 900)):
        for share in (0, 0.02, 0.5, 1):
            mask = rng.random(size) < share
            np.testing.assert_array_equal(prepare_context.decode_mask(encoded(mask), size), mask)


def test_context_from_json_equals_context_from_mat_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    context, images, annotations = make_context(tmp_path), [], []
    for number, name in enumerate([*context.train, *context.val]):
        categories = loadmat(context.sources / f"{name}.mat")["LabelMap"]
        images.append({"file_name": f"{name}.jpg", "image_id": number, "phase": "train"})
        for category in np.unique(categories[categories > 0]).tolist():
            code = {"size": list(categories.shape), "counts": encoded(categories == category)}
            annotations.append({"image_id": number, "category_id": category, "segmentation": code})
    path = tmp_path / "trainval_merged.json"
    path.write_text(json.dumps({"images": images, "annos_segmentation": annotations[::-1]}))
    maps = context.root / "SegmentationClassContext"
    assert prepare_context.main([str(context.root), "--json", str(path)]) == 0
    found = {path.name: np.array(Image.open(path)) for path in maps.iterdir()}
    shutil.rmtree(maps)
    assert run(prepare_context, context) == 0 and len(found) == 12
    for name, labels in found.items():
        np.testing.assert_array_equal(labels, Image.open(maps / name))
    (maps / f"{context.train[0]}.png").unlink()
    path.write_text(json.dumps({"images": images[1:], "annos_segmentation": annotations}))
    capsys.readouterr()
    assert prepare_context.main([str(context.root), "--json", str(path)]) == 1
    assert f"found: {context.train[0]}: no annotations that can be read in the .json" in capsys.readouterr().out
    path.write_text('{"images": []}')
    with pytest.raises(UserError, match=r"is not trainval_merged\.json of the Detail API: KeyError"):
        prepare_context.main([str(context.root), "--json", str(path)])


def test_ids_of_coco_stuff_map_to_the_published_labels() -> None:
    lookup = prepare_coco_stuff.training_ids()
    assert len(COCO_STUFF_IDS) == 171 and (lookup == -1).sum() == 256 - 171 - 1
    assert lookup[list(COCO_STUFF_IDS)].tolist() == list(range(171)) and lookup[255] == 255
    names = class_list("coco_stuff").names  # a few known pairs of the published label list
    for value, name in ((0, "person"), (12, "stop sign"), (88, "hair drier"), (91, "banner"), (181, "wood")):
        assert names[lookup[value]] == name


def test_every_map_of_coco_stuff_is_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco, seen = make_coco_stuff(tmp_path), set()
    bad = coco.root / "annotations" / "train2017" / "bad.png"
    Image.fromarray(np.array([[11, 182, 0]], np.uint8)).save(bad)
    assert run(prepare_coco_stuff, coco) == 1
    assert f"{bad}: values 11, 182 are no ids" in capsys.readouterr().out
    for source in (coco.root / "annotations").glob("*/*[0-9].png"):
        labels = np.array(Image.open(source.with_name(f"{source.stem}_labelTrainIds.png")))
        stored = np.array(Image.open(source))
        np.testing.assert_array_equal(np.array(COCO_STUFF_IDS)[labels[labels < 255]], stored[stored < 255])
        np.testing.assert_array_equal(stored == 255, labels == 255)
        seen |= set(np.unique(labels).tolist())
    assert seen == {*range(171), 255}
