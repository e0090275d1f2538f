"""Compares every file of a golden set with our numbers: per file the worst array and everything left unchecked.

tolerances.json of the set says how far our numbers may be off; OWN_RULES adds the kinds of file that it leaves to the
README beside it. The first rule that matches file and array decides.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from jseg.errors import UserError
from jseg.parity import model_checks, part_checks
from jseg.parity.golden import GoldenFile, NotRun

CUDA_FACTOR = 10.0  # on the tolerances: Jittor compiles CUDA kernels with fast math
LIMITS = ("exact", "mismatch_fraction", "max_abs", "rtol_of_max", "atol_times_sum_lr", "atol", "rtol")
OWN_RULES = (
    {"files": "train_*", "arrays": ["trainable_live_json", "extra.*"], "exact": True},
    {"files": "trajectory_*", "arrays": ["extra.*"], "exact": True},
    {"files": "trajectory_*", "arrays": ["lr_*", "base_lr", "weight_decay"], "rtol": 1e-6},
    {"files": "lr_schedule*", "arrays": ["*"], "rtol": 1e-6},
    {"files": "param_groups*", "arrays": ["*shape", "*names", "*params"], "exact": True},
    {"files": "param_groups*", "arrays": ["*"], "rtol": 1e-12},
    {"files": "*_bf16", "arrays": ["*"], "atol": 1e-2, "rtol": 1e-2},  # bfloat16 keeps 8 bits
    {"files": "convert/*", "arrays": ["*"], "exact": True},
)
DESCRIPTIONS = ("tolerances.json", "fp32_vs_fp64.json", "convert/*.json", "*.md")  # no numbers to compare
SHOWN_NAMES = 4  # of arrays that were not checked


@dataclass(frozen=True)
class Kind:
    """A kind of golden file: a pattern of names (relative to the set), its check, arrays left out with reasons."""

    pattern: str
    check: Callable[[GoldenFile], dict[str, np.ndarray]]
    left_out: dict[str, str] = field(default_factory=dict)


NOISE = {"fp32_vs_fp64_json": "rounding noise of the reference"}
EVAL_LEFT_OUT = {"slide_margin_lt_1e-4_fraction": "tells how many pixels of the reference are nearly undecided"}
TRAIN_LEFT_OUT = {
    "*acc_seg": "an accuracy that the release logs; not part of the loss",
    "trainable_all_json": "contains the dead weights of the released decoder, which ours does not have",
}
GROUPS_LEFT_OUT = {
    "config": "name of the released config",
    "custom_keys/*": "the released config text, of which only a part has an effect",
    "key_order*": "how the released code came to its groups",
    "lr_config/*": "compared at work in lr_schedule_full.json",
    "samples_per_gpu": "says how the published runs were spread over GPUs",
    "trainable_params": "counts the dead weights of the released decoder, which ours does not have",
    "frozen_params_with_text_encoder": "counts the text tower, which is no part of our model",
    "distinct_groups*": "the same as lr and weight_decay of each parameter",
    "frozen_groups_lr_wd*": "frozen parameters are in no group of ours",
    "trainable/*/matched_key": "how the released code came to its groups",
}
TEXT_LEFT_OUT = {
    "ftfy_matters": "tells where the repair of broken Unicode changes the ids, which are compared",
    **NOISE,
}
TOWERS_LEFT_OUT = {
    "transformers_version": "what computed the reference",
    "weight.logit_scale": "used in training CLIP only",
    **NOISE,
}
KINDS = (
    Kind("forward_eval_*.npz", model_checks.check_forward_eval, EVAL_LEFT_OUT),
    Kind("forward_eps_*.npz", model_checks.check_forward_eps),
    *(Kind(f"train_{name}_*.npz", model_checks.check_train, TRAIN_LEFT_OUT) for name in model_checks.SETTINGS),
    Kind("trajectory_*.lr.json", model_checks.check_trajectory_rates),
    Kind("trajectory_*.npz", model_checks.check_trajectory),
    Kind("param_groups*.json", part_checks.check_parameter_groups, GROUPS_LEFT_OUT),
    Kind("lr_schedule*.json", part_checks.check_schedule),
    Kind("losses_only*.npz", part_checks.check_losses_only),
    Kind("metrics*.npz", part_checks.check_metrics),
    Kind("text*.npz", part_checks.check_text, TEXT_LEFT_OUT),
    Kind("clip_towers*.npz", part_checks.check_towers, TOWERS_LEFT_OUT),
    *(Kind(f"convert/*.{end}", part_checks.check_conversion) for end in ("pt", "pth", "safetensors")),
    Kind("init_from_clip*.npz", part_checks.check_initial_weights),
)


@dataclass
class FileReport:
    """The result for one golden file."""

    name: str  # relative to the set
    excess: dict[str, float] = field(default_factory=dict)  # array -> error over tolerance; at most 1 passes
    left_out: dict[str, str] = field(default_factory=dict)  # array -> why it is not compared
    unchecked: list[str] = field(default_factory=list)  # arrays that no check computes or no tolerance covers
    not_run: str = ""  # why nothing was compared
    failure: str = ""  # why the check broke off

    @property
    def failed(self) -> bool:
        """Whether something is over its tolerance, or the check broke off."""
        return bool(self.failure) or any(not value <= 1 for value in self.excess.values())

    @property
    def passed(self) -> bool:
        """Whether something was compared and all of it is within tolerance."""
        return bool(self.excess) and not self.failed

    def line(self) -> str:
        """One line, such as `ok     0.031  forward_eval_A.npz  worst: q3 (28 compared)`."""
        if self.failure or self.not_run:
            return f"{'FAILED ' if self.failure else 'not run'}    -  {self.name}  {self.failure or self.not_run}"
        name, value = max(self.excess.items(), key=lambda item: item[1], default=("nothing", 0.0))
        line = f"{'FAILED' if self.failed else 'ok    '}{value:9.3g}  {self.name}  worst: {name} "
        line += f"({len(self.excess)} compared)"
        if self.left_out:
            line += f"; {len(self.left_out)} left out on purpose"
        if self.unchecked:
            names = ", ".join(self.unchecked[:SHOWN_NAMES]) + (", …" if len(self.unchecked) > SHOWN_NAMES else "")
            line += f"; NOT CHECKED: {len(self.unchecked)} ({names})"
        return line


def read_rules(path: Path) -> tuple[dict[str, Any], ...]:
    """Rules of a tolerances.json followed by OWN_RULES.

    Raises:
        UserError: no such file, or a rule of an unknown kind.
    """
    try:
        rules = json.loads(path.read_text())["rules"]
    except FileNotFoundError:
        raise UserError(f"{path} is missing: a golden set states its tolerances there") from None
    except (ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    for rule in rules:
        limits = rule.keys() - {"files", "arrays", "note"}
        if not limits or not limits <= set(LIMITS):
            raise UserError(f"{path}: rule {json.dumps(rule)}: expected some of {', '.join(LIMITS)}")
    return (*rules, *OWN_RULES)


def find_rule(rules: tuple[dict[str, Any], ...], file: str, array: str) -> dict[str, Any] | None:
    """The first rule for an array of a file (name without suffix); None when there is none."""
    for rule in rules:
        if fnmatchcase(file, rule["files"]) and any(fnmatchcase(array, pattern) for pattern in rule["arrays"]):
            return rule
    return None


def error_over_tolerance(
    rule: dict[str, Any], ours: np.ndarray, reference: np.ndarray, factor: float = 1.0, sum_lr: float = 0.0
) -> float:
    """Error over tolerance: at most 1 when the array passes; NaN equals NaN, texts have to be equal.

    Args:
        rule: `exact`: equality. `mismatch_fraction`: share of unequal elements. `max_abs`: size of our values, whatever
            the reference. Others, added up: `rtol_of_max` of the largest reference value, `atol_times_sum_lr`, `atol`,
            and `rtol` of each reference value.
        factor: multiplies every tolerance but `exact`.
        sum_lr: sum of the run's learning rates, for `atol_times_sum_lr`.
    """
    if ours.shape != reference.shape:
        return float("inf")
    if ours.size == 0:
        return 0.0
    if rule.get("exact") or "U" in (ours.dtype.kind, reference.dtype.kind):
        return 0.0 if np.array_equal(ours, reference) else float("inf")
    ours, reference = ours.astype(np.float64), reference.astype(np.float64)
    if "mismatch_fraction" in rule:
        return float((ours != reference).mean()) / (factor * rule["mismatch_fraction"])
    if "max_abs" in rule:
        reference, allowed = np.zeros_like(ours), np.full_like(ours, rule["max_abs"])
    else:
        size = np.where(np.isfinite(reference), np.abs(reference), 0.0)
        allowed = rule.get("atol_times_sum_lr", 0.0) * sum_lr + rule.get("rtol_of_max", 0.0) * size.max()
        allowed = allowed + rule.get("atol", 0.0) + rule.get("rtol", 0.0) * size
    equal = (ours == reference) | (np.isnan(ours) & np.isnan(reference))
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.abs(ours - reference) / (factor * allowed)
    return float(np.where(equal, 0.0, np.where(np.isnan(ratio), np.inf, ratio)).max())


def compare(
    report: FileReport, file: GoldenFile, computed: dict[str, np.ndarray], kind: Kind,
    rules: tuple[dict[str, Any], ...], factor: float,
) -> None:  # fmt: skip
    """Fills `report` with the comparison of all arrays of a file but its inputs."""
    folder = "convert/" if file.path.parent.name == "convert" else ""
    sum_lr = float(file.arrays["lr_trainable"].sum()) if "lr_trainable" in file.arrays else 0.0
    for name, reference in file.arrays.items():
        reason = next((why for pattern, why in kind.left_out.items() if fnmatchcase(name, pattern)), "")
        rule = find_rule(rules, folder + file.stem, name)
        if name in computed and rule:
            report.excess[name] = error_over_tolerance(rule, np.asarray(computed[name]), reference, factor, sum_lr)
        elif name in computed or (name not in file.read and not reason):
            report.unchecked.append(name)
        elif name not in file.read:
            report.left_out[name] = reason


def check_file(
    path: Path, name: str, kind: Kind, rules: tuple[dict[str, Any], ...], factor: float = 1.0,
    opened: set[Path] | None = None,
) -> FileReport:  # fmt: skip
    """Checks one file.

    Args:
        name: of the file in the report.
        factor: multiplies the tolerances.
        opened: collects the paths of all files that were read.
    """
    report = FileReport(name)
    try:
        file = GoldenFile(path, opened)
        compare(report, file, kind.check(file), kind, rules, factor)
    except NotRun as reason:
        report.not_run = str(reason)
    except UserError as error:
        report.failure = str(error)
    except Exception as error:  # a broken part must not hide the other files
        traceback.print_exc()
        report.failure = f"{type(error).__name__}: {error}"
    return report


def golden_files(folder: Path, kinds: tuple[Kind, ...] = KINDS) -> dict[Path, Kind | None]:
    """The files of a golden set and the kind of each, None = unknown; `folder` is the set or its parent.

    Raises:
        UserError: no such folder, or no file of a known kind in it.
    """
    if not folder.is_dir():
        raise UserError(f"golden folder {folder} does not exist: pass the folder with --golden")
    folder = set_folder(folder)
    found: dict[Path, Kind | None] = {}
    for path in [*sorted(folder.iterdir()), *sorted(folder.glob("convert/*"))]:
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not path.name.startswith("."):
            found[path] = next((kind for kind in kinds if fnmatchcase(name, kind.pattern)), None)
    if not any(found.values()):
        raise UserError(f"golden folder {folder} holds no file of a known kind (forward_eval_*.npz, train_*.npz, …)")
    return found


def set_folder(folder: Path) -> Path:
    """`folder`/torch_release if it exists, else `folder`."""
    return folder / "torch_release" if (folder / "torch_release").is_dir() else folder


def check_set(
    folder: Path, device: str = "cpu", kinds: tuple[Kind, ...] = KINDS, rules: tuple[dict[str, Any], ...] = ()
) -> Iterator[FileReport]:
    """Reports of all files of a golden set, one by one; at the end those of files that no check has read.

    Args:
        folder: the set, or the parent of its folder torch_release.
        device: cpu or cuda.
        rules: tolerances; by default those of the set's tolerances.json.
    """
    files = golden_files(folder, kinds)
    folder, opened = set_folder(folder), set()
    rules = rules or read_rules(folder / "tolerances.json")
    for path, kind in files.items():
        if kind:
            name = path.relative_to(folder).as_posix()
            yield check_file(path, name, kind, rules, CUDA_FACTOR if device == "cuda" else 1.0, opened)
    for path in files:
        name = path.relative_to(folder).as_posix()
        if path not in opened and not any(fnmatchcase(name, pattern) for pattern in DESCRIPTIONS):
            yield FileReport(name, not_run="not checked: no check reads this file")
