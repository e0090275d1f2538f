"""The configuration: one dataclass per section, read from a Python file and changed by `section.key=value` overrides.

A config file is Python and runs when it is read: use only files you trust. It sets module-level dictionaries named
after the sections below (`data = dict(...)`), and may start from another one with `base = "other.py"` (relative to
itself). Relative paths in a config file are relative to the folder of that file; in an override, to the current folder.

Choices and limits of a value stand at its key and hold for each item of a tuple (jseg/config_keys.py); rules that
relate several keys follow at the end.
"""

from __future__ import annotations

import dataclasses
import json
import math
import runpy
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jseg.config_keys import check_values, key, parse_override, set_key, suggestion
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
    try:
        _apply(config, values, path.parent)
    except UserError as error:
        raise UserError(f"config {path}: {error}") from error


def _apply(config: Config, values: dict[str, Any], folder: Path, refuse_dropped: bool = True) -> None:
    """Sets sections from nested dictionaries; relative paths are relative to `folder`."""
    for name, value in without_dropped(values, refuse_dropped).items():
        if not name.startswith("_"):
            set_key(config, name, value, name, folder)


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
        _apply(config, {first: value}, Path.cwd())


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
    try:
        _apply(config, values, Path(), refuse_dropped=False)
        check(config)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    return config


def without_dropped(values: dict[str, Any], refuse: bool = False) -> dict[str, Any]:
    """A copy of a `to_dict` dictionary without dropped keys; `refuse`: UserError when one has not its old default."""
    values = {name: dict(value) if isinstance(value, dict) else value for name, value in values.items()}
    for dotted, default in DROPPED.items():
        section, _, name = dotted.rpartition(".")
        keys = values.get(section) if section else values
        found = keys.pop(name, default) if isinstance(keys, dict) else default
        if refuse and found != default:
            raise UserError(f"{dotted}={found!r}: this key was removed from jseg; leave it out")
    return values


def to_dict(config: Config) -> dict:
    """The configuration as JSON-ready nested dictionaries; `read_config` reads it back from a .json file."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def check(config: Config) -> None:
    """Checks single values by their keys, then values against each other.

    Raises:
        UserError: naming the key and the rule.
    """
    check_values(config)
    for broken, message in (*_size_rules(config), *_test_rules(config)):
        if broken:
            raise UserError(message)


def _size_rules(config: Config) -> Iterator[tuple[bool, str]]:
    """Whether a rule between sizes is broken, and its error message."""
    data, model, text, train, test = config.data, config.model, config.text, config.train, config.test
    for name, part, total_name, total in (
        ("model.heads", model.heads, "model.width", model.width),
        ("text.heads", text.heads, "text.width", text.width),
        ("model.decoder_heads", model.decoder_heads, "model.output_dim", model.output_dim),
        ("train.micro_batch", train.micro_batch or train.batch_size, "train.batch_size", train.batch_size),
    ):
        yield total % part != 0, f"{name}={part}: must divide {total_name}={total}"
    sizes = {"model.image_size": (model.image_size,) * 2, "data.crop_size": data.crop_size}
    if test.mode == "slide":
        sizes["test.crop_size"] = test.crop_size
        larger = any(step > side for step, side in zip(test.stride, test.crop_size, strict=True))
        yield larger, f"test.stride={test.stride}: larger than test.crop_size={test.crop_size}"
    for name, size in sizes.items():
        uneven = any(side % model.patch_size for side in size)
        yield uneven, f"{name}={size}: must be multiples of model.patch_size={model.patch_size}"
        patches = min(size) // model.patch_size
        yield (
            patches < model.region_grid,
            f"model.region_grid={model.region_grid} does not fit {name}={size}: that is {patches} patches a side, "
            f"fewer than regions; take a smaller model.region_grid or a larger {name}",
        )
    lowest, highest = data.ratio_range
    yield lowest > highest, f"data.ratio_range={data.ratio_range}: must be (lowest, highest)"


def _test_rules(config: Config) -> Iterator[tuple[bool, str]]:
    """Whether a rule of evaluation, texts or expected numbers is broken, and its error message."""
    test, free = config.test, bool(config.test.training_free)
    no_clip = free and config.model.init in ("", "random")
    yield no_clip, f"test.training_free={test.training_free!r} needs CLIP weights: set model.init to them"
    yield free and config.precision != "fp32", f"precision={config.precision!r}: test.training_free needs fp32"
    yield not test.scales, "test.scales=(): must be one or more factors above 0, such as (0.75, 1.0, 1.25)"
    yield (
        test.protocol == "strict" and config.cross_dataset,
        "test.protocol='strict' evaluates unseen classes only, and with cross_dataset every class counts as seen: use "
        "test.protocol='generalised'",
    )
    yield not config.text.templates, "text.templates is empty: give at least one, such as 'a photo of a {}'"
    for template in config.text.templates:
        once = template.count("{}") == 1
        yield not once, f"text.templates: {template!r} must hold {{}} once, where the class name goes"
    for metric, value in config.expected.items():
        yield metric not in METRICS, f"expected: unknown metric {metric!r}{suggestion(metric, METRICS)}"
        numbers = isinstance(value, (list, tuple)) and all(type(x) in (int, float) and math.isfinite(x) for x in value)
        yield not numbers or len(value) != 2, f"expected[{metric!r}]={value!r}: must be [value, tolerance] in percent"
