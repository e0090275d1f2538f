"""Recorded outputs of the Jittor release (golden/jseg_release): encoder, head, labels, data, tokenizer, names."""

import json
import math
import re
from pathlib import Path

import jittor as jt
import numpy as np
import pytest

from jseg.clip.class_embeddings import TextModel, unit_rows
from jseg.clip.image_tower import resize_positions
from jseg.clip.text_tower import TextTower
from jseg.clip.tokenizer import Tokenizer
from jseg.config import DataConfig, ModelConfig
from jseg.data import transforms
from jseg.data.class_names import IGNORED, ClassList, class_labels, training_labels
from jseg.model.clip_rc import build_clip_rc
from jseg.model.losses import pseudo_labels
from jseg.model.released_weights import DEAD
from jseg.ops.device import normalise
from jseg.parity.checks import is_refused, mask_losses, metric_values, read_tokenizer
from jseg.parity.golden import GoldenFile
from jseg.parity.report import check_set
from tests.parity.jseg_release_model import check_encoder, check_head, check_masks, check_segmentor

pytestmark = pytest.mark.parity

SEED = re.compile(r"out/(photometric|crop_img)_seed(\d+)")


def check_weighted_losses(file: GoldenFile) -> dict[str, np.ndarray]:
    """Focal and dice with weights of mask, dice and of both."""
    mask, dice, both = (float(weight) for weight in file["in/weights"])
    ours = mask_losses(file["in/pred_masks"], file["in/label"], mask * both, dice * both)
    ours["grad"] = ours.pop("grad_total")
    return {f"out/{name}": value for name, value in ours.items()}


def check_metrics(file: GoldenFile) -> dict[str, np.ndarray]:
    """The confusion matrix and the metrics made from it."""
    count, unseen = int(file["in/num_classes"]), file["in/unseen"].tolist()
    pairs = [(file[f"in/pred_{i}"], file[f"in/label_{i}"]) for i in range(len(file.starting_with("in/pred_")))]
    seen = [index for index in range(count) if index not in unseen]
    ours = metric_values(count, pairs, bool(file["in/reduce_zero_label"]), seen, unseen)
    ours |= {"mIoU_S": ours["mIoU_seen"], "mIoU_U": ours["mIoU_unseen"]}
    return {f"out/{name}": value for name, value in ours.items()}


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


def normalised(image: np.ndarray, sizes: np.ndarray | None = None) -> np.ndarray:
    """`normalise` of an image (H, W, 3)."""
    return normalise(image.transpose(2, 0, 1)[None], DataConfig(), sizes).numpy()[0].transpose(1, 2, 0)


def check_data(file: GoldenFile) -> dict[str, np.ndarray]:
    """Test sizes, resizing, flipping, normalising, padding, reading of labels; jitter and crops by the same draws."""
    image, labels = _bgr(file["in/resize_img"]), file["in/resize_seg"]
    long_side, short_side = sorted(file["in/resize_scale"].tolist(), reverse=True)
    size = transforms.box_size(labels.shape, long_side, short_side)
    resized, resized_labels = transforms.resize_image(image, size), transforms.resize_labels(labels, size)
    flipped, flipped_labels = transforms.random_flip(resized, resized_labels, Always())
    padded, padded_labels = transforms.pad(image, labels, file.arrays["out/pad_seg"].shape)
    ratio = np.array(size[::-1]) / np.array(labels.shape[::-1])
    computed = {
        "out/resize_img": _bgr(resized), "out/resize_seg": resized_labels,
        "out/resize_scale_factor": np.concatenate([ratio, ratio]), "out/flip_img": _bgr(flipped),
        "out/flip_seg": flipped_labels, "out/pad_img_normalized": normalised(padded, np.int32([labels.shape])),
        "out/pad_seg": padded_labels, "out/normalized_rgb_hwc": normalised(_bgr(file["in/img_bgr"])),
        **_label_reading(file), **_random_parts(file, image, labels),
    }  # fmt: skip
    for name, table in file.arrays.items():
        if name.startswith("out/test_resize_table"):
            # height, width, test size with the short side made 512, and size fitted into the box (2048, 512)
            boxes = [
                (transforms.box_size(size, np.inf, 512), transforms.box_size(size, 2048, 512))
                for size in table[:, :2].tolist()
            ]
            computed[name] = np.concatenate([table[:, :2], np.array(boxes).reshape(-1, 4)], axis=1)
    return computed


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
            result[name] = _bgr(transforms.photometric_distortion(image, RecordedDraws(seed)))
        else:
            size = file.arrays[name].shape[:2]
            result[name] = _bgr(transforms.random_crop(image, labels, RecordedDraws(seed), size)[0])
    return result


def _decoded(encode: Tokenizer, rows: np.ndarray) -> np.ndarray:
    """Texts of rows of ids, without start, end and padding."""
    special = (0, encode.start_id, encode.end_id)
    return np.array([encode.decode(token for token in row if token not in special) for row in rows.tolist()])


def check_tokenizer(file: GoldenFile) -> dict[str, np.ndarray]:
    """Ids, cut texts, other lengths, and the texts that are refused."""
    encode = read_tokenizer()
    texts = json.loads(file.path.with_suffix(".json").read_text())
    ids = encode(texts["texts"], file.arrays["ids"].shape[1])
    # the last refused text stands there by a description only: it is the long one
    refused = [texts["long_text"] if text.startswith("LONG(") else text for text in texts["errors"]]
    file.arrays["extra.decoded texts"] = np.array(texts["decode"])
    file.arrays["extra.refused texts"] = np.ones(len(refused), dtype=bool)
    computed = {
        "ids": ids,
        "extra.decoded texts": _decoded(encode, ids),
        "extra.refused texts": np.array([is_refused(encode, text, ids.shape[1]) for text in refused]),
    }
    for name in ("long_truncated", "ctx10"):
        # which texts these are is not recorded: the long one, and short ones that can be told from their ids
        rows = file.arrays[name]
        decoded = zip(rows[:, -1], _decoded(encode, rows).tolist(), strict=True)
        computed[name] = encode([texts["long_text"] if last else text for last, text in decoded], rows.shape[1], True)
    return computed


def check_text_tower(file: GoldenFile) -> dict[str, np.ndarray]:
    """The text tower of the Jittor release."""
    tower = TextModel(file.starting_with("w/"), file.json("cfg")["transformer_heads"], None, "golden").tower()
    with jt.no_grad():
        embedding = tower(file["in/tokens"]).numpy()
    return {"out/embedding": embedding, "out/embedding_normed": unit_rows(embedding)}


def check_resized_positions(file: GoldenFile) -> dict[str, np.ndarray]:
    """Positions resized to the square grid of each output."""
    (source,) = file.starting_with("in/").values()
    computed = {}
    for name, reference in file.arrays.items():
        if name.startswith("out/"):
            side = math.isqrt(len(reference) - 1)
            computed[name] = resize_positions(jt.array(source), (side, side)).numpy()
    return computed


def check_state_names(file: GoldenFile) -> dict[str, np.ndarray]:
    """Names and shapes of all weights; dead ones count as read, because loading has to recognise them."""
    computed = {}
    for run in dict.fromkeys(name.split("/")[0] for name in file.arrays):
        shapes = {name.split("/")[1]: tuple(file.arrays[name].tolist()) for name in file.arrays if name.startswith(run)}
        file.read |= {f"{run}/{name}" for name in shapes if DEAD.match(name)}
        ours = build_clip_rc(ModelConfig(prompts=shapes["backbone.prompt_embeddings"][1])).state_dict()
        ours |= {f"text_encoder.{name}": var for name, var in TextTower(512, 12, 8, 512).state_dict().items()}
        computed |= {f"{run}/{name}": np.array(var.shape) for name, var in ours.items()}
        for name in ours.keys() - shapes.keys():
            file.arrays[f"{run}/{name}"] = np.array("no such weight")
    return computed


CHECKS = {
    "vision_": check_encoder, "head_": check_head, "seg_": check_segmentor, "attn_masks": check_masks,
    "labels_": check_labels, "data": check_data, "tokenizer.npz": check_tokenizer, "text_": check_text_tower,
    "metrics_": check_metrics, "posembed_resize": check_resized_positions, "state_dict_full": check_state_names,
    "loss_": check_weighted_losses,
    # The Jittor release's optimiser and schedule were never used in training; ours follow the PyTorch release.
    **dict.fromkeys(("optim_", "polylr", "param_multipliers", "tokenizer.json", "README.md")),
}  # fmt: skip
LEFT_OUT = (
    # a softmax of whole_logits, which are compared; averages with a mirrored image, which evaluation here does not do
    {"files": "seg_*", "arrays": ["out/whole_inference_softmax", "out/whole_flip_inference_softmax"]},
    # input of pseudo labels, which only self-training has; the release's look-up table, whose result is compared;
    # whether the release changes its input in place
    {"files": "labels_*", "arrays": ["in/logits", "out/visibility_lut", "out/gt_in_after"]},
    # cut from label maps that are not recorded; crop_img shows it
    {"files": "data*", "arrays": ["out/crop_seg_*"]},
    {"files": "text_*", "arrays": ["out/causal_mask"]},  # a constant of the release in its own form
    {"files": "metrics_*", "arrays": ["*upstream_eval_json"]},  # the same numbers, rounded, under other names
    # constants: ours follows the size of the input; token ids of the class names
    {"files": "state_dict_full*", "arrays": ["*attn_mask", "*/texts"]},
)
# The tolerances stated in the README beside the files; the first rule that matches decides.
RULES = (
    {"files": "seg_*", "arrays": ["*labels*"], "mismatch_fraction": 1e-3},
    {"files": "vision_*", "arrays": ["*attn_mask*"], "exact": True},
    {"files": "text_*", "arrays": ["*causal_mask*"], "exact": True},
    {"files": "attn_masks*", "arrays": ["*"], "exact": True},
    {"files": "labels_*", "arrays": ["*"], "exact": True},
    {"files": "tokenizer*", "arrays": ["*"], "exact": True},
    {"files": "state_dict_full*", "arrays": ["*"], "exact": True},
    {"files": "loss_*", "arrays": ["*grad*"], "rtol": 1e-4, "atol": 1e-7},
    {"files": "loss_*", "arrays": ["*"], "rtol": 1e-5},
    {"files": "metrics_*", "arrays": ["*area*"], "exact": True},
    {"files": "metrics_*", "arrays": ["*"], "atol": 1e-9},
    {"files": "data*", "arrays": ["*normalized*", "*scale_factor*"], "atol": 1e-5},
    {"files": "data*", "arrays": ["*"], "exact": True},
    {"files": "*", "arrays": ["*"], "atol": 1e-4, "rtol": 1e-4},
)


def test_recorded_outputs(golden: Path) -> None:
    folder = golden / "jseg_release"
    if not folder.is_dir():
        pytest.skip("this golden set has no folder jseg_release")
    reports = list(check_set(folder, "cpu", CHECKS, RULES, LEFT_OUT))
    lines = [report.line() for report in reports]
    assert not any(report.failed or report.unchecked or "not checked" in report.not_run for report in reports), lines
    print("\n".join(lines), sum(len(report.excess) for report in reports), "arrays compared")
    if not all(report.passed for report in reports):
        pytest.skip("\n".join(report.line() for report in reports if not report.passed))
