"""The configuration: one dataclass per section, read from a Python file and changed by `section.key=value` overrides.

A config file is Python and runs when it is read: use only files you trust. It sets module-level dictionaries named
after the sections below (`data = dict(...)`), and may start from another one with `base = "other.py"` (relative to
itself). Relative paths in a config file are relative to the folder of that file; in an override, to the current folder.

Choices and limits of a value stand at its key and hold for each item of a tuple; rules that relate several keys follow
at the end.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import json
import math
import operator
import runpy
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jseg.errors import UserError

IMAGENET_MEAN = (123.675, 116.28, 103.53)  # RGB, of values in [0, 255]
IMAGENET_STD = (58.395, 57.12, 57.375)
SETTINGS = ("inductive", "transductive", "supervised")
PROTOCOLS = ("generalised", "strict")
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
TRAINING_FREE = {  # name: value path, class token (see jseg/baselines.py)
    "patch_features": (False, False),
    "value_path": (True, False),
    "class_token": (True, True),
}
METRICS = ("pAcc", "mIoU(S)", "mIoU(U)", "hIoU")
DROPPED = {  # keys of earlier versions and their defaults: they shaped how a run trained, not what its weights compute
    "kernels": "auto",
    "train.checkpoint_activations": False,
    "train.ema": 0.0,
    "train.patience": 0,
}
WORDS_AS_PATHS = ("random", "generated")
LIMITS = {  # of `key`: comparison and words
    "least": (operator.ge, "at least"),
    "above": (operator.gt, "above"),
    "most": (operator.le, "at most"),
    "below": (operator.lt, "below"),
}


def key(default: Any = "", path: bool = False, choices: Iterable[str] = (), **limits: float) -> Any:
    """A field of a section.

    Args:
        path: whether it holds a path, which is made absolute when it is read.
        choices: the only values that are allowed.
        limits: least, above, most, below; NaN and infinities are never allowed.
    """
    return field(default=default, metadata={"path": path, "choices": tuple(choices), "limits": limits})


@dataclass
class SplitConfig:
    """Where the images and label maps of one split lie, relative to `data.root`."""

    images: str = ""  # folder of images
    labels: str = ""  # folder of label PNGs; "" = no labels (task test only)
    names: str = ""  # file with one name a line, without suffix; "" = every image in the folder
    image_suffix: str = ".jpg"
    label_suffix: str = ".png"


@dataclass
class ShapesConfig:
    """The built-in data set `shapes` (jseg/data/shapes.py)."""

    size: tuple[int, int] = key((96, 96), least=1, most=4096)  # height, width of a scene in pixels
    train_scenes: int = key(2000, least=1)
    val_scenes: int = key(100, least=1)
    seed: int = key(0, least=0)
    objects: tuple[int, int] = key((1, 4), least=0, most=100)  # fewest and most objects in a scene


@dataclass
class DataConfig:
    """What to train and evaluate on."""

    dataset: str = "shapes"  # class list: see jseg/data/class_names.py
    split: str = ""  # which seen/unseen split, where a data set has several
    setting: str = key("inductive", choices=SETTINGS)
    held_out: tuple[str, ...] = ()  # seen classes that play the unseen ones, to calibrate gamma
    root: str = key(path=True)
    train: SplitConfig = field(default_factory=SplitConfig)
    val: SplitConfig = field(default_factory=SplitConfig)
    shapes: ShapesConfig = field(default_factory=ShapesConfig)
    crop_size: tuple[int, int] = key((512, 512), least=1, most=8192)  # height, width of a training crop in pixels
    # long and short side of the box that a ratio of 1 fits an image into
    resize_box: tuple[int, int] = key((2048, 512), least=1, most=65536)
    ratio_range: tuple[float, float] = key((0.5, 2.0), above=0, most=100)  # lowest and highest
    # a crop is drawn again while one class fills this share of its labelled pixels
    max_class_share: float = key(0.75, above=0)
    flip_probability: float = key(0.5, least=0, most=1)
    photometric: bool = True
    mean: tuple[float, float, float] = key(IMAGENET_MEAN)  # RGB, of values in [0, 255]
    std: tuple[float, float, float] = key(IMAGENET_STD, above=0)
    workers: int = key(2, least=0, most=1024)  # processes that prepare images; 0 = in this process


@dataclass
class ModelConfig:
    """CLIP-RC (jseg/model). The defaults are ViT-B/16 with the paper's VOC settings."""

    # pixels; the positional grid is stored for image_size // patch_size patches a side
    image_size: int = key(512, least=1, most=8192)
    patch_size: int = key(16, least=1)
    width: int = key(768, least=1, most=65536)
    layers: int = key(12, least=1, most=1000)
    heads: int = key(12, least=1)
    output_dim: int = key(512, least=1, most=65536)
    prompts: int = key(10, least=1, most=65536)  # learned tokens per layer
    region_grid: int = key(4, least=0)  # regions a side: 4 = 16 regions; 0 = none, which leaves ZegCLIP's descriptors
    decoder_layers: int = key(3, least=1, most=1000)
    decoder_heads: int = key(8, least=1)
    ffn_factor: int = key(4, least=1, most=100)
    recovery_layers: int = key(1, least=1, most=1000)
    prompt_dropout: float = key(0.1, least=0, below=1)
    decoder_dropout: float = key(0.1, least=0, below=1)
    init: str = key(path=True)  # CLIP weights to start from, or the word random
    head_init: str = key("released", choices=("released", "declared", "aligned"))  # see jseg/model/initial_weights.py


@dataclass
class TextConfig:
    """Where class embeddings come from: a file, or the text tower of the CLIP weights."""

    embeddings: str = key(path=True)  # .npy or .safetensors of (classes, output_dim); "" = from the text tower
    templates: tuple[str, ...] = ("a photo of a {}",)
    vocabulary: str = key(path=True)  # byte-pair vocabulary; the word generated = made from the class names
    width: int = key(512, least=1, most=65536)
    layers: int = key(12, least=1, most=1000)
    heads: int = key(8, least=1)
    context_length: int = key(77, least=1, most=65536)


@dataclass
class LossConfig:
    """Weights of the loss terms (method: `mask * focal + dice * dice + recovery * (L1 + L1)`)."""

    mask: float = key(100.0, least=0)
    dice: float = key(1.0, least=0)
    recovery: float = key(2.0, least=0)
    focal_alpha: float = key(0.25, least=0, most=1)
    focal_gamma: float = key(2.0, least=0)


@dataclass
class OptimizerConfig:
    """AdamW and its learning-rate schedule."""

    lr: float = key(2e-5, least=0)  # base rate; trainable parameters run at lr * lr_factor
    lr_factor: float = key(10.0, least=0)
    betas: tuple[float, float] = key((0.9, 0.999), least=0, below=1)
    eps: float = key(1e-8, least=1e-30)
    weight_decay: float = key(0.01, least=0)
    # released: everything decays; stated: norms do not, as the text of the released config says
    groups: str = key("released", choices=("released", "stated"))
    power: float = key(0.9, least=0)
    min_lr: float = key(1e-6, least=0)
    warmup_iterations: int = key(1500, least=0)
    warmup_ratio: float = key(1e-6, least=0, most=1)
    clip_norm: float = key(0.0, least=0)  # gradients are scaled down to at most this norm over all; 0 = never


@dataclass
class TrainConfig:
    """The run."""

    iterations: int = key(40000, least=1)
    batch_size: int = key(16, least=1, most=65536)  # images per optimiser step, in all
    recipe_batch: int = key(0, least=0)  # batch_size of the published recipe, to warn of another one; 0 = no recipe
    micro_batch: int = key(0, least=0)  # images per forward pass, which changes memory only; 0 = the whole batch
    seed: int = key(0, least=0)
    log_every: int = key(50, least=1)
    save_every: int = key(2000, least=1)
    keep_checkpoints: int = key(2, least=1)  # newest ones; older ones are removed
    milestones: tuple[int, ...] = key((), least=1)  # iterations whose checkpoint is written and never removed
    eval_every: int = key(0, least=0)  # evaluate during training; 0 = never
    # best.safetensors are the weights of its highest value; "" = hIoU, supervised: mIoU(S)
    best_metric: str = key("", choices=("", *METRICS))
    max_bad_steps: int = key(10, least=1)  # steps in a row with a loss or gradient that is not finite that end the run
    tensorboard: bool | None = None  # TensorBoard events in the work folder; None = if tensorboardX is installed
    expected_weights: str = ""  # what --weights must be for this run, for the error message (transductive)
    expected_iteration: int = key(0, least=0)  # iteration at which those weights must have been written; 0 = any


@dataclass
class TestConfig:
    """Evaluation and inference."""

    mode: str = key("slide", choices=("slide", "whole"))
    # pixels; images are resized so that their short side is this, in proportion
    short_side: int = key(512, least=1, most=16384)
    crop_size: tuple[int, int] = key((512, 512), least=1, most=8192)
    stride: tuple[int, int] = key((426, 426), least=1)
    gamma: float | None = key(None)  # subtracted from seen scores; None = 0.1 for inductive models, 0 otherwise
    window_batch: int = key(4, least=1, most=65536)  # windows per forward pass
    # strict: pixels of unseen classes only, assigned among the unseen classes
    protocol: str = key("generalised", choices=PROTOCOLS)
    scales: tuple[float, ...] = key((1.0,), above=0, most=32)  # factors on short_side; several are averaged
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
        if self.test.gamma is not None:
            return self.test.gamma
        has_unseen = self.data.setting == "inductive" and not self.cross_dataset and not self.test.training_free
        return 0.1 if has_unseen else 0.0


def suggestion(word: object, choices: Iterable[str]) -> str:
    """`: did you mean 'x'?`, or the list of choices when nothing is close."""
    choices = [choice for choice in choices if choice]
    close = difflib.get_close_matches(str(word), choices, n=1)
    return f": did you mean {close[0]!r}?" if close else f": choose from {', '.join(choices)}"


def _convert(value: Any, hint: Any, where: str) -> Any:
    """`value` as type `hint`; UserError with the key `where` when it is of another type."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    name = str(hint).replace("typing.", "") if args else hint.__name__
    wrong = UserError(f"{where}={value!r}: expected {name}, got {type(value).__name__}")
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _convert(value, args[0], where)
    if origin is tuple:
        many = args[-1] is Ellipsis
        if not isinstance(value, (list, tuple)) or (not many and len(value) != len(args)):
            raise wrong
        hints = [args[0]] * len(value) if many else args
        return tuple(_convert(item, arg, where) for item, arg in zip(value, hints, strict=True))
    if hint is float and type(value) is int and abs(value) < 1e300:
        return float(value)
    if (isinstance(value, bool) and hint is not bool) or not isinstance(value, hint):
        raise wrong
    return value


def _set(section: Any, name: str, value: Any, where: str, folder: Path) -> None:
    """Sets one key of a dataclass section (a dictionary for a nested section); paths are relative to `folder`."""
    fields = {item.name: item for item in dataclasses.fields(section)}
    if name not in fields:
        if where not in DROPPED:
            raise UserError(f"unknown key {where!r}{suggestion(name, fields)}")
        if value != DROPPED[where]:
            raise UserError(f"{where}={value!r}: this key was removed from jseg; leave it out")
        return
    current = getattr(section, name)
    if dataclasses.is_dataclass(current):
        if not isinstance(value, dict):
            keys = ", ".join(item.name for item in dataclasses.fields(current))
            raise UserError(f"{where}: expected a dictionary of {keys}")
        for part, item in value.items():
            _set(current, part, item, f"{where}.{part}", folder)
        return
    value = _convert(value, typing.get_type_hints(type(section))[name], where)
    if fields[name].metadata.get("path") and value and value not in WORDS_AS_PATHS:
        try:
            value = str((folder / Path(value).expanduser()).resolve())
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(f"{where}={value!r} is no path: {error}") from error
    setattr(section, name, value)


def _read_file(path: Path) -> dict[str, Any]:
    """The sections that a config file sets."""
    if not path.is_file():
        raise UserError(f"config file {path} does not exist")
    try:
        values = json.loads(path.read_text("utf-8")) if path.suffix == ".json" else runpy.run_path(str(path))
        return {name: value for name, value in values.items() if not isinstance(value, types.ModuleType)}
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a config raises is its writer's mistake: name file and reason
        raise UserError(f"config {path} does not run: {type(error).__name__}: {error}") from error


def _apply_file(config: Config, path: Path, seen: tuple[Path, ...] = ()) -> None:
    """Applies a config file after the file that its `base` names."""
    if path in seen:
        raise UserError(f"config {path}: `base` goes in a circle")
    values = _read_file(path)
    if "base" in values:
        _apply_file(config, (path.parent / str(values.pop("base"))).resolve(), (*seen, path))
    _apply_values(config, values, path)


def _apply_values(config: Config, values: dict[str, Any], path: Path) -> None:
    """Sets the sections that the file `path` holds; its errors name the file."""
    for name, value in values.items():
        if not name.startswith("_"):
            try:
                _set(config, name, value, name, path.parent)
            except UserError as error:
                raise UserError(f"config {path}: {error}") from error


def parse_override(text: str) -> tuple[str, Any]:
    """`"train.seed=3"` -> `("train.seed", 3)`; values are Python literals, anything else is a string."""
    dotted, equals, value = text.partition("=")
    if not equals or not dotted:
        raise UserError(f"override {text!r}: expected section.key=value")
    try:
        return dotted.strip(), ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return dotted.strip(), value


def apply_overrides(config: Config, overrides: Iterable[str]) -> None:
    """Changes `config` in place by `section.key=value` strings.

    Raises:
        UserError: unknown key (with the nearest known one) or a value of another type.
    """
    for text in overrides:
        dotted, value = parse_override(text)
        first, *rest = dotted.split(".")
        hint: Any = Config
        for name in (first, *rest):
            hint = typing.get_type_hints(hint).get(name) if dataclasses.is_dataclass(hint) else None
        if hint is str and not isinstance(value, str):
            value = text.partition("=")[2]  # a name or path that looks like a number
        for name in reversed(rest):
            value = {name: value}
        _set(config, first, value, first, Path.cwd())


def read_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Reads a config file and applies overrides.

    Args:
        path: a Python config file, or the `config.json` that a run wrote into its work folder.
        overrides: `section.key=value` strings.

    Raises:
        UserError: missing file, unknown key, wrong type or a value that no run can use.
    """
    config = Config()
    _apply_file(config, Path(path).expanduser().resolve())
    apply_overrides(config, overrides)
    check(config)
    return config


def from_dict(values: Any, source: str | Path) -> Config:
    """Builds a Config from a `to_dict` dictionary, as weight files record it; missing keys keep their defaults.

    Keys that were dropped since are ignored: they do not change what weights compute.

    Raises:
        UserError: no such dictionary, unknown key, wrong type or value; names `source`.
    """
    if not isinstance(values, dict):
        raise UserError(f"{source} records no configuration")
    config = Config()
    _apply_values(config, without_dropped(values), Path(source))
    check(config)
    return config


def without_dropped(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A copy of a `to_dict` dictionary without keys that were dropped."""
    return {
        name: without_dropped(value, f"{name}.") if isinstance(value, dict) and not prefix else value
        for name, value in values.items()
        if f"{prefix}{name}" not in DROPPED
    }


def to_dict(config: Config) -> dict:
    """The configuration as JSON-ready nested dictionaries; `read_config` reads it back from a .json file."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def check(config: Config) -> None:
    """Checks single values, then values against each other.

    Raises:
        UserError: naming the key and the rule.
    """
    _check_values(config)
    _check_divisions(config)
    _check_sizes(config)
    _check_test(config)
    _check_texts(config)


def _check_values(section: Any, prefix: str = "") -> None:
    """Checks every value by the choices and limits that stand at its key."""
    for item in dataclasses.fields(section):
        where, value = prefix + item.name, getattr(section, item.name)
        if dataclasses.is_dataclass(value):
            _check_values(value, f"{where}.")
            continue
        choices, limits = item.metadata.get("choices"), item.metadata.get("limits", {})
        if choices and value not in choices:
            raise UserError(f"{where}={value!r}{suggestion(value, choices)}")
        for number in value if isinstance(value, tuple) else (value,):
            if not isinstance(number, (int, float)):
                continue
            finite = isinstance(number, int) or math.isfinite(number)
            if not finite or not all(LIMITS[limit][0](number, bound) for limit, bound in limits.items()):
                rule = " and ".join(f"{LIMITS[limit][1]} {bound}" for limit, bound in limits.items())
                raise UserError(f"{where}={value}: must be {rule or 'a finite number'}")


def _check_divisions(config: Config) -> None:
    model, train = config.model, config.train
    divisions = (
        ("model.heads", model.heads, "model.width", model.width),
        ("text.heads", config.text.heads, "text.width", config.text.width),
        ("model.decoder_heads", model.decoder_heads, "model.output_dim", model.output_dim),
        ("train.micro_batch", train.micro_batch or train.batch_size, "train.batch_size", train.batch_size),
    )
    for name, part, total_name, total in divisions:
        if total % part:
            raise UserError(f"{name}={part}: must divide {total_name}={total}")


def _check_sizes(config: Config) -> None:
    """Every size that the model will see must hold whole patches, at least one for each region a side."""
    model, data, test = config.model, config.data, config.test
    sizes = {"model.image_size": (model.image_size,) * 2, "data.crop_size": data.crop_size}
    if test.mode == "slide":
        sizes["test.crop_size"] = test.crop_size
        if any(step > side for step, side in zip(test.stride, test.crop_size, strict=True)):
            raise UserError(f"test.stride={test.stride}: larger than test.crop_size={test.crop_size}")
    for name, size in sizes.items():
        if any(side % model.patch_size for side in size):
            raise UserError(f"{name}={size}: must be multiples of model.patch_size={model.patch_size}")
        patches = min(size) // model.patch_size
        if patches < model.region_grid:
            raise UserError(
                f"model.region_grid={model.region_grid} does not fit {name}={size}: that is {patches} patches a side, "
                f"fewer than regions; take a smaller model.region_grid or a larger {name}"
            )
    if data.ratio_range[0] > data.ratio_range[1]:
        raise UserError(f"data.ratio_range={data.ratio_range}: must be (lowest, highest)")


def _check_test(config: Config) -> None:
    test = config.test
    if test.training_free and config.model.init in ("", "random"):
        raise UserError(f"test.training_free={test.training_free!r} needs CLIP weights: set model.init to them")
    if test.training_free and config.precision != "fp32":
        raise UserError(f"precision={config.precision!r}: test.training_free is measured in fp32 alone")
    if not test.scales:
        raise UserError("test.scales=(): must be one or more factors above 0, such as (0.75, 1.0, 1.25)")
    if test.protocol == "strict" and config.cross_dataset:
        raise UserError(
            "test.protocol='strict' evaluates unseen classes only, and with cross_dataset every class counts as seen: "
            "use test.protocol='generalised'"
        )


def _check_texts(config: Config) -> None:
    if not config.text.templates:
        raise UserError("text.templates is empty: give at least one, such as 'a photo of a {}'")
    for template in config.text.templates:
        if template.count("{}") != 1:
            raise UserError(f"text.templates: {template!r} must hold {{}} once, where the class name goes")
    for metric, value in config.expected.items():
        if metric not in METRICS:
            raise UserError(f"expected: unknown metric {metric!r}{suggestion(metric, METRICS)}")
        numbers = isinstance(value, (list, tuple)) and all(type(x) in (int, float) and math.isfinite(x) for x in value)
        if not numbers or len(value) != 2:
            raise UserError(f"expected[{metric!r}]={value!r}: must be [value, tolerance], both in percent")
