"""What is computed for each kind of golden file: a check takes a file and returns our arrays under the file's names."""

import json
import math
import re
from dataclasses import replace
from typing import Any

import jittor as jt
import numpy as np

from jseg.clip.class_embeddings import VOC_TEMPLATES, TextModel, embed_class_names, unit_rows
from jseg.clip.image_tower import ImageTower, resize_positions
from jseg.clip.tokenizer import Tokenizer, find_vocabulary
from jseg.clip.weights import read_clip_weights
from jseg.config import ModelConfig, OptimizerConfig, TrainConfig
from jseg.data.class_names import IGNORED, training_classes, training_labels
from jseg.engine.optimizer import group_settings, learning_rate
from jseg.engine.sliding_window import ImageScores
from jseg.engine.train import Trainer
from jseg.errors import UserError
from jseg.metrics import ConfusionMatrix
from jseg.model.clip_rc import build_clip_rc, trainable
from jseg.model.initial_weights import load_clip_image_weights
from jseg.model.losses import mask_sums
from jseg.ops.bilinear import resize_bilinear
from jseg.parity.golden import GoldenFile, GoldenModel, NotRun
from jseg.weights.state import state_arrays, strict_load

SETTINGS = {"inductive": "inductive", "transductive": "transductive", "full": "supervised"}  # file name -> ours
LOSS_NAMES = {
    "loss.decode.loss_mask": "mask", "loss.decode.loss_dice": "dice", "loss.decode.recovery_loss_q": "recovery_q",
    "loss.decode.recovery_loss_k": "recovery_v", "loss.total": "total",
}  # fmt: skip
CLIP_SIZES = {  # of a clip_towers file, by the names of `ClipWeights.config`; weights do not show the heads
    "image_size": "img", "patch_size": "patch", "image_width": "vw", "image_layers": "vl", "output_dim": "proj",
    "context_length": "ctx", "vocab_size": "vocab", "text_width": "tw", "text_layers": "tl",
}  # fmt: skip


def as_recorded(file: GoldenFile, computed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays that the file holds, with the rows and columns that it keeps; label maps have a channel axis there."""
    result = {}
    for name, reference in file.arrays.items():
        full_name, *step = re.split(r"_s(\d+)$", name)  # logits_up_s4: every 4th row and column
        if name not in file.read and full_name in computed:
            ours = computed[full_name][..., :: int(step[0]), :: int(step[0])] if step else computed[full_name]
            result[name] = ours.reshape(reference.shape) if ours.size == reference.size else ours
    return result


def check_forward_eval(file: GoldenFile) -> dict[str, np.ndarray]:
    """Everything between the images and the labels."""
    golden, trace = GoldenModel(file), {}
    model, text, images = golden.build(), jt.array(file["text_feat"]), file["image"]
    with jt.no_grad():
        logits = resize_bilinear(model(jt.array(images), text, trace), images.shape[2:]).numpy()
    computed = {name: value.numpy() for name, value in trace.items()} | {"logits_up": logits}
    original = tuple(file["ori_shape"][:2].tolist())
    for setting, middle in (("inductive", ""), ("transductive", "_transductive")):
        config = golden.config(setting)
        for mode, kind, batch in (("whole", "eval", images), ("slide", "slide", file["slide_image"])):
            test = replace(config.test, mode=mode)
            scores = [ImageScores(model, x, text, golden.classes.seen, config.gamma(), test) for x in batch]
            for prefix, size in ((kind, None), (f"{kind}_rescaled", original)):
                computed[f"{prefix}_{setting}"] = np.stack([item.scores(size) for item in scores])
                computed[f"{prefix}{middle}_argmax"] = np.stack([item.labels(size) for item in scores])
    for name in [name for name in file.arrays if name.startswith("tokens_block")]:
        # the rows of prompts after the class token, which the next layer replaces, are recorded only
        tokens, recorded = computed[name], file.arrays[name][:, 1 : 1 + golden.values["K"]]
        computed[name] = np.concatenate([tokens[:, :1], recorded, tokens[:, 1:]], axis=1)
    return as_recorded(file, computed)


def check_forward_eps(file: GoldenFile) -> dict[str, np.ndarray]:
    """The encoder with weights so small that the eps of each normalisation shows."""
    golden, trace = GoldenModel(file), {}
    golden.tensors |= {name: golden.tensors[name] * np.float32(file["scale"]) for name in file.json("scaled_keys_json")}
    golden.build().backbone(jt.array(file.companion(f"forward_eval_{file.tag}.npz")["image"]), trace)
    return {name: value.numpy() for name, value in trace.items()}


def training(file: GoldenFile, setting: str) -> tuple:
    """Model, images (B, 3, H, W), labels (B, H, W) and what makes a trainer from weights of the losses."""
    golden, stored = GoldenModel(file), file.companion(f"train_batch_{file.tag}.npz")
    model, classes = golden.build(), golden.classes
    text = stored["text_feat"][list(training_classes(classes, setting))]
    labels = stored["labels_full" if setting == "supervised" else "labels"]
    labels = training_labels(labels.reshape(-1, *labels.shape[-2:]), classes, setting)
    unseen = classes.unseen if setting == "transductive" else ()

    def make_trainer(weights: np.ndarray, **changes: Any) -> Trainer:
        return Trainer(model, text, unseen, replace(golden.config(setting, weights), **changes))

    return model, stored["image"], labels, make_trainer


def check_train(file: GoldenFile) -> dict[str, np.ndarray]:
    """Outputs, labels as used, loss terms and the gradient of every trainable weight."""
    model, images, labels, make_trainer = training(file, SETTINGS[file.path.stem.split("_")[1]])
    computed = {"labels_mapped": labels}
    for weights_name in [name for name in file.arrays if name.split("_")[0] == "weights"]:
        prefix = weights_name.removeprefix("weights").lstrip("_")
        prefix += "." if prefix else ""  # weights_w1 -> "w1.", weights -> ""
        trainer = make_trainer(file[weights_name])
        gradients, sums = trainer.gradients(images, labels)
        losses = trainer.loss.values(sums.numpy())
        with jt.no_grad():
            outputs = model.training_outputs(jt.array(images), trainer.text)
            used = trainer.loss.sums(outputs, labels).labels.numpy()
            masks = resize_bilinear(outputs.logits_grid, labels.shape[1:])
        variables = {
            "ori_q": outputs.query_targets, "ori_lateral": outputs.pixel_targets, "q": outputs.recovered_queries,
            "lateral": outputs.recovered_pixels, "pred_masks": masks,
        }  # fmt: skip
        computed |= {f"out.{name}": variable.numpy() for name, variable in variables.items()}
        computed |= {"labels_used": used, f"{prefix}labels_used": used}
        computed |= {f"{prefix}{name}": np.array(losses[ours]) for name, ours in LOSS_NAMES.items()}
        by_name = {name: value.numpy() for name, value in zip(trainer.optimizer.names, gradients, strict=True)}
        computed |= {f"{prefix}grad.{name}": gradient for name, gradient in by_name.items()}
        if trainer.config.loss.recovery == 0:  # not recorded, because they are 0; but weight decay needs them
            zero = [value for name, value in by_name.items() if "recovery_decoder" in name]
            computed[f"extra.{prefix}recovery gradients"] = np.array([np.abs(value).max() for value in zero])
            file.arrays[f"extra.{prefix}recovery gradients"] = np.zeros(len(zero))
    if "trainable_live_json" in file.arrays:
        file.arrays["trainable_live_json"] = np.sort(json.loads(str(file.arrays["trainable_live_json"])))
        computed["trainable_live_json"] = np.array(sorted(name for name, _ in trainable(model)))
    return as_recorded(file, computed)


def check_trajectory(file: GoldenFile) -> dict[str, np.ndarray]:
    """Losses before each of some optimiser steps on one batch, and all weights after them; of a .json the rates."""
    run = file if file.path.suffix == ".json" else file.companion(f"{file.path.stem}.lr.json")
    base, iterations = float(run["base_lr"]), int(run["max_iters"])
    optimizer = OptimizerConfig(
        lr=base, lr_factor=float(run["trainable_initial_lr"]) / base, weight_decay=float(run["base_wd"]),
        power=float(run["power"]), min_lr=float(run["min_lr"]), warmup_iterations=int(run["warmup_iters"]),
        warmup_ratio=float(run["warmup_ratio"]),
    )  # fmt: skip

    def rates(steps: int, config: OptimizerConfig) -> np.ndarray:
        return np.array([learning_rate(step, iterations, config) for step in range(steps)])

    frozen_groups = replace(optimizer, lr_factor=1.0)
    if run is file:
        groups = {"lr_trainable": optimizer, "lr_frozen_groups": frozen_groups}
        return {name: rates(len(file.arrays[name]), group) for name, group in groups.items() if name in file.arrays}
    model, images, labels, make_trainer = training(file, "inductive")
    before = state_arrays(model)
    trainer = make_trainer(file["weights"], optimizer=optimizer, train=TrainConfig(iterations=iterations))
    steps = range(len(file.arrays["losses"]))
    reports = [(trainer.step(images, labels, step), trainer.optimizer.lr) for step in steps]
    final, trained = state_arrays(model), trainer.optimizer.names
    frozen = [name for name in final if name not in trained]
    file.arrays["extra.frozen weights"] = np.concatenate([before[name].ravel() for name in frozen])
    return {
        "losses": np.array([[report.losses[name] for name in LOSS_NAMES.values()] for report, _ in reports]),
        "lr_trainable": np.array([lr for _, lr in reports]), "lr_frozen": rates(len(steps), frozen_groups),
        "base_lr": np.array(base), "weight_decay": np.array(optimizer.weight_decay),
        **{f"final.{name}": final[name] for name in trained},
        "extra.frozen weights": np.concatenate([final[name].ravel() for name in frozen]),
    }  # fmt: skip


def check_losses_only(file: GoldenFile) -> dict[str, np.ndarray]:
    """Focal and dice on given logits, unweighted, with their gradients."""
    cases = file.json("case_names")
    ours = {case: mask_losses(file[f"{case}.logits"], file[f"{case}.labels"], 1.0, 1.0) for case in cases}
    return {f"{case}.{name}": value for case, values in ours.items() for name, value in values.items()}


def mask_losses(logits: np.ndarray, labels: np.ndarray, mask: float, dice: float) -> dict[str, np.ndarray]:
    """Weighted focal and dice losses, their sum, and the gradients of all three with respect to the logits."""
    labels, variable = labels.reshape(-1, *labels.shape[-2:]).astype(np.int32), jt.array(logits)
    (focal_sum, dice_sum, masks), result = mask_sums(variable, jt.array(labels), 0.25, 2.0), {}
    losses = [mask * focal_sum / jt.maximum(masks.stop_grad(), 1), dice * dice_sum / jt.maximum(masks.stop_grad(), 1)]
    for name, loss in zip(("loss_mask", "loss_dice", "total"), (*losses, losses[0] + losses[1]), strict=True):
        result |= {name: np.array(loss.item()), f"grad_{name}": jt.grad(loss, variable).numpy()}
    return result


def check_metrics(file: GoldenFile) -> dict[str, np.ndarray]:
    """The confusion matrix and the metrics made from it."""
    computed = {}
    for case in file.json("case_names"):
        pairs = [(file[f"{case}.pred{i}"], file[f"{case}.label{i}"]) for i in range(int(file[f"{case}.n"]))]
        names = ("num_classes", "reduce_zero_label", "seen", "unseen")
        count, zero_is_ignored, seen, unseen = (file[f"{case}.{name}"].tolist() for name in names)
        ours = metric_values(count, pairs, zero_is_ignored, seen, unseen)
        computed |= {f"{case}.{name}": value for name, value in ours.items()}
    return computed


def metric_values(
    count: int, pairs: list[tuple[np.ndarray, np.ndarray]], zero_is_ignored: bool, seen: list[int], unseen: list[int]
) -> dict[str, np.ndarray]:
    """All metrics of (prediction, label map) pairs by the names of golden files, float64; shares in [0, 1]."""
    matrix = ConfusionMatrix(count)
    for prediction, label in pairs:  # with `zero_is_ignored` a stored 0 is the background and k means class k - 1
        ignored = (label == 0) | (label == IGNORED)
        matrix.update(prediction, np.where(ignored, IGNORED, label - 1) if zero_is_ignored else label)
    predicted, summary = matrix.counts.sum(axis=0), matrix.summary(seen, unseen, [str(index) for index in range(count)])
    keys = {"aAcc": "pAcc", "mIoU": "mIoU", "mAcc": "mAcc", "mIoU_seen": "mIoU(S)", "mIoU_unseen": "mIoU(U)"}
    percent = {name: summary[key] for name, key in {**keys, "hIoU": "hIoU"}.items()}
    shares = {name: np.nan if value is None else value / 100 for name, value in percent.items()}
    values = {
        "area_intersect": matrix.intersection, "area_pred": predicted, "area_label": matrix.label_area,
        "area_union": matrix.label_area + predicted - matrix.intersection,
        "IoU": matrix.iou(), "Acc": matrix.accuracy(),
        **shares, **{f"printed_{name}": np.round(100 * value, 2) for name, value in shares.items()},
    }  # fmt: skip
    return {name: np.asarray(value, dtype=np.float64) for name, value in values.items()}


def read_tokenizer() -> Tokenizer:
    """CLIP's tokenizer; raises NotRun when its vocabulary, which is not ours to ship, is not on this machine."""
    try:
        return Tokenizer(find_vocabulary())
    except UserError as error:
        raise NotRun(f"vocabulary missing: {error}") from error


def is_refused(encode: Tokenizer, text: str, length: int) -> bool:
    """Whether the tokenizer raises an error for a text."""
    try:
        return encode(text, length) is None
    except UserError:
        return True


def check_text(file: GoldenFile) -> dict[str, np.ndarray]:
    """Token ids, a text tower, ensembles of templates."""
    encode, config = read_tokenizer(), file.json("config_json")
    length, strings = config["context_length"], file.json("strings_json")
    ids = encode(strings, length, truncate=True)
    file.arrays["decoded_json"] = np.array(json.loads(str(file.arrays["decoded_json"])))
    rows = np.zeros((config["vocab_size"], config["width"]), np.float32)
    rows[file["token_rows_idx"]] = file["token_rows"]
    weights = file.starting_with("weight.") | {"token_embedding.weight": rows}
    tower = TextModel(weights, config["heads"], None, "golden").tower()
    out = tower(ids).numpy()
    classes, templates = file.json("classes_json"), file.json("templates_json")
    ensemble = f"ensemble{len(templates)}"
    filled = [template.replace("{}", name) for name in classes for template in templates]
    return {
        "token_ids": ids,
        "raw_token_count": np.array([len(encode.encode(text)) + 2 for text in strings]),
        "raises_without_truncate": np.array([is_refused(encode, text, length) for text in strings]),
        "decoded_json": np.array([encode.decode(encode.encode(text)) for text in strings]),
        "out": out, "out_normed": unit_rows(out),
        f"{ensemble}_ids": encode(filled, length).reshape(len(classes), len(templates), length),
        ensemble: embed_class_names(classes, templates, encode, tower, "golden"),
        "single": embed_class_names(classes, VOC_TEMPLATES, encode, tower, "golden"),
    }  # fmt: skip


def check_towers(file: GoldenFile) -> dict[str, np.ndarray]:
    """Embeddings and last hidden states of plain CLIP."""
    config, weights = file.json("config_json"), file.starting_with("weight.")
    image_tower = ImageTower(*(config[key] for key in ("img", "patch", "vw", "vl", "vh", "proj")))
    strict_load(image_tower, file.starting_with("weight.visual."), "golden weights")
    weights = {name: value for name, value in weights.items() if not name.startswith(("visual.", "logit_scale"))}
    tower = TextModel(weights, config["th"], None, "golden").tower()
    images, trace = jt.array(file["images"]), {}
    return {
        "image_embeds": image_tower(images).numpy(),
        "visual_dense": image_tower(images, dense=True, trace=trace).numpy(),
        "visual_last_hidden_before_ln_post": trace[f"tokens_block{config['vl'] - 1}"].numpy(),
        "text_embeds": tower(file["token_ids"], trace).numpy(),
        "text_last_hidden": trace["text_last_hidden"].numpy(),
    }


def check_conversion(file: GoldenFile) -> dict[str, np.ndarray]:
    """A CLIP weight file in any container and naming, against the weights that it was made from."""
    towers, ours = file.companion("../clip_towers.npz"), read_clip_weights(file.path)
    config = towers.json("config_json")
    file.arrays = dict.fromkeys(ours.tensors, np.array("no such weight")) | towers.starting_with("weight.")
    file.arrays["extra.sizes"] = np.array([config[key] for key in CLIP_SIZES.values()])
    return {**ours.tensors, "extra.sizes": np.array([ours.config[name] for name in CLIP_SIZES])}


def check_initial_weights(file: GoldenFile) -> dict[str, np.ndarray]:
    """What a fresh CLIP-RC takes from CLIP: positions resized to its grid, region tokens like the class token."""
    positions, class_embedding = file["clip_positional_embedding"], file["clip_class_embedding"]
    (name,) = (name for name in file.arrays if name.startswith("positional_embedding_"))
    rows, columns = map(int, name.rsplit("_", 1)[-1].split("x"))
    model = build_clip_rc(ModelConfig(
        image_size=16 * rows, width=positions.shape[1], heads=1, layers=2, output_dim=8, prompts=1,
        region_grid=math.isqrt(len(file.arrays["region_level_bridge"])), decoder_layers=1, decoder_heads=1,
    ))  # fmt: skip
    own = state_arrays(model.backbone).items()
    clip = {key: np.zeros_like(x) for key, x in own if "prompt" not in key and key != "region_level_bridge"}
    clip |= {"positional_embedding": positions, "class_embedding": class_embedding}
    load_clip_image_weights(model, {f"visual.{key}": value for key, value in clip.items()})
    own = state_arrays(model.backbone)
    if rows != columns:
        own["positional_embedding"] = resize_positions(jt.array(positions), (rows, columns)).numpy()
    return {name: own["positional_embedding"], "region_level_bridge": own["region_level_bridge"]}


def check_parameter_groups(file: GoldenFile) -> dict[str, np.ndarray]:
    """Names, shapes, rates and decay of all trainable weights of the published models, and the frozen names."""
    for key in [key for key in file.arrays if re.fullmatch("trainable/.*/dead", key)]:
        if file[key]:  # without effect in the released code, so ours does not have it
            file.starting_with(key.removesuffix("dead"))
    model = build_clip_rc(ModelConfig(prompts=int(file.arrays["trainable/backbone.prompt_embeddings/shape"][1])))
    factor, decay = float(file.arrays["custom_keys/backbone/lr_mult"]), float(file["base_weight_decay"])
    config = OptimizerConfig(lr=float(file["base_lr"]), lr_factor=factor, weight_decay=decay)
    ours = {name: tuple(var.shape) for name, var in trainable(model)}
    computed = {
        "live_trainable_params": sum(map(math.prod, ours.values())),
        "live_without_recovery_decoder": sum(math.prod(ours[name]) for name in ours if "recovery" not in name),
    }
    if "frozen_backbone_names" in file.arrays:
        file.arrays["frozen_backbone_names"] = np.sort(file.arrays["frozen_backbone_names"])
        frozen = [name for name in model.state_dict() if name not in ours and "resblocks" not in name]
        computed["frozen_backbone_names"] = np.sort(np.array(frozen))
    for name, shape in ours.items():
        values = zip(("shape", "lr", "weight_decay"), (shape, *group_settings(name, config)), strict=True)
        computed |= {f"trainable/{name}/{key}": value for key, value in values}
    return computed


def check_schedule(file: GoldenFile) -> dict[str, np.ndarray]:
    """Learning rates of the published runs, whose lengths are in the names of the arrays."""
    iterations, config, computed = file["its"].tolist(), OptimizerConfig(), {}
    for found in filter(None, map(re.compile(r".*?(\d+)k_lr_(trainable|base)").fullmatch, file.arrays)):
        length = 1000 * int(found[1])
        group = config if found[2] == "trainable" else replace(config, lr_factor=1.0)
        rates = [learning_rate(step, length, group) for step in iterations if step < length]
        computed[found.string] = np.array(rates)
    return computed
