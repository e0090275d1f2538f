"""The configuration: one dataclass per section, read from a Python file and changed by `section.key=value` overrides.

A config file is Python and runs when it is read: use only files you trust. It sets module-level dictionaries named
after the sections below (`data = dict(...)`), and may start from another one with `base = "other.py"` (relative to
itself).
Relative paths in a config file are relative to the folder of that file; in an override, to the current folder.

Refuses configuration values that no run can use, before anything is loaded.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import json
import math
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


def path_field(default: str = "") -> Any:
    """A field that holds a path: made absolute when it is read."""
    return field(default=default, metadata={"path": True})


@dataclass
class SplitConfig:
    """Where the pictures and label maps of one split lie, relative to `data.root`."""

    images: str = ""  # folder of pictures
    labels: str = ""  # folder of label PNGs; "" = no labels (task test only)
    names: str = ""  # file with one name a line, without suffix; "" = every picture in the folder
    image_suffix: str = ".jpg"
    label_suffix: str = ".png"


@dataclass
class ShapesConfig:
    """The built-in data set `shapes` (jseg/data/shapes.py)."""

    size: tuple[int, int] = (96, 96)  # height, width of a scene in pixels
    train_scenes: int = 2000
    val_scenes: int = 100
    seed: int = 0
    objects: tuple[int, int] = (1, 4)  # fewest and most objects in a scene


@dataclass
class DataConfig:
    """What to train and evaluate on."""

    dataset: str = "shapes"  # class list: see jseg/data/class_names.py
    split: str = ""  # which seen/unseen split, where a data set has several
    setting: str = "inductive"  # inductive, transductive or supervised
    held_out: tuple[str, ...] = ()  # seen classes that play the unseen ones, to calibrate gamma
    root: str = path_field()
    train: SplitConfig = field(default_factory=SplitConfig)
    val: SplitConfig = field(default_factory=SplitConfig)
    shapes: ShapesConfig = field(default_factory=ShapesConfig)
    crop_size: tuple[int, int] = (512, 512)  # height, width of a training crop in pixels
    resize_box: tuple[int, int] = (2048, 512)  # long and short side of the box that a ratio of 1 fits a picture into
    ratio_range: tuple[float, float] = (0.5, 2.0)
    max_class_share: float = 0.75  # a crop is drawn again while one class fills this share of its labelled pixels
    flip_probability: float = 0.5
    photometric: bool = True
    mean: tuple[float, float, float] = IMAGENET_MEAN  # RGB, of values in [0, 255]
    std: tuple[float, float, float] = IMAGENET_STD
    workers: int = 2  # processes that prepare pictures; 0 = in this process


@dataclass
class ModelConfig:
    """CLIP-RC (jseg/model). The defaults are ViT-B/16 with the paper's VOC settings."""

    image_size: int = 512  # pixels; the positional grid is stored for image_size // patch_size patches a side
    patch_size: int = 16
    width: int = 768
    layers: int = 12
    heads: int = 12
    output_dim: int = 512
    prompts: int = 10  # learned tokens per layer
    region_grid: int = 4  # regions a side: 4 = 16 regions; 0 = none, which leaves ZegCLIP's descriptors
    decoder_layers: int = 3
    decoder_heads: int = 8
    ffn_factor: int = 4
    recovery_layers: int = 1
    prompt_dropout: float = 0.1
    decoder_dropout: float = 0.1
    init: str = path_field()  # CLIP weights to start from, or the word random
    head_init: str = "released"  # or declared, aligned: see jseg/model/initial_weights.py


@dataclass
class TextConfig:
    """Where class embeddings come from: a file, or the text tower of the CLIP weights."""

    embeddings: str = path_field()  # .npy or .safetensors of (classes, output_dim); "" = computed by the text tower
    templates: tuple[str, ...] = ("a photo of a {}",)
    vocabulary: str = path_field()  # byte-pair vocabulary; the word generated = made from the class names
    width: int = 512
    layers: int = 12
    heads: int = 8
    context_length: int = 77


@dataclass
class LossConfig:
    """Weights of the loss terms (method: `mask * focal + dice * dice + recovery * (L1 + L1)`)."""

    mask: float = 100.0
    dice: float = 1.0
    recovery: float = 2.0
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0


@dataclass
class OptimizerConfig:
    """AdamW and its learning-rate schedule."""

    lr: float = 2e-5  # base rate; trainable parameters run at lr * lr_factor
    lr_factor: float = 10.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01
    groups: str = "released"  # released: everything decays; stated: norms and biases do not, as the config text says
    power: float = 0.9
    min_lr: float = 1e-6
    warmup_iterations: int = 1500
    warmup_ratio: float = 1e-6
    clip_norm: float = 0.0  # gradients are scaled down to at most this norm, taken over all; 0 = never, as published


@dataclass
class TrainConfig:
    """The run."""

    iterations: int = 40000
    batch_size: int = 16  # pictures per optimiser step, in all
    recipe_batch: int = 0  # what batch_size is in the published recipe: another one is warned of; 0 = no recipe
    micro_batch: int = 0  # pictures per forward pass, which changes memory only; 0 = the whole batch at once
    seed: int = 0
    log_every: int = 50
    save_every: int = 2000
    keep_checkpoints: int = 2  # newest ones; older ones are removed
    milestones: tuple[int, ...] = ()  # iterations whose checkpoint is written and never removed
    eval_every: int = 0  # evaluate during training; 0 = never
    best_metric: str = ""  # best.safetensors are the weights of its highest value; "" = hIoU, supervised: mIoU(S)
    patience: int = 0  # evaluations in a row without a higher best_metric that end the run; 0 = none do
    max_bad_steps: int = 10  # steps in a row with a loss or gradient that is not finite that end the run
    ema: float = 0.0  # decay of a moving average of the trained weights, the one evaluated and delivered; 0 = none
    tensorboard: bool | None = None  # TensorBoard events in the work folder; None = if tensorboardX is installed
    expected_weights: str = ""  # what --weights must be for this run, said when it is missing (transductive)
    expected_iteration: int = 0  # iteration at which those weights must have been written; 0 = any


@dataclass
class TestConfig:
    """Evaluation and inference."""

    mode: str = "slide"  # slide or whole
    short_side: int = 512  # pixels; pictures are resized so that their short side is this, in proportion
    crop_size: tuple[int, int] = (512, 512)
    stride: tuple[int, int] = (426, 426)
    gamma: float | None = None  # subtracted from seen scores; None = 0.1 for inductive models, 0 otherwise
    window_batch: int = 4  # windows per forward pass
    protocol: str = "generalised"  # or strict: pixels of unseen classes only, named among the unseen classes
    scales: tuple[float, ...] = (1.0,)  # factors on short_side; several are averaged
    flip: bool = False  # also mirrored, averaged
    training_free: str = ""  # no model but CLIP's own features: patch_features, value_path, class_token; "" = the model


@dataclass
class Config:
    """Everything that shapes a run."""

    precision: str = "fp32"  # or tf32, bf16, fp16: what the large products are computed in (jseg/model/precision.py)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    text: TextConfig = field(default_factory=TextConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    test: TestConfig = field(default_factory=TestConfig)
    kernels: str = "auto"  # plain: Jittor's own operators only, as with the environment variable JSEG_KERNELS
    cross_dataset: bool = False  # trained on another class list: every class counts as seen
    expected: dict = field(default_factory=dict)  # metric -> [value, tolerance] in percent; a miss exits with code 1

    def gamma(self) -> float:
        """What is subtracted from the scores of seen classes."""
        if self.test.gamma is not None:
            return self.test.gamma
        has_unseen = self.data.setting == "inductive" and not self.cross_dataset and not self.test.training_free
        return 0.1 if has_unseen else 0.0


def _type_name(hint: Any) -> str:
    return getattr(hint, "__name__", str(hint)) if not typing.get_args(hint) else str(hint).replace("typing.", "")


def _coerce(value: Any, hint: Any, where: str) -> Any:
    """`value` as type `hint`; UserError naming `where` when it is of another type."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    wrong = UserError(f"{where}={value!r}: expected {_type_name(hint)}, got {type(value).__name__}")
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _coerce(value, next(arg for arg in args if arg is not type(None)), where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise wrong
        if args[-1] is Ellipsis:
            return tuple(_coerce(item, args[0], where) for item in value)
        if len(value) != len(args):
            raise wrong
        return tuple(_coerce(item, arg, where) for item, arg in zip(value, args, strict=True))
    if type(value) is int and abs(value) >= 2**63:
        raise UserError(f"{where}: a number of {value.bit_length()} bits is too large")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if (isinstance(value, bool) and hint is not bool) or not isinstance(value, hint):
        raise wrong
    return value


def _set(section: Any, key: str, value: Any, where: str, folder: Path) -> None:
    """Sets one key of a dataclass section (a dictionary for a nested section), checked."""
    fields = {item.name: item for item in dataclasses.fields(section)}
    if key not in fields:
        raise UserError(f"unknown key {where!r}{suggestion(key, fields)}")
    current = getattr(section, key)
    if dataclasses.is_dataclass(current):
        if not isinstance(value, dict):
            names = ", ".join(item.name for item in dataclasses.fields(current))
            raise UserError(f"{where}: expected a dictionary of {names}")
        for name, item in value.items():
            _set(current, name, item, f"{where}.{name}", folder)
        return
    hint = typing.get_type_hints(type(section))[key]
    value = _coerce(value, hint, where)
    if fields[key].metadata.get("path") and value and value not in ("random", "generated"):
        try:
            value = str((folder / Path(value).expanduser()).resolve())
        except (OSError, ValueError, RuntimeError) as error:  # zero bytes, an unknown ~user, a loop of links
            raise UserError(f"{where}={value!r} is no path: {error}") from error
    setattr(section, key, value)


def _apply_file(config: Config, path: Path, seen: tuple[Path, ...] = ()) -> None:
    if path in seen:
        raise UserError(f"config {path}: `base` goes in a circle")
    if not path.is_file():
        raise UserError(f"config file {path} does not exist")
    try:
        values = runpy.run_path(str(path))
    except (Exception, SystemExit) as error:  # whatever it raises is the writer's mistake: name file and reason
        raise UserError(f"config {path} does not run: {type(error).__name__}: {error}") from error
    if "base" in values:
        _apply_file(config, (path.parent / str(values.pop("base"))).resolve(), (*seen, path))
    _apply_values(config, values, path)


def _apply_values(config: Config, values: dict[str, Any], path: Path) -> None:
    """Sets the sections that the file `path` holds; its errors name the file."""
    for key, value in values.items():
        if key.startswith("_") or isinstance(value, types.ModuleType):
            continue
        try:
            _set(config, key, value, key, path.parent)
        except UserError as error:
            raise UserError(f"config {path}: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"config {path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"config {path}: expected a dictionary of sections, got {type(values).__name__}")
    return values


def parse_override(text: str) -> tuple[str, Any]:
    """`"train.seed=3"` -> `("train.seed", 3)`; values are Python literals, anything else is a string."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"override {text!r}: expected section.key=value")
    try:
        return key.strip(), ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return key.strip(), value


def apply_overrides(config: Config, overrides: typing.Iterable[str]) -> None:
    """Changes `config` in place by `section.key=value` strings.

    Raises:
        UserError: unknown key (with the nearest known one) or a value of another type.
    """
    for text in overrides:
        dotted, value = parse_override(text)
        *parents, key = dotted.split(".")
        section: Any = config
        for depth, parent in enumerate(parents):
            names = [item.name for item in dataclasses.fields(section)]
            where = ".".join(parents[: depth + 1])
            if parent not in names:
                raise UserError(f"unknown key {where!r}{suggestion(parent, names)}")
            section = getattr(section, parent)
            if not dataclasses.is_dataclass(section):
                raise UserError(f"override {text!r}: {where} has no keys below it")
        if isinstance(value, (int, float)) and typing.get_type_hints(type(section)).get(key) is str:
            value = text.partition("=")[2]  # a name or path that looks like a number
        _set(section, key, value, dotted, Path.cwd())


def read_config(path: str | Path, overrides: typing.Iterable[str] = ()) -> Config:
    """Reads a config file and applies overrides.

    Args:
        path: a Python config file, or the `config.json` that a run wrote into its work folder.
        overrides: `section.key=value` strings.

    Raises:
        UserError: missing file, unknown key, wrong type or a value that no run can use.
    """
    config, path = Config(), Path(path).expanduser().resolve()
    if path.suffix == ".json":
        _apply_values(config, _read_json(path), path)
    else:
        _apply_file(config, path)
    apply_overrides(config, overrides)
    check(config)
    return config


def from_dict(values: Any, source: str | Path) -> Config:
    """The configuration that `to_dict` told, as weight files record it; keys that are missing keep their defaults.

    Raises:
        UserError: no such dictionary, unknown key or wrong type; names `source`.
    """
    if not isinstance(values, dict):
        raise UserError(f"{source} records no configuration")
    config = Config()
    _apply_values(config, values, Path(source))
    check(config)
    return config


def to_dict(config: Config) -> dict:
    """The configuration as JSON-ready nested dictionaries; `read_config` reads it back from a .json file."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


SETTINGS = ("inductive", "transductive", "supervised")
PROTOCOLS = ("generalised", "strict")
KERNELS = ("auto", "plain")  # as in jseg/ops/compiled.py, which imports Jittor
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
TRAINING_FREE = {  # name: value path, class token (see jseg/baselines.py)
    "patch_features": (False, False),
    "value_path": (True, False),
    "class_token": (True, True),
}
METRICS = ("pAcc", "mIoU(S)", "mIoU(U)", "hIoU")


def suggestion(word: str, choices: Iterable[str]) -> str:
    """`: did you mean 'x'?`, or the list of choices when nothing is close."""
    choices = list(choices)
    close = difflib.get_close_matches(word, choices, n=1)
    return f": did you mean {close[0]!r}?" if close else f": choose from {', '.join(choices)}"


def check(config: Config) -> None:
    """Checks single values, then values against each other.

    Raises:
        UserError: naming the key and the rule.
    """
    _check_choices(config)
    _check_ranges(config)
    _check_divisions(config)
    _check_sizes(config)
    _check_templates(config)
    _check_expected(config)


def _check_choices(config: Config) -> None:
    choices = (
        ("precision", config.precision, PRECISIONS),
        ("data.setting", config.data.setting, SETTINGS),
        ("model.head_init", config.model.head_init, ("released", "declared", "aligned")),
        ("optimizer.groups", config.optimizer.groups, ("released", "stated")),
        ("train.best_metric", config.train.best_metric, ("", *METRICS)),
        ("test.mode", config.test.mode, ("slide", "whole")),
        ("test.protocol", config.test.protocol, PROTOCOLS),
        ("kernels", config.kernels, KERNELS),
        ("test.training_free", config.test.training_free, ("", *TRAINING_FREE)),
    )
    for key, value, allowed in choices:
        if value not in allowed:
            raise UserError(f"{key}={value!r}{suggestion(value, allowed)}")


def _check_ranges(config: Config) -> None:
    data, model, text, optimizer, train, test = (
        config.data, config.model, config.text, config.optimizer, config.train, config.test,
    )  # fmt: skip
    at_least_one = {
        "model.patch_size": model.patch_size, "model.layers": model.layers,
        "model.width": model.width, "model.output_dim": model.output_dim, "model.prompts": model.prompts,
        "model.decoder_layers": model.decoder_layers, "model.recovery_layers": model.recovery_layers,
        "model.ffn_factor": model.ffn_factor, "text.layers": text.layers, "text.context_length": text.context_length,
        "train.iterations": train.iterations, "train.batch_size": train.batch_size, "train.log_every": train.log_every,
        "train.save_every": train.save_every, "train.keep_checkpoints": train.keep_checkpoints,
        "train.max_bad_steps": train.max_bad_steps,
        "test.window_batch": test.window_batch, "test.short_side": test.short_side,
        "test.stride": min(test.stride), "data.resize_box": min(data.resize_box),
    }  # fmt: skip
    at_least_zero = {
        "model.region_grid": model.region_grid,
        "data.workers": data.workers, "data.shapes.seed": data.shapes.seed, "train.seed": train.seed,
        "train.micro_batch": train.micro_batch, "train.eval_every": train.eval_every,
        "train.patience": train.patience, "optimizer.clip_norm": optimizer.clip_norm,
        "train.recipe_batch": train.recipe_batch, "train.expected_iteration": train.expected_iteration,
        "optimizer.lr": optimizer.lr, "optimizer.lr_factor": optimizer.lr_factor, "optimizer.eps": optimizer.eps,
        "optimizer.weight_decay": optimizer.weight_decay, "optimizer.min_lr": optimizer.min_lr,
        "optimizer.warmup_iterations": optimizer.warmup_iterations, "optimizer.power": optimizer.power,
        "loss.mask": config.loss.mask, "loss.dice": config.loss.dice, "loss.recovery": config.loss.recovery,
    }  # fmt: skip
    for lowest, values in ((1, at_least_one), (0, at_least_zero)):
        for key, value in values.items():
            if value < lowest or not math.isfinite(value):
                raise UserError(f"{key}={value}: must be at least {lowest}")
    if not 0 <= data.flip_probability <= 1:
        raise UserError(f"data.flip_probability={data.flip_probability}: must lie between 0 and 1")
    below_one = {
        "model.prompt_dropout": model.prompt_dropout,
        "model.decoder_dropout": model.decoder_dropout,
        "train.ema": train.ema,
    }
    for key, value in below_one.items():
        if not 0 <= value < 1:
            raise UserError(f"{key}={value}: must be at least 0 and below 1")
    if not 0 < data.ratio_range[0] <= data.ratio_range[1] < math.inf:
        raise UserError(f"data.ratio_range={data.ratio_range}: must be (lowest, highest), both above 0")
    if any(milestone < 1 for milestone in train.milestones):
        raise UserError(f"train.milestones={train.milestones}: must be numbers of finished iterations, 1 or more")
    _check_protocol(config)
    if train.patience and not train.eval_every:
        raise UserError(f"train.patience={train.patience} counts evaluations: set train.eval_every too")


def _check_protocol(config: Config) -> None:
    test = config.test
    if test.training_free and config.model.init in ("", "random"):
        raise UserError(f"test.training_free={test.training_free!r} needs CLIP weights: set model.init to them")
    if test.training_free and config.precision != "fp32":
        raise UserError(f"precision={config.precision!r}: test.training_free is measured in fp32 alone")
    if not test.scales or not all(0 < scale < math.inf for scale in test.scales):
        raise UserError(f"test.scales={test.scales}: must be one or more factors above 0, such as (0.75, 1.0, 1.25)")
    if test.protocol == "strict" and config.cross_dataset:
        raise UserError(
            "test.protocol='strict' evaluates unseen classes only, and with cross_dataset every class counts as seen: "
            "use test.protocol='generalised'"
        )


def _check_divisions(config: Config) -> None:
    model, train = config.model, config.train
    divisions = (
        ("model.heads", model.heads, "model.width", model.width),
        ("text.heads", config.text.heads, "text.width", config.text.width),
        ("model.decoder_heads", model.decoder_heads, "model.output_dim", model.output_dim),
        ("train.micro_batch", train.micro_batch or train.batch_size, "train.batch_size", train.batch_size),
    )
    for key, part, total_key, total in divisions:
        if part < 1 or total % part:
            raise UserError(f"{key}={part}: must divide {total_key}={total}")


def _check_sizes(config: Config) -> None:
    """Every size that the model will see must hold whole patches, at least one for each region a side."""
    model = config.model
    sizes = {"model.image_size": (model.image_size,) * 2, "data.crop_size": config.data.crop_size}
    if config.test.mode == "slide":
        sizes["test.crop_size"] = config.test.crop_size
        if any(step > side for step, side in zip(config.test.stride, config.test.crop_size, strict=True)):
            raise UserError(f"test.stride={config.test.stride}: larger than test.crop_size={config.test.crop_size}")
    for key, size in sizes.items():
        if any(side < 1 or side % model.patch_size for side in size):
            raise UserError(f"{key}={size}: must be multiples of model.patch_size={model.patch_size}")
        patches = min(size) // model.patch_size
        if patches < model.region_grid:
            raise UserError(
                f"model.region_grid={model.region_grid} does not fit {key}={size}: that is {patches} patches a side, "
                f"fewer than regions; take a smaller model.region_grid or a larger {key}"
            )


def _check_templates(config: Config) -> None:
    if not config.text.templates:
        raise UserError("text.templates is empty: give at least one, such as 'a photo of a {}'")
    for template in config.text.templates:
        if template.count("{}") != 1:
            raise UserError(f"text.templates: {template!r} must hold {{}} once, where the class name goes")


def _check_expected(config: Config) -> None:
    for metric, value in config.expected.items():
        if metric not in METRICS:
            raise UserError(f"expected: unknown metric {metric!r}{suggestion(str(metric), METRICS)}")
        if not (isinstance(value, (list, tuple)) and len(value) == 2 and all(type(x) in (int, float) for x in value)):
            raise UserError(f"expected[{metric!r}]={value!r}: must be [value, tolerance], both in percent")
