"""Compares every file of a golden set with our numbers: per file the worst array and everything left unchecked."""

import json
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from jseg.errors import UserError
from jseg.parity import checks
from jseg.parity.golden import GoldenFile, NotRun

Check = Callable[[GoldenFile], dict[str, np.ndarray]]
Rule = Mapping[str, Any]
CUDA_FACTOR = 10.0  # on the tolerances: Jittor compiles CUDA kernels with fast math
CHECKS: dict[str, Check | None] = {  # by the beginning of a file's name; None = others read it, or it has no numbers
    "forward_eval_": checks.check_forward_eval, "forward_eps_": checks.check_forward_eps,
    **{f"train_{name}_": checks.check_train for name in checks.SETTINGS},
    "trajectory_": checks.check_trajectory, "param_groups": checks.check_parameter_groups,
    "lr_schedule": checks.check_schedule, "losses_only": checks.check_losses_only, "metrics": checks.check_metrics,
    "text": checks.check_text, "clip_towers": checks.check_towers,
    "convert/hf_config.json": None, "convert/": checks.check_conversion,
    "init_from_clip": checks.check_initial_weights,
    **dict.fromkeys(("weights_", "train_batch_", "tolerances.json", "fp32_vs_fp64.json", "README.md")),
}  # fmt: skip
LEFT_OUT = (  # arrays that are not compared
    {"files": "*", "arrays": ["fp32_vs_fp64_json", "slide_margin_lt_1e-4_fraction"]},  # how sure the reference is
    # an accuracy that the release logs; weights of the release without any effect, which ours does not have
    {"files": "train_*", "arrays": ["*acc_seg", "trainable_all_json"]},
    # how the release comes to its groups and rates, which are compared; its GPUs, dead weights and frozen text tower
    {"files": "param_groups*", "arrays": [
        "config", "custom_keys/*", "key_order*", "lr_config/*", "samples_per_gpu", "distinct_groups*",
        "frozen_groups_lr_wd*", "trainable/*/matched_key", "trainable_params", "frozen_params_with_text_encoder",
    ]},
    {"files": "text*", "arrays": ["ftfy_matters"]},  # where broken Unicode is repaired: the ids are compared
    {"files": "clip_towers*", "arrays": ["transformers_version"]},
)  # fmt: skip
OWN_RULES = (  # what the README of the set says in words; those of its tolerances.json come first
    {"files": "tra*", "arrays": ["trainable_live_json", "extra.*"], "exact": True},  # training and trajectories
    {"files": "trajectory_*", "arrays": ["lr_*", "base_lr", "weight_decay"], "rtol": 1e-6},
    {"files": "lr_schedule*", "arrays": ["*"], "rtol": 1e-6},
    {"files": "param_groups*", "arrays": ["*shape", "*names", "*params"], "exact": True},
    {"files": "param_groups*", "arrays": ["*"], "rtol": 1e-12},
    {"files": "*_bf16", "arrays": ["*"], "atol": 1e-2, "rtol": 1e-2},  # bfloat16 keeps 8 bits
    {"files": "convert/*", "arrays": ["*"], "exact": True},
)


@dataclass
class FileReport:
    """The result for one golden file."""

    name: str  # relative to the set
    excess: dict[str, float] = field(default_factory=dict)  # array -> error over tolerance; at most 1 passes
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
        """One line, such as `ok         0.031  forward_eval_A.npz  worst: q3 (28 compared)`."""
        if reason := self.failure or self.not_run:
            return f"{'FAILED ' if self.failure else 'not run'}    -  {self.name}  {reason}"
        name, value = max(self.excess.items(), key=lambda item: item[1], default=("nothing", 0.0))
        line = f"{'FAILED' if self.failed else 'ok    '}{value:9.3g}  {self.name}  worst: {name} "
        unchecked = f"; NOT CHECKED: {', '.join(self.unchecked)}" if self.unchecked else ""
        return f"{line}({len(self.excess)} compared){unchecked}"


def find_rule(rules: tuple[Rule, ...], file: str, array: str) -> Rule | None:
    """The first rule for an array of a file (name without suffix); None when there is none."""
    for rule in rules:
        if fnmatchcase(file, rule["files"]) and any(fnmatchcase(array, pattern) for pattern in rule["arrays"]):
            return rule
    return None


def error_over_tolerance(
    rule: Rule, ours: np.ndarray, reference: np.ndarray, factor: float = 1.0, sum_lr: float = 0.0
) -> float:
    """Largest error of an array over what `rule` allows times `factor`; at most 1 passes.

    A rule is `exact`, `mismatch_fraction` of values, `max_abs` of ours alone, or a sum of `atol`, `rtol_of_max`,
    `atol_times_sum_lr` (of the run's learning rates) and `rtol` of each reference value.
    """
    if ours.shape != reference.shape:
        return float("inf")
    if rule.get("exact") or "U" in (ours.dtype.kind, reference.dtype.kind):
        return 0.0 if np.array_equal(ours, reference) else float("inf")
    ours, reference = ours.astype(np.float64), reference.astype(np.float64)
    if "mismatch_fraction" in rule:
        return float((ours != reference).mean()) / (factor * rule["mismatch_fraction"])
    if "max_abs" in rule:
        rule, reference = {"atol": rule["max_abs"]}, np.zeros_like(ours)
    size = np.where(np.isfinite(reference), np.abs(reference), 0.0)
    allowed = rule.get("atol_times_sum_lr", 0.0) * sum_lr + rule.get("rtol_of_max", 0.0) * size.max(initial=0.0)
    allowed = allowed + rule.get("atol", 0.0) + rule.get("rtol", 0.0) * size
    equal = (ours == reference) | (np.isnan(ours) & np.isnan(reference))
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.abs(ours - reference) / (factor * allowed)
    return float(np.where(equal, 0.0, np.where(np.isnan(ratio), np.inf, ratio)).max(initial=0.0))


def check_set(
    folder: Path, device: str = "cpu", table: Mapping[str, Check | None] = CHECKS, rules: tuple[Rule, ...] = (),
    left_out: tuple[Rule, ...] = LEFT_OUT, only: str = "",
) -> Iterator[FileReport]:  # fmt: skip
    """Reports of all files of a golden set, one by one; also of those that no check reads.

    `folder` is the set, or the parent of its folder torch_release; `rules` are its tolerances, by default those of its
    tolerances.json; `only` is the beginning of the names of the files to check. UserError: there are none.
    """
    folder = folder / "torch_release" if (folder / "torch_release").is_dir() else folder
    paths = sorted([*folder.glob("[!.]*.*"), *folder.glob("convert/[!.]*.*")])
    names = {name: path for path in paths if (name := path.relative_to(folder).as_posix()).startswith(only)}
    found = {name: next((key for key in table if name.startswith(key)), None) for name in names}
    if not any(map(table.get, found.values())):
        raise UserError(f"--golden {folder}: no golden file ({only or 'forward_eval_'}*.npz, …) in this folder")
    rules = rules or (*json.loads((folder / "tolerances.json").read_text())["rules"], *OWN_RULES)
    factor = CUDA_FACTOR if device == "cuda" else 1.0
    for name, key in found.items():
        report = FileReport(name)
        try:
            if key is None:
                raise NotRun("not checked: no check reads this file")
            if (check := table[key]) is None:
                continue
            file = GoldenFile(names[name])
            computed = check(file)
            sum_lr = float(file.arrays["lr_trainable"].sum()) if "lr_trainable" in file.arrays else 0.0
            for array, reference in file.arrays.items():
                rule = find_rule(rules, name.removesuffix(names[name].suffix), array)
                if array in computed and rule:
                    ours = np.asarray(computed[array])
                    report.excess[array] = error_over_tolerance(rule, ours, reference, factor, sum_lr)
                elif array in computed or not (array in file.read or find_rule(left_out, name, array)):
                    report.unchecked.append(array)
        except NotRun as reason:
            report.not_run = str(reason)
        except Exception as error:  # a broken part must not hide the other files
            if not isinstance(error, UserError):
                traceback.print_exc()
            report.failure = f"{type(error).__name__}: {error}"
        yield report
