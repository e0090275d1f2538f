"""The configuration: one dataclass per section, read from a Python file and changed by `section.key=value` overrides.

A config file is Python and runs when it is read: use only files you trust. It sets module-level dictionaries named
after the sections below (`data = dict(...)`), and may start from another one with `base = "other.py"`. Relative paths
in it are relative to its folder; in an override, to the current folder. Instead of a tuple of texts, the path of a file
with one a line will do.
"""

import ast
import dataclasses
import json
import math
import operator
import os
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jseg.errors import UserError, suggestion
from jseg.files import read_lines
from jseg.released_configs import find_config, is_released, nested, read_released, run_file

IMAGENET_MEAN = (123.675, 116.28, 103.53)  # RGB, of values in [0, 255]
IMAGENET_STD = (58.395, 57.12, 57.375)
Paths = str | tuple[str, ...]
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
# keys of `data` that describe one data set: a config that names another than its base starts without the base's
DESCRIPTION = ("split", "held_out", "title", "names", "unseen", "stored", "ignored", "palette", "root", "train", "val")
# ways to segment with CLIP's own features (jseg/baselines.py)
TRAINING_FREE = ("patch_features", "value_path", "class_token", "sclip", "clearclip", "naclip")
METRICS = ("pAcc", "mIoU(S)", "mIoU(U)", "hIoU")  # in the papers' order
# keys of earlier versions and their defaults, which recorded configurations hold; none changes what weights compute
REMOVED = {"kernels": "auto", "train.checkpoint_activations": False, "train.ema": 0.0, "train.patience": 0}
LIMITS = {"at_least": operator.ge, "above": operator.gt, "at_most": operator.le, "below": operator.lt}  # of `key`


def key(default: Any = "", path: bool = False, choices: Iterable[str] = (), **limits: float) -> Any:
    """A field: a path is made absolute when it is read; limits are those of `LIMITS`, for each item of a tuple."""
    return field(default=default, metadata={"path": path, "choices": tuple(choices), "limits": limits})


@dataclass
class SplitConfig:
    """Where the images and label maps of one split lie, relative to `data.root`; lists are taken item by item."""

    images: Paths = ""  # folder of images
    labels: Paths = ""  # folder of label PNGs; "" = no labels (task test only)
    names: Paths = ""  # file with one name a line, without suffix; "" = every image in the folder
    image_suffix: Paths = ".jpg"  # several: each image has one of them
    label_suffix: str = ".png"


@dataclass
class ShapesConfig:
    """The built-in data set `shapes` (jseg/data/shapes.py)."""

    size: tuple[int, int] = key((96, 96), at_least=32)  # height, width of a scene in pixels
    train_scenes: int = key(2000, at_least=1)
    val_scenes: int = key(100, at_least=1)
    seed: int = key(0, at_least=0)
    objects: tuple[int, int] = key((1, 4), at_least=1)  # fewest and most objects in a scene


@dataclass
class DataConfig:
    """What to train and evaluate on."""

    dataset: str = "shapes"  # class list: see jseg/data/class_names.py; custom: your own, in the six keys after split
    split: str = ""  # which seen/unseen split, where a data set has several, or your own: "unseen: cow, sofa"
    title: str = ""  # of your own data, for results
    names: tuple[str, ...] = ()  # of the classes
    unseen: tuple[str, ...] = ()  # those of them that training does not see
    stored: tuple[int, ...] = key((), at_least=0, at_most=255)  # pixel value of each class; () = 0, 1, … but `ignored`
    ignored: tuple[int, ...] = key((255,), at_least=0, at_most=255)  # pixel values of no class
    palette: tuple[tuple[int, int, int], ...] = ()  # RGB of each class; () = chosen by the names
    setting: str = key("inductive", choices=("inductive", "transductive", "supervised"))
    held_out: tuple[str, ...] = ()  # seen classes that play the unseen ones, to calibrate gamma
    root: str = key(path=True)
    train: SplitConfig = field(default_factory=SplitConfig)
    val: SplitConfig = field(default_factory=SplitConfig)
    shapes: ShapesConfig = field(default_factory=ShapesConfig)
    crop_size: tuple[int, int] = key((512, 512), at_least=1)  # height, width of a training crop in pixels
    resize_box: tuple[int, int] = key((2048, 512), at_least=1)  # long, short side of the box that a ratio of 1 fills
    ratio_range: tuple[float, float] = key((0.5, 2.0), above=0)  # lowest and highest
    max_class_share: float = key(0.75, above=0)  # of a crop's labelled pixels; else it is drawn again
    flip_probability: float = key(0.5, at_least=0, at_most=1)
    photometric: bool = True
    mean: tuple[float, float, float] = key(IMAGENET_MEAN, at_least=-1000, at_most=1000)  # RGB, of values in [0, 255]
    std: tuple[float, float, float] = key(IMAGENET_STD, at_least=1e-6)
    workers: int = key(2, at_least=0, at_most=1024)  # processes that prepare images; 0 = in this process


@dataclass
class ModelConfig:
    """CLIP-RC (jseg/model). The defaults are ViT-B/16 with the paper's VOC settings."""

    image_size: int = key(512, at_least=1)  # pixels; image_size // patch_size is the side of the positional grid
    patch_size: int = key(16, at_least=1)
    width: int = key(768, at_least=1)
    layers: int = key(12, at_least=1)
    heads: int = key(12, at_least=1)
    output_dim: int = key(512, at_least=1)
    prompts: int = key(10, at_least=1)  # learned tokens per layer
    region_grid: int = key(4, at_least=0)  # regions a side: 4 = 16 regions; 0 = none: ZegCLIP's descriptors
    decoder_layers: int = key(3, at_least=1)
    decoder_heads: int = key(8, at_least=1)
    ffn_factor: int = key(4, at_least=1)
    recovery_layers: int = key(1, at_least=1)
    prompt_dropout: float = key(0.1, at_least=0, below=1)
    decoder_dropout: float = key(0.1, at_least=0, below=1)
    init: str = key(path=True)  # CLIP weights to start from, or the word random
    head_init: str = key("released", choices=("released", "aligned"))  # see jseg/model/initial_weights.py


@dataclass
class TextConfig:
    """Where class embeddings come from: a file, or the text tower of the CLIP weights."""

    embeddings: str = key(path=True)  # .npy or .safetensors of (classes, output_dim); "" = from the text tower
    templates: tuple[str, ...] = ("a photo of a {}",)
    vocabulary: str = key(path=True)  # byte-pair vocabulary; the word generated = made from the class names
    width: int = key(512, at_least=1)
    layers: int = key(12, at_least=1)
    heads: int = key(8, at_least=1)
    context_length: int = key(77, at_least=1)


@dataclass
class LossConfig:
    """Weights of the loss terms (method: `mask * focal + dice * dice + recovery * (L1 + L1)`)."""

    mask: float = key(100.0, at_least=0)
    dice: float = key(1.0, at_least=0)
    recovery: float = key(2.0, at_least=0)
    focal_alpha: float = key(0.25, at_least=0, at_most=1)
    focal_gamma: float = key(2.0, at_least=0)


@dataclass
class OptimizerConfig:
    """AdamW and its learning-rate schedule."""

    lr: float = key(2e-5, at_least=0)  # base rate; trainable parameters run at lr * lr_factor
    lr_factor: float = key(10.0, at_least=0)
    betas: tuple[float, float] = key((0.9, 0.999), at_least=0, below=1)
    eps: float = key(1e-8, at_least=1e-30)
    weight_decay: float = key(0.01, at_least=0)
    groups: str = key("released", choices=("released", "stated"))  # stated: no weight decay on norms; released: on all
    power: float = key(0.9, at_least=0)
    min_lr: float = key(1e-6, at_least=0)
    warmup_iterations: int = key(1500, at_least=0)
    warmup_ratio: float = key(1e-6, at_least=0, at_most=1)
    clip_norm: float = key(0.0, at_least=0)  # gradients are scaled down to at most this norm over all; 0 = never


@dataclass
class TrainConfig:
    """The run."""

    iterations: int = key(40000, at_least=1)
    batch_size: int = key(16, at_least=1)  # images per optimiser step, in all
    recipe_batch: int = key(0, at_least=0)  # batch_size of the published recipe, to warn of another one; 0 = no recipe
    micro_batch: int = key(0, at_least=0)  # images per forward pass, which changes memory only; 0 = the whole batch
    seed: int = key(0, at_least=0)
    log_every: int = key(50, at_least=1)
    save_every: int = key(2000, at_least=1)
    keep_checkpoints: int = key(2, at_least=1)  # newest ones; older ones are removed
    milestones: tuple[int, ...] = key((), at_least=1)  # iterations whose checkpoint is written and never removed
    eval_every: int = key(0, at_least=0)  # evaluate during training; 0 = never
    best_metric: str = key("", choices=("", *METRICS))  # of best.safetensors; "" = hIoU, supervised: mIoU(S)
    max_bad_steps: int = key(10, at_least=1)  # so many steps in a row that are not finite end the run
    tensorboard: bool | None = None  # TensorBoard events in the work folder; None = if tensorboardX is installed
    expected_weights: str = ""  # what --weights must be for this run, for the error message (transductive)
    expected_iteration: int = key(0, at_least=0)  # iteration at which those weights must have been written; 0 = any


@dataclass
class TestConfig:
    """Evaluation and inference."""

    mode: str = key("slide", choices=("slide", "whole"))
    short_side: int = key(512, at_least=1, at_most=16384)  # pixels of the resized images, in proportion
    crop_size: tuple[int, int] = key((512, 512), at_least=1)
    stride: tuple[int, int] = key((426, 426), at_least=1)
    gamma: float | None = key(None, at_least=-1, at_most=1)  # off seen scores; None = 0.1 for inductive models, else 0
    window_batch: int = key(4, at_least=1)  # windows per forward pass
    protocol: str = key("generalised", choices=("generalised", "strict"))  # strict: unseen pixels and classes only
    scales: tuple[float, ...] = key((1.0,), above=0)  # factors on short_side; several are averaged
    flip: bool = False  # also mirrored, averaged
    training_free: str = key("", choices=("", *TRAINING_FREE))  # CLIP's own features instead of the model


@dataclass
class Config:
    """Everything that shapes a run."""

    precision: str = key("fp32", choices=PRECISIONS)  # of the large products (jseg/model/precision.py)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    text: TextConfig = field(default_factory=TextConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    test: TestConfig = field(default_factory=TestConfig)
    cross_dataset: bool = False  # trained on another class list: every class counts as seen
    expected: dict = field(default_factory=dict)  # metric -> [value, tolerance] in percent; a miss exits with code 1

    def gamma(self) -> float:
        """What is subtracted from the scores of seen classes."""
        inductive = self.data.setting == "inductive" and not self.cross_dataset and not self.test.training_free
        return (0.1 if inductive else 0.0) if self.test.gamma is None else self.test.gamma

    def best_metric(self) -> str:
        """The metric that decides which weights are best."""
        supervised = self.data.setting == "supervised" or self.cross_dataset
        return self.train.best_metric or ("mIoU(S)" if supervised else "hIoU")


def _convert(value: Any, hint: Any, where: str) -> Any:
    """`value` as type `hint`; UserError with the key `where` when it is of another type."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        hint = args[1] if isinstance(value, (list, tuple)) and hint == Paths else args[0]
        return None if value is None and types.NoneType in args else _convert(value, hint, where)
    if origin is tuple and isinstance(value, (list, tuple)) and (args[-1] is Ellipsis or len(value) == len(args)):
        return tuple(_convert(item, args[0], where) for item in value)  # all items are of one type
    if hint is float and type(value) is int and abs(value) < 1e300:
        return float(value)
    if origin is tuple or (isinstance(value, bool) and hint is not bool) or not isinstance(value, hint):
        raise UserError(f"{where}={value!r}: expected {hint if args else hint.__name__}, got {type(value).__name__}")
    return value


def _apply(section: Any, values: dict, folder: Path, typed: str = "", lenient: bool = False, prefix: str = "") -> None:
    """Sets keys of a section and of the sections in it; `typed` is what an override wrote after `=`.

    A removed key is refused at any but its old default, unless `lenient`.
    """
    fields, hints = {item.name: item for item in dataclasses.fields(section)}, typing.get_type_hints(type(section))
    for name, value in values.items():
        where = f"{prefix}{name}"
        if where in REMOVED or (where, value) == ("model.head_init", "declared"):
            if lenient or (where in REMOVED and value == REMOVED[where]):
                continue
            raise UserError(f"{where}={value!r} was removed from jseg: leave it out")
        if name not in fields:
            raise UserError(f"unknown key {where!r}{suggestion(name, fields)}")
        if dataclasses.is_dataclass(current := getattr(section, name)):
            if not isinstance(value, dict):
                raise UserError(f"{where}: expected a dictionary of {', '.join(vars(current))}")
            _apply(current, value, folder, typed, lenient, f"{where}.")
            continue
        if hints[name] == tuple[str, ...] and isinstance(value, str):
            value = read_lines(folder / os.path.expanduser(value), where, "; a single one is written ('cat',)")
        if typed and hints[name] in (str, Paths) and not isinstance(value, (str, dict, list, tuple)):
            value = typed  # a name or path that looks like a number
        value = _convert(value, hints[name], where)
        if fields[name].metadata.get("path") and value not in ("", "random", "generated"):
            value = os.path.abspath(folder / os.path.expanduser(value))
        setattr(section, name, value)


def _apply_file(config: Config, path: Path) -> None:
    """Applies a config file after the file that its `base` names; one of the releases after ours of the same run."""
    parts = [values := run_file(path)]
    if is_released(values):
        base, translated, notes = read_released(path)
        print("\n".join(notes))
        _apply_file(config, base)
        parts = [nested(*item) for item in translated.items()]
    elif "base" in values:
        _apply_file(config, (path.parent / str(values.pop("base"))).resolve())
    data = values.get("data")
    if isinstance(data, dict) and data.get("dataset", config.data.dataset) != config.data.dataset:
        for name in DESCRIPTION:
            setattr(config.data, name, getattr(DataConfig(), name))
        config.expected, config.train.recipe_batch = {}, 0
        config.train.expected_weights, config.train.expected_iteration = "", 0
    try:
        for part in parts:
            _apply(config, part, path.parent)
    except UserError as error:
        raise UserError(f"config {path}: {error}") from error


def apply_overrides(config: Config, overrides: Iterable[str]) -> None:
    """Changes `config` by strings `section.key=value`; values are Python literals, anything else is a string."""
    for text in overrides:
        dotted, equals, typed = text.partition("=")
        if not equals or not dotted:
            raise UserError(f"override {text!r}: expected section.key=value")
        try:
            value = ast.literal_eval(typed)
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            value = typed
        _apply(config, nested(dotted.strip(), value), Path.cwd(), typed)


def read_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Reads a config file, one of configs/ by name, or a run's config.json, applies overrides; UserError: mistakes."""
    config = Config()
    _apply_file(config, find_config(path))
    apply_overrides(config, overrides)
    check(config)
    return config


def from_dict(values: Any, source: str | Path) -> Config:
    """The Config that a weight file records; missing keys keep their defaults; UserError that names `source`."""
    config = Config()
    if not isinstance(values, dict):
        raise UserError(f"{source} records no configuration: give the one it was made with (--config-file)")
    try:
        _apply(config, values, Path(), lenient=True)
        check(config)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    return config


def to_dict(config: Config) -> dict:
    """The configuration as JSON-ready nested dictionaries; `read_config` reads it back from a .json file."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def flatten(values: dict[str, Any], separator: str = ".", prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, keys joined by `separator`."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        name = f"{prefix}{name}"
        flat |= flatten(value, separator, name + separator) if isinstance(value, dict) else {name: value}
    return flat


def check(section: Any, prefix: str = "") -> None:
    """Checks a configuration: each value by its key, then values against each other; UserError with the rule."""
    for item in dataclasses.fields(section):
        where, value = prefix + item.name, getattr(section, item.name)
        if dataclasses.is_dataclass(value):
            check(value, f"{where}.")
            continue
        choices, limits = item.metadata.get("choices"), item.metadata.get("limits", {})
        if choices and value not in choices:
            raise UserError(f"{where}={value!r}{suggestion(value, choices)}")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, (int, float)) and not (
                abs(number) < math.inf and all(LIMITS[limit](number, bound) for limit, bound in limits.items())
            ):
                rule = " and ".join(f"{limit.replace('_', ' ')} {bound}" for limit, bound in limits.items())
                raise UserError(f"{where}={value}: must be {rule or 'a finite number'}")
    for broken, message in _rules(section) if isinstance(section, Config) else ():
        if broken:
            raise UserError(message)


def _rules(config: Config) -> Iterator[tuple[bool, str]]:
    """Whether a rule between values is broken, and its error message."""
    model, text, train, test = config.model, config.text, config.train, config.test
    for name, part, total_name, total in (
        ("model.heads", model.heads, "model.width", model.width),
        ("text.heads", text.heads, "text.width", text.width),
        ("model.decoder_heads", model.decoder_heads, "model.output_dim", model.output_dim),
        ("train.micro_batch", train.micro_batch or train.batch_size, "train.batch_size", train.batch_size),
    ):
        yield total % part != 0, f"{name}={part}: must divide {total_name}={total}"
    sizes = {"model.image_size": (model.image_size,) * 2, "data.crop_size": config.data.crop_size}
    if test.mode == "slide":
        sizes["test.crop_size"] = test.crop_size
        larger = any(step > side for step, side in zip(test.stride, test.crop_size, strict=True))
        yield larger, f"test.stride={test.stride}: larger than test.crop_size={test.crop_size}"
    for name, size in sizes.items():
        uneven = any(side % model.patch_size for side in size)
        yield uneven, f"{name}={size}: must be multiples of model.patch_size={model.patch_size}"
        patches, grid = min(size) // model.patch_size, model.region_grid
        yield patches < grid, f"model.region_grid={grid} does not fit {name}={size}: only {patches} patches a side"
    no_clip = bool(test.training_free) and model.init in ("", "random")
    yield no_clip, f"test.training_free={test.training_free!r} needs CLIP weights: set model.init to them"
    half = bool(test.training_free) and config.precision != "fp32"
    yield half, f"precision={config.precision}: test.training_free computes in fp32 only"
    for template in text.templates or ("",):
        yield template.count("{}") != 1, f"text.templates: {template!r} must hold {{}} once, where the class name goes"
    for metric, pair in config.expected.items():
        yield metric not in METRICS, f"expected: unknown metric {metric!r}{suggestion(metric, METRICS)}"
        numbers = isinstance(pair, (list, tuple)) and [type(x) in (int, float) and abs(x) < math.inf for x in pair]
        yield numbers != [True, True], f"expected: {metric}={pair!r}: must be [value, tolerance], finite numbers"


def config_changes(before: Config, now: Config) -> list[str]:
    """`train.iterations 20 -> 40` for each key that differs."""
    old, new = flatten(to_dict(before)), flatten(to_dict(now))
    keys = sorted(old.keys() | new.keys())  # `expected` may have other keys
    return [f"{name} {old.get(name)!r} -> {new.get(name)!r}" for name in keys if old.get(name) != new.get(name)]
