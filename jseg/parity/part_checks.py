"""Checks of the parts: losses, metrics, text, CLIP's towers and weight files, parameter groups, learning rates.

A check takes a golden file and returns our arrays under the file's names.
"""

from __future__ import annotations

import json
import math
import re

import jittor as jt
import numpy as np

from jseg.clip.class_embeddings import VOC_TEMPLATES, embed_class_names, unit_rows
from jseg.clip.image_tower import ImageTower, resize_positions
from jseg.clip.text_tower import TextTower
from jseg.clip.tokenizer import Tokenizer, find_vocabulary
from jseg.clip.weights import read_clip_weights
from jseg.config import ModelConfig, OptimizerConfig
from jseg.data.class_names import IGNORED
from jseg.engine.optimizer import group_settings, learning_rate
from jseg.errors import UserError
from jseg.metrics import ConfusionMatrix
from jseg.model.clip_rc import build_clip_rc, trainable
from jseg.model.initial_weights import load_clip_image_weights
from jseg.model.losses import count_masks, dice_sum, focal_sum
from jseg.ops.bilinear import resize_bilinear
from jseg.parity.golden import GoldenFile, NotRun
from jseg.weights.state import strict_load

SCHEDULE = re.compile(r"(?P<run>.*?)(?P<thousands>\d+)k_lr_(?P<group>trainable|base)")
GRID = re.compile(r"_(\d+)x(\d+)$")
CLIP_SIZES = {  # of a clip_towers file, by the names of `ClipWeights.config`; weights do not show the heads
    "image_size": "img", "patch_size": "patch", "image_width": "vw", "image_layers": "vl", "output_dim": "proj",
    "context_length": "ctx", "vocab_size": "vocab", "text_width": "tw", "text_layers": "tl",
}  # fmt: skip


def check_losses_only(file: GoldenFile) -> dict[str, np.ndarray]:
    """Focal and dice on given logits, unweighted, with their gradients."""
    computed = {}
    for case in file.json("case_names"):
        ours = mask_losses(file[f"{case}.logits"], file[f"{case}.labels"], 1.0, 1.0)
        computed |= {f"{case}.{name}": value for name, value in ours.items()}
    return computed


def mask_losses(logits: np.ndarray, labels: np.ndarray, mask: float, dice: float) -> dict[str, np.ndarray]:
    """Weighted focal and dice losses, their sum, and the gradients of all three with respect to the logits."""
    labels, variable = labels.reshape(-1, *labels.shape[-2:]).astype(np.int32), jt.array(logits)
    resized, targets = resize_bilinear(variable, labels.shape[1:]), jt.array(labels)
    masks = max(count_masks(labels), 1)
    losses = {
        "loss_mask": mask * focal_sum(resized, targets) / masks,
        "loss_dice": dice * dice_sum(resized, targets) / masks,
    }
    losses["total"] = losses["loss_mask"] + losses["loss_dice"]
    result = {name: np.array(loss.item()) for name, loss in losses.items()}
    return result | {f"grad_{name}": jt.grad(loss, variable).numpy() for name, loss in losses.items()}


def check_metrics(file: GoldenFile) -> dict[str, np.ndarray]:
    """The confusion matrix and the metrics made from it."""
    computed = {}
    for case in file.json("case_names"):
        matrix, zero_is_ignored = ConfusionMatrix(int(file[f"{case}.num_classes"])), file[f"{case}.reduce_zero_label"]
        for index in range(int(file[f"{case}.n"])):
            update(matrix, file[f"{case}.pred{index}"], file[f"{case}.label{index}"], bool(zero_is_ignored))
        ours = metric_values(matrix, file[f"{case}.seen"].tolist(), file[f"{case}.unseen"].tolist())
        computed |= {f"{case}.{name}": value for name, value in ours.items()}
    return computed


def update(matrix: ConfusionMatrix, prediction: np.ndarray, label: np.ndarray, zero_is_ignored: bool) -> None:
    """Adds one label map; with `zero_is_ignored` a stored 0 is the background and k means class k - 1."""
    if zero_is_ignored:
        label = np.where((label == 0) | (label == IGNORED), IGNORED, label - 1)
    matrix.update(prediction, label)


def metric_values(matrix: ConfusionMatrix, seen: list[int], unseen: list[int]) -> dict[str, np.ndarray]:
    """All metrics by the names of golden files, float64; shares in [0, 1]."""
    count, accuracy = len(matrix.iou()), matrix.accuracy()
    names = [str(index) for index in range(count)]
    summary, every = matrix.summary(seen, unseen, names), matrix.summary(range(count), (), names)
    percent = {"aAcc": summary["pAcc"], "mIoU": every["mIoU(S)"], "mIoU_seen": summary["mIoU(S)"]}
    percent |= {"mIoU_unseen": summary["mIoU(U)"], "hIoU": summary["hIoU"]}
    shares = {name: np.nan if value is None else value / 100 for name, value in percent.items()}
    values = {
        "area_intersect": matrix.intersection, "area_union": matrix.union, "area_pred": matrix.prediction_area,
        "area_label": matrix.label_area, "IoU": matrix.iou(), "Acc": accuracy,
        "mAcc": np.nanmean(accuracy) if np.isfinite(accuracy).any() else np.nan,
        **shares, **{f"printed_{name}": np.round(100 * value, 2) for name, value in shares.items()},
    }  # fmt: skip
    return {name: np.asarray(value, dtype=np.float64) for name, value in values.items()}


def read_tokenizer() -> Tokenizer:
    """CLIP's tokenizer; raises NotRun when its vocabulary, which is not ours to ship, is not on this machine."""
    try:
        return Tokenizer(find_vocabulary())
    except UserError as error:
        raise NotRun(f"vocabulary missing: {error}") from error


def text_tower(weights: dict[str, np.ndarray], **sizes: int) -> TextTower:
    """A text tower with the given weights."""
    tower = TextTower(**sizes)
    strict_load(tower, weights, "golden weights")
    return tower


def is_refused(encode: Tokenizer, text: str, length: int) -> bool:
    """Whether the tokenizer raises an error for a text."""
    try:
        encode(text, length)
    except UserError:
        return True
    return False


def check_text(file: GoldenFile) -> dict[str, np.ndarray]:
    """Token ids, a text tower, ensembles of templates."""
    encode, config = read_tokenizer(), file.json("config_json")
    length, strings = config["context_length"], file.json("strings_json")
    ids = encode(strings, length, truncate=True)
    file.expect("decoded_json", np.array(json.loads(str(file.arrays["decoded_json"]))))
    rows = np.zeros((config["vocab_size"], config["width"]), np.float32)
    rows[file["token_rows_idx"]] = file["token_rows"]
    sizes = {name: config[name] for name in ("width", "layers", "heads", "context_length", "vocab_size")}
    weights = file.starting_with("weight.") | {"token_embedding.weight": rows}
    tower = text_tower(weights, output_dim=config["embed"], **sizes)
    with jt.no_grad():
        out = tower(ids).numpy()
    classes, templates = file.json("classes_json"), file.json("templates_json")
    ensemble = f"ensemble{len(templates)}"
    filled = [template.replace("{}", name) for name in classes for template in templates]
    return {
        "token_ids": ids,
        "raw_token_count": np.array([len(encode.encode(text)) + 2 for text in strings]),
        "raises_without_truncate": np.array([is_refused(encode, text, length) for text in strings]),
        "decoded_json": np.array([encode.decode(encode.encode(text)) for text in strings]),
        "out": out,
        "out_normed": unit_rows(out),
        f"{ensemble}_ids": encode(filled, length).reshape(len(classes), len(templates), length),
        ensemble: embed_class_names(classes, templates, encode, tower, "golden"),
        "single": embed_class_names(classes, VOC_TEMPLATES, encode, tower, "golden"),
    }


def check_towers(file: GoldenFile) -> dict[str, np.ndarray]:
    """Embeddings and last hidden states of plain CLIP."""
    config, weights = file.json("config_json"), file.starting_with("weight.")
    del weights["logit_scale"]
    image_tower = ImageTower(*(config[key] for key in ("img", "patch", "vw", "vl", "vh", "proj")))
    visual = {name: weights.pop(name) for name in list(weights) if name.startswith("visual.")}
    strict_load(image_tower, {name.removeprefix("visual."): value for name, value in visual.items()}, "golden weights")
    keys = {"width": "tw", "layers": "tl", "heads": "th", "output_dim": "proj", "context_length": "ctx"}
    sizes = {name: config[key] for name, key in (keys | {"vocab_size": "vocab"}).items()}
    tower = text_tower(weights, **sizes)
    images, trace = jt.array(file["images"]), {}
    with jt.no_grad():
        return {
            "image_embeds": image_tower(images).numpy(),
            "visual_dense": image_tower(images, dense=True, trace=trace).numpy(),
            "visual_last_hidden_before_ln_post": trace[f"tokens_block{config['vl'] - 1}"].numpy(),
            "text_embeds": tower(file["token_ids"], trace).numpy(),
            "text_last_hidden": trace["text_last_hidden"].numpy(),
        }


def check_conversion(file: GoldenFile) -> dict[str, np.ndarray]:
    """A CLIP weight file in any container and naming, against the weights that it was made from."""
    source = file.path.parent.with_name("clip_towers.npz")
    if not source.is_file():
        raise NotRun(f"{source.name} is missing")
    towers, ours = GoldenFile(source), read_clip_weights(file.path)
    config = towers.json("config_json")
    file.expect("extra.sizes", np.array([config[key] for key in CLIP_SIZES.values()]))
    for name, value in towers.starting_with("weight.").items():
        file.expect(name, value)
    for name in ours.tensors.keys() - file.arrays.keys():
        file.expect(name, np.array("no such weight"))
    return {**ours.tensors, "extra.sizes": np.array([ours.config[name] for name in CLIP_SIZES])}


def check_initial_weights(file: GoldenFile) -> dict[str, np.ndarray]:
    """What a fresh CLIP-RC takes from CLIP: positions resized to its grid, region tokens like the class token."""
    positions, class_embedding = file["clip_positional_embedding"], file["clip_class_embedding"]
    (name,) = (key for key in file.arrays if GRID.search(key))
    rows, columns = (int(side) for side in GRID.search(name).groups())
    config = ModelConfig(
        image_size=16 * rows, width=positions.shape[1], heads=1, layers=2, output_dim=8, prompts=1,
        region_grid=math.isqrt(len(file.arrays["region_level_bridge"])), decoder_layers=1, decoder_heads=1,
    )  # fmt: skip
    model = build_clip_rc(config)
    own = model.backbone.state_dict()
    clip = {key: np.zeros(tuple(own[key].shape), np.float32) for key in own if "prompt" not in key}
    del clip["region_level_bridge"]
    clip |= {"positional_embedding": positions, "class_embedding": class_embedding}
    load_clip_image_weights(model, {f"visual.{key}": value for key, value in clip.items()})
    square = rows == columns
    return {
        name: model.backbone.positional_embedding.numpy() if square else resize_positions(positions, (rows, columns)),
        "region_level_bridge": model.backbone.region_level_bridge.numpy(),
    }


def check_parameter_groups(file: GoldenFile) -> dict[str, np.ndarray]:
    """Names, shapes, rates and decay of all trainable weights of the published models, and the frozen names."""
    names = [key.split("/")[1] for key in file.arrays if re.fullmatch("trainable/.*/dead", key)]
    dead = [name for name in names if file[f"trainable/{name}/dead"]]
    for name in dead:  # without effect in the released code, so ours does not have them
        file.starting_with(f"trainable/{name}/")
    live = [name for name in names if name not in dead]
    model = build_clip_rc(ModelConfig(prompts=int(file.arrays["trainable/backbone.prompt_embeddings/shape"][1])))
    config = OptimizerConfig(
        lr=float(file["base_lr"]),
        lr_factor=float(file.arrays["custom_keys/backbone/lr_mult"]),
        weight_decay=float(file["base_weight_decay"]),
    )
    ours = {name: tuple(var.shape) for name, var in trainable(model)}
    assert set(ours) == set(live), f"other parameters train: {', '.join(sorted(set(ours) ^ set(live))[:5])}"
    sizes = {name: int(np.prod(shape)) for name, shape in ours.items()}
    computed = {
        "live_trainable_params": np.array(sum(sizes.values())),
        "live_without_recovery_decoder": np.array(sum(n for name, n in sizes.items() if "recovery" not in name)),
    }
    if "frozen_backbone_names" in file:
        file.expect("frozen_backbone_names", np.sort(file.arrays["frozen_backbone_names"]))
        frozen = [name for name in model.state_dict() if name not in ours and "resblocks" not in name]
        computed["frozen_backbone_names"] = np.sort(np.array(frozen))
    for name, shape in ours.items():
        lr, weight_decay = group_settings(name, config)
        computed[f"trainable/{name}/shape"] = np.array(shape)
        computed[f"trainable/{name}/lr"] = np.array(lr)
        computed[f"trainable/{name}/weight_decay"] = np.array(weight_decay)
    return computed


def check_schedule(file: GoldenFile) -> dict[str, np.ndarray]:
    """Learning rates of the published runs, whose lengths are in the names of the arrays."""
    iterations, config = file["its"].tolist(), OptimizerConfig()
    computed = {}
    for name in file.arrays:
        if found := SCHEDULE.fullmatch(name):
            length = 1000 * int(found.group("thousands"))
            initial = config.lr * (config.lr_factor if found.group("group") == "trainable" else 1)
            rates = [learning_rate(step, length, initial, config) for step in iterations if step < length]
            computed[name] = np.array(rates)
    return computed
