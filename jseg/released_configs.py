"""Config files of the two releases as values of ours, key by key: JSeg's, and CLIP-RC's in mmcv style; their classes.

Facts: https://github.com/Jittor/JSeg (project/clip_rc), https://github.com/uyzhang/CLIP-RC (configs), and for `_base_`
https://mmcv.readthedocs.io/en/v1.4.4/understand_mmcv/config.html. docs/from_jseg.md is the same table for users.
"""

from __future__ import annotations

import ast
import difflib
import json
import os
import re
import runpy
import types
from pathlib import Path
from typing import Any

from jseg.errors import UserError, suggestion
from jseg.files import JSON_MARK, shipped


def split_names(text: str) -> tuple[str, ...]:
    """Names in order; commas between them, line breaks anywhere."""
    return tuple(" ".join(text.split()).split(", "))


_VOC12 = split_names("""
    aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog, horse, motorbike, person,
    pottedplant, sheep, sofa, train, tvmonitor
""")  # fmt: skip

_COCO_STUFF = split_names("""
    person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
    parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella,
    handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
    surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
    broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop,
    mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors,
    teddy bear, hair drier, toothbrush, banner, blanket, branch, bridge, building-other, bush, cabinet, cage,
    cardboard, carpet, ceiling-other, ceiling-tile, cloth, clothes, clouds, counter, cupboard, curtain, desk-stuff,
    dirt, door-stuff, fence, floor-marble, floor-other, floor-stone, floor-tile, floor-wood, flower, fog, food-other,
    fruit, furniture-other, grass, gravel, ground-other, hill, house, leaves, light, mat, metal, mirror-stuff, moss,
    mountain, mud, napkin, net, paper, pavement, pillow, plant-other, plastic, platform, playingfield, railing,
    railroad, river, road, rock, roof, rug, salad, sand, sea, shelf, sky-other, skyscraper, snow, solid-other, stairs,
    stone, straw, structural-other, table, tent, textile-other, towel, tree, vegetable, wall-brick, wall-concrete,
    wall-other, wall-panel, wall-stone, wall-tile, wall-wood, water-other, waterdrops, window-blind, window-other,
    wood
""")  # fmt: skip

NAMES = {"voc12": _VOC12, "coco_stuff": _COCO_STUFF}
UNSEEN = {"voc12": (15, 16, 17, 18, 19),
          "coco_stuff": (19, 23, 28, 29, 36, 51, 76, 88, 94, 112, 133, 136, 137, 157, 160)}  # fmt: skip

REPOSITORY = shipped("configs").parent  # in an installed package: jseg/
SECTIONS = {"dataset": "data", "scheduler": "lr_config"}  # JSeg's names -> CLIP-RC's
PIPELINE, TEST = "data.train.pipeline", "pipeline.MultiScaleFlipAug"
STEPS = ("Resize", "RandomCrop", "RandomFlip", "PhotoMetricDistortion", "Normalize", "Pad")  # in the order of ours
FILES = "img_dir=images ann_dir=labels split=names img_suffix=image_suffix seg_map_suffix=label_suffix"
# Their section, ours, and keys `theirs=ours` or, where both are the same, `key`. Where several
# of theirs mean one of ours, those that are given must agree. Names in <> are no keys of ours: `_complete` reads them.
ROWS = (
    ("model", "", "pretrained=model.init pretrained_text=model.init load_text_embedding=text.embeddings"),
    ("model", "", "class_names=<names> base_class=<base> novel_class=<novel> both_class=<both> self_training=<self>"),
    ("model.backbone", "model.", "patch_size width prompt_dim=width heads layers total_d_layer=layers output_dim"),
    ("model.backbone", "model.", "out_indices=layers input_resolution=image_size num_tokens=prompts"),
    ("model.backbone", "model.", "region_level_bridge_size=region_grid"),
    ("model.text_encoder", "", "embed_dim=model.output_dim context_length=text.context_length"),
    ("model.text_encoder", "text.", "transformer_width=width transformer_layers=layers transformer_heads=heads"),
    ("model.decode_head", "", "seen_idx=<base> all_idx=<both>"),
    ("model.decode_head", "model.", "img_size=image_size in_channels=output_dim channels=output_dim"),
    ("model.decode_head", "model.", "embed_dims=output_dim num_layers=decoder_layers num_heads=decoder_heads"),
    ("model.decode_head", "model.", "recovery_decoder_num_layers=recovery_layers"),
    ("model.decode_head.loss_decode", "loss.", "mask_weight=mask dice_weight=dice recovery_loss_weight=recovery"),
    ("model.test_cfg", "test.", "mode crop_size stride"),
    ("data", "", "samples_per_gpu=<samples> workers_per_gpu=data.workers"),
    ("data.train", "", "type=data.dataset data_root=data.root num_workers=data.workers batch_size=train.batch_size"),
    ("data.train", "data.train.", FILES),
    (PIPELINE, "data.", "Resize.img_scale=resize_box Resize.ratio_range=ratio_range RandomCrop.crop_size=crop_size"),
    (PIPELINE, "data.", "RandomCrop.cat_max_ratio=max_class_share RandomFlip.prob=flip_probability"),
    (PIPELINE, "data.", "PhotoMetricDistortion=photometric Normalize.mean=mean Normalize.std=std Pad.size=crop_size"),
    *(row for part in ("data.val", "data.test") for row in (
        (part, "", "type=data.dataset data_root=data.root"),
        (part, "data.val.", FILES),
        (f"{part}.{TEST}", "test.", "transforms.Resize.min_size=short_side img_ratios=scales flip"),
        (f"{part}.{TEST}", "data.", "transforms.Normalize.mean=mean transforms.Normalize.std=std"))),
    ("optimizer", "optimizer.", "lr betas eps weight_decay"),
    ("optimizer.paramwise_cfg.custom_keys", "optimizer.", "backbone.lr_mult=lr_factor head.lr_mult=lr_factor"),
    ("optimizer_config", "optimizer.", "grad_clip.max_norm=clip_norm"),
    ("lr_config", "optimizer.", "power min_lr warmup_ratio warmup_iters=warmup_iterations"),
    ("lr_config", "train.", "max_steps=iterations"),
    ("", "train.", "max_iter=iterations eval_interval=eval_every checkpoint_interval=save_every seed"),
    ("", "train.", "runner.max_iters=iterations evaluation.interval=eval_every log_config.interval=log_every"),
    ("", "train.", "log_interval=log_every checkpoint_config.interval=save_every"),
    ("checkpoint_config", "train.", "max_keep_ckpts=keep_checkpoints"),
)  # fmt: skip
PAIRS = [(section, ours, *item.partition("=")) for section, ours, keys in ROWS for item in keys.split()]
TABLE = {f"{section}.{key}".strip("."): ours + (name or key) for section, ours, key, _, name in PAIRS}
CONVERT = {  # by the last part of their key; other values are taken as they are
    "type": {"ZeroPascalVOCDataset20": "voc12", "ZeroCOCOStuffDataset": "coco_stuff"}.__getitem__,
    "out_indices": lambda layers: layers[0] + 1 if len(layers) == 1 else layers,
    "region_level_bridge_size": lambda regions: {side * side: side for side in range(33)}[regions],
    "img_scale": lambda box: tuple(sorted(box, reverse=True)),
    "PhotoMetricDistortion": lambda _: True, "total_d_layer": lambda last: last + 1,
    **dict.fromkeys(("img_dir", "ann_dir", "split"), lambda x: x[0] if isinstance(x, tuple) and len(x) == 1 else x),
}  # fmt: skip
UNLESS_GIVEN = {  # what the releases' code does where a config says nothing, and our base config might
    "data.train.names": "", "data.val.names": "", "data.ratio_range": (1.0, 1.0), "data.max_class_share": 1.0,
    "data.flip_probability": 0.0, "data.photometric": False, "test.scales": (1.0,), "test.flip": False,
    "optimizer.warmup_iterations": 0, "optimizer.power": 1.0, "optimizer.min_lr": 0.0, "optimizer.lr_factor": 1.0,
    "train.eval_every": 0,
}  # fmt: skip
NEEDED = ("data.dataset", "data.resize_box", "data.crop_size", "test.short_side", "<base>")
FIXED = {  # last part, or last two parts, of their key -> the only values that are taken, the released ones
    "type": ("CLIPRC", "CLIPVisionTransformerWithRLB", "CLIPTextEncoder", "ATMSingleHeadSeg", "SegLoss", "AdamW",
             "CustomAdamW", "CustomPrameterGroupsGenerator", "PolyLR", "IterBasedRunner"),
    "exclude_key": ("prompt", ("prompt",)),
    "policy": ("poly",), "warmup": ("linear",), "by_epoch": (False,), "get_embeddings": (True,), "use_proj": (False,),
    "use_stages": (1,), "ft_backbone": (False,), "pad_val": (0,), "seg_pad_val": (255,), "keep_ratio": (True,),
    "to_rgb": (True,), "norm_type": (2,), "text_encoder.lr_mult": (0,), "norm.decay_mult": (0,), "ln.decay_mult": (0,),
}  # fmt: skip
# parts of keys that have no effect, in the releases or beside the keys above
IDLE = {*split_names("""
    drop_path_rate, multi_prompts, crop_train, loss_weight, dec_layers, shuffle, drop_last, max_epoch, flip_test,
    logger, name, style, cudnn_benchmark, find_unused_parameters, num_classes, log_level, dist_params, workflow, hooks,
    metric, pre_eval, save_best, efficient_val, gpu_ids, device, auto_resume
""")}  # fmt: skip
IDLE_KEYS = re.compile(r"data\.(val|test)\.(batch_size|num_workers|pipeline\.MultiScaleFlipAug\.img_scale)")
BUILT_IN = {"LoadImageFromFile", "LoadAnnotations", "DefaultFormatBundle", "ImageToTensor", "Collect"}  # steps of ours
COMMAND_LINE = {"work_dir": "--work-dir", "resume_path": "--resume", "resume_from": "--resume",
                "load_from": "--weights", "pretrained_weights": "--weights"}  # fmt: skip
# names at top level without a meaning of their own, as are all that their file uses
VARIABLES = {*split_names("""
    img_size, in_channels, out_indices, region_level_bridge_size, base_class, novel_class, both_class, CLASSES,
    pretrained, pretrained_text, dataset_type, data_root, img_norm_cfg, crop_size, train_pipeline, test_pipeline
""")}  # fmt: skip


def find_config(name: str | Path) -> Path:
    """Absolute path of a config file; a name without folder and suffix may be that of one in configs/."""
    path, ours = Path(name).expanduser(), sorted((REPOSITORY / "configs").glob("*.py"))
    if path.exists() or path.suffix or len(path.parts) > 1:
        return path.resolve()
    known = {file.stem: file for file in ours}
    if path.name not in known:
        raise UserError(f"config {name}: no such file, nor one of ours{suggestion(name, known)}")
    return known[path.name]


def run_file(path: Path) -> dict[str, Any]:
    """The public names that a config file sets, or the content of a .json; UserError where it cannot be read."""
    if path.suffix in (".yaml", ".yml"):
        raise UserError(f"config {path}: YAML is not read: give the Python file that the run was started with")
    if not path.is_file():
        raise UserError(f"config file {path} does not exist")
    try:
        found = json.loads(path.read_text("utf-8")) if path.suffix == ".json" else runpy.run_path(str(path))
        public = {name: x for name, x in found.items() if name == "_base_" or (name[:1] != "_" and name != JSON_MARK)}
    except (Exception, SystemExit) as error:  # whatever a config raises is its writer's mistake
        raise UserError(f"config {path} does not run: {type(error).__name__}: {error}") from error
    return {name: x for name, x in public.items() if not isinstance(x, types.ModuleType) and not callable(x)}


def is_released(values: dict[str, Any]) -> bool:
    """Whether the names that a config file sets are those of a release, or of another config in mmcv style."""
    return "_base_" in values or (isinstance(values.get("model"), dict) and "type" in values["model"])


def read_released(path: Path) -> tuple[Path, dict[str, Any], list[str]]:
    """Our config of the same run, what theirs says by our keys (`train.seed`; absolute paths), and lines for the user.

    UserError names what has no counterpart here.
    """
    try:
        top = _with_bases(path)
        release = "JSeg" if "dataset" in top else "CLIP-RC"
        if not isinstance(model := top.get("model"), dict) or model.get("type") != "CLIPRC":
            raise UserError("its model.type is not 'CLIPRC': the other models of JSeg and mmcv are not part of jseg")
        if "parameter_groups_generator" in top:
            top.setdefault("optimizer", {})["paramwise_cfg"] = top.pop("parameter_groups_generator")
        flat = _flatten({SECTIONS.get(name, name): value for name, value in top.items()})
        ours, notes = _translate({key: x for key, x in flat.items() if x is not None or key == "lr_config.warmup"})
        base = _complete(ours, path, notes)
    except (UserError, TypeError, RecursionError) as error:  # wrong types; files that are each other's `_base_`
        raise UserError(f"config {path}: {error}") from error
    return base, ours, [f"config {path} of {release}: its values on top of configs/{base.name}", *notes]


def nested(dotted: str, value: Any) -> dict[str, Any]:
    """`a.b`, value -> {"a": {"b": value}}."""
    for name in reversed(dotted.split(".")):
        value = {name: value}
    return value


def _with_bases(path: Path) -> dict[str, Any]:
    """The names of a file merged over those of its `_base_` files, without mere variables."""
    own, merged = run_file(path), {}
    bases = own.pop("_base_", [])
    for base in [bases] if isinstance(bases, str) else bases:
        _merge(merged, _with_bases((path.parent / base).resolve()))
    nodes = [node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.Name)]
    settings = {key.partition(".")[0] for key in TABLE} | {*SECTIONS, "parameter_groups_generator"}
    variables = VARIABLES | {node.id for node in nodes if isinstance(node.ctx, ast.Load)} - settings
    _merge(merged, {name: value for name, value in own.items() if name not in variables})
    return merged


def _merge(target: dict[str, Any], source: dict[str, Any]) -> None:
    """Puts `source` over `target`: dictionaries deeply, unless they say `_delete_` (mmcv) or `_cover_` (JSeg)."""
    for name, value in source.items():
        if isinstance(value, dict):
            value, old = dict(value), target.get(name)
            alone = [value.pop(word, False) for word in ("_delete_", "_cover_")]
            target[name] = old if isinstance(old, dict) and not any(alone) else {}
            _merge(target[name], value)
        else:
            target[name] = value


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one with dotted keys; a pipeline as a dictionary of its steps, each of them also a key."""
    flat: dict[str, Any] = {}
    if isinstance(value, (list, tuple)) and value and all(isinstance(item, dict) and "type" in item for item in value):
        if len({step["type"] for step in value}) < len(value):
            raise UserError(f"{prefix} has a step twice")
        flat = {f"{prefix}.{step['type']}": {} for step in value}
        value = {step["type"]: {key: x for key, x in step.items() if key != "type"} for step in value}
    elif not isinstance(value, dict):
        value = value.tolist() if hasattr(value, "tolist") else value  # NumPy's
        return {prefix: tuple(value) if isinstance(value, (list, range)) else value}
    for name, item in value.items():
        flat |= _flatten(item, f"{prefix}.{name}".strip("."))
    return flat


def _translate(theirs: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Their flat keys -> values by our keys (and those in <>), and notes."""
    ours, origin, idle, given, known = dict(UNLESS_GIVEN), {}, [], [], {*STEPS, "MultiScaleFlipAug"}
    for key, value in theirs.items():
        *_, last = parts = key.split(".")
        rule = next((name for name in (".".join(parts[-2:]), last) if name in FIXED), "")
        if name := TABLE.get(key):
            try:
                ours[name], old = CONVERT.get(last, lambda x: x)(value), ours.get(name)
            except (TypeError, LookupError) as error:
                raise UserError(f"{key}={value!r} cannot be used") from error
            if ours[name] != old and (other := origin.get(name)):
                raise UserError(f"{key}={value!r} does not fit {other}={theirs[other]!r}: both are {name.strip('<>')}")
            origin[name] = key
        elif key in COMMAND_LINE:
            given.append(f"{key}={value!r} ({COMMAND_LINE[key]})")
        elif IDLE & {*parts} or IDLE_KEYS.fullmatch(key):
            idle.append(next((part for part in parts if part in IDLE), ".".join(parts[-2:])))
        elif rule:
            if value not in FIXED[rule]:
                raise UserError(f"{key}={value!r}: jseg computes as the releases, with {FIXED[rule][0]!r}")
        elif not BUILT_IN & {*parts} and (value != {} or last not in known):  # {}: a step of a pipeline
            close = difflib.get_close_matches(key, TABLE, n=1)
            raise UserError(f"unknown key {key}{f': did you mean {close[0]}?' if close else ''}")
    if missing := [key for key, name in TABLE.items() if name in NEEDED and name not in ours]:
        raise UserError(f"{missing[0]} is missing")
    steps = [key.rpartition(".")[2] for key in theirs if key.rpartition(".")[0] == PIPELINE]
    if [step for step in steps if step in STEPS] != [step for step in STEPS if step in steps]:
        raise UserError(f"{PIPELINE} has another order than that of the releases, {', '.join(STEPS)}")
    notes = [f"without effect, as in the releases: {', '.join(dict.fromkeys(idle))}"] * bool(idle)
    notes += [f"warning: given on the command line here, not read from a config: {', '.join(given)}"] * bool(given)
    return ours, notes


def _complete(ours: dict[str, Any], path: Path, notes: list[str]) -> Path:
    """Completes `ours` in place by what depends on several keys; returns our config of the same run."""
    dataset = ours["data.dataset"]
    names, given = NAMES[dataset], tuple(ours.pop("<names>", NAMES[dataset]))
    if given != names:
        odd = next((pair for pair in zip(given, names, strict=False) if pair[0] != pair[1]), (len(given), len(names)))
        raise UserError(f"model.class_names are not those of {dataset} in their order: {odd[0]!r} for {odd[1]!r}")
    base, novel, both = (sorted(ours.pop(name, ())) for name in ("<base>", "<novel>", "<both>"))
    if not sorted(base + novel) == both == [*range(len(names))]:
        raise UserError(f"model.base_class, novel_class and both_class are not the {len(names)} classes of {dataset}")
    setting = "transductive" if ours.pop("<self>", False) else "inductive" if novel else "supervised"
    if novel and tuple(novel) != UNSEEN[dataset]:
        ours["data.split"], ours["expected"] = f"unseen: {', '.join(names[index] for index in novel)}", {}
        notes.append(f"another split than the published one: data.split={ours['data.split']!r}")
    if not ours.get("text.embeddings"):
        ours["text.templates"] = ("a photo of a {}",)  # whatever the data set
    found = []
    for key in ("model.init", "data.root", "text.embeddings"):
        if (name := os.path.expanduser(str(ours.get(key, "")))) and not os.path.isabs(name):
            places = [folder / name for folder in (Path.cwd(), *path.parents, REPOSITORY / "pretrained")]
            ours[key] = str(next((place for place in places if place.exists()), places[0]))
            found.append(f"{key}={ours[key]}{'' if os.path.exists(ours[key]) else ' (missing)'}")
    where = "in the current folder, else the config's or one above it, else pretrained/"
    notes += [f"relative paths are looked for {where}: {', '.join(found)}"] * bool(found)
    if samples := ours.pop("<samples>", None):
        notes.append(f"{samples} images a GPU, on an unknown number of GPUs: the batch is the recipe's, 16 in all")
    elif dataset == "voc12" and ours.get("train.batch_size") == 4:
        del ours["train.batch_size"]
        notes.append(
            "warning: batch_size=4 of JSeg's VOC file is not the recipe's: 16 is used; train.batch_size=4 keeps 4"
        )
    base_config = REPOSITORY / "configs" / f"{dataset}_{setting}.py"
    losses = {"loss.mask": 20.0, "loss.dice": 1.0, "loss.recovery": 1.0}  # what SegLoss does without
    if losses.keys() & ours.keys():
        ours.update({key: value for key, value in losses.items() if key not in ours})
    else:
        notes.append(f"warning: no loss weights in it: those of the recipe are used (configs/{base_config.name})")
    return base_config
