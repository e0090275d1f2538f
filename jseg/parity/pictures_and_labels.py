"""labels_*, data*: which labels the losses see, and the deterministic parts of the transforms."""

from __future__ import annotations

import re

import jittor as jt
import numpy as np

from jseg.data.class_names import IGNORED, ClassList
from jseg.data.label_maps import class_labels, training_labels
from jseg.data.transforms import (
    box_size,
    normalise,
    pad,
    photometric_distortion,
    random_crop,
    random_flip,
    resize_image,
    resize_labels,
    short_side_size,
)
from jseg.model.losses import pseudo_labels
from jseg.parity.golden_file import GoldenFile

LABELS_EXCLUDED = {
    "in/logits": "input of pseudo labels, which only self-training has",
    "out/visibility_lut": "the release's own look-up table; gt_out is what comes of it",
    "out/gt_in_after": "whether the release changes its input in place",
}
DATA_EXCLUDED = {"out/crop_seg_*": "cut from label maps that are not recorded; crop_img shows the same window"}
SEED = re.compile(r"out/(photometric|crop_img)_seed(\d+)")


def check_labels(file: GoldenFile) -> dict[str, np.ndarray]:
    """Labels as they reach the losses in each setting."""
    sizes, stored = file.json("cfg"), file["in/gt"]
    count, unseen = sizes["n_cls"], tuple(sizes["novel_class"])
    classes = ClassList("golden", "", tuple(map(str, range(count))), unseen, tuple(range(count)), (IGNORED,))
    setting = "transductive" if sizes["self_training"] else "inductive" if unseen else "supervised"
    used = training_labels(stored[:, 0], classes, setting)
    if sizes["self_training"]:
        used = pseudo_labels(jt.array(file["in/logits"]), jt.array(used), unseen).numpy()
    # the release hands a label outside the class list on to its loss, which fails on it; ours are refused when read
    outside = (stored[:, 0] >= count) & (stored[:, 0] != IGNORED)
    return {"out/gt_out": np.where(outside, stored[:, 0], used)[:, None]}


class RecordedDraws:
    """NumPy's old global generator behind the methods of the new one, to repeat the release's order of draws."""

    def __init__(self, seed: int) -> None:
        state = np.random.RandomState(seed)
        self.uniform = state.uniform
        self.integers = state.randint


class Always(RecordedDraws):
    """Draws that make every random choice of probability > 0 come true."""

    def __init__(self) -> None:
        super().__init__(0)
        self.uniform = lambda *_: 0.0


def _bgr(image: np.ndarray) -> np.ndarray:
    """The release works on BGR, we on RGB."""
    return np.ascontiguousarray(image[..., ::-1])


def check_data(file: GoldenFile) -> dict[str, np.ndarray]:
    """Test sizes, resizing, flipping, normalising, padding, reading of labels; jitter and crops by the same draws."""
    image, labels = _bgr(file["in/resize_img"]), file["in/resize_seg"]
    long_side, short_side = sorted(file["in/resize_scale"].tolist(), reverse=True)
    size = box_size(labels.shape, long_side, short_side)
    resized, resized_labels = resize_image(image, size), resize_labels(labels, size)
    flipped, flipped_labels = random_flip(resized, resized_labels, Always())
    padded, padded_labels = pad(normalise(image), labels, file.arrays["out/pad_seg"].shape)
    ratio = np.array(size[::-1]) / np.array(labels.shape[::-1])
    computed = {
        "out/resize_img": _bgr(resized),
        "out/resize_seg": resized_labels,
        "out/resize_scale_factor": np.concatenate([ratio, ratio]),
        "out/flip_img": _bgr(flipped),
        "out/flip_seg": flipped_labels,
        "out/pad_img_normalized": padded,
        "out/pad_seg": padded_labels,
        "out/normalized_rgb_hwc": normalise(_bgr(file["in/img_bgr"])),
        **_label_reading(file),
        **_random_parts(file, image, labels),
    }
    for name, table in file.arrays.items():
        if name.startswith("out/test_resize_table"):
            computed[name] = _size_table(table)
    return computed


def _size_table(table: np.ndarray) -> np.ndarray:
    """Rows of height, width, test size with the short side made 512, and size fitted into the box (2048, 512)."""
    rows = [[*size, *short_side_size(size, 512), *box_size(size, 2048, 512)] for size in table[:, :2].tolist()]
    return np.array(rows)


def _label_reading(file: GoldenFile) -> dict[str, np.ndarray]:
    """Stored value -> class for lists with and without a background at 0; 255 has to stay."""
    values, result = file["in/load_ann_values"], {}
    for name, first in (("out/load_ann_reduce_True", 1), ("out/load_ann_reduce_False", 0)):
        stored = tuple(range(first, IGNORED))
        ignored = (IGNORED,) if first == 0 else (0, IGNORED)
        classes = ClassList("golden", "", tuple(map(str, stored)), (), stored, ignored)
        result[name] = class_labels(values[None], classes, "golden")[0]
    return result


def _random_parts(file: GoldenFile, image: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    result = {}
    for name in file.arrays:
        if not (found := SEED.fullmatch(name)):
            continue
        kind, seed = found.group(1), int(found.group(2))
        if kind == "photometric":
            result[name] = _bgr(photometric_distortion(image, RecordedDraws(seed)))
        else:
            size = file.arrays[name].shape[:2]
            result[name] = _bgr(random_crop(image, labels, RecordedDraws(seed), size)[0])
    return result
