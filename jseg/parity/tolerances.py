"""How far our numbers may be from the golden ones: rules by file and array name.

The rules of golden/torch_release are in its tolerances.json; those of kinds of file that it does not mention, and of
golden/jseg_release, are stated in the README files beside the numbers and repeated here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from jseg.errors import UserError

CUDA_FACTOR = 10.0  # Jittor compiles CUDA kernels with fast math


@dataclass(frozen=True)
class Rule:
    """One rule; which of the numbers are set says what is measured.

    `exact`: equality. `mismatch_fraction`: share of unequal elements. `max_abs`: size of our values, whatever the
    reference. `rtol_of_max`: error over the largest reference value. `atol_times_sum_lr`: error over the sum of the
    run's learning rates. `atol`, `rtol`: error over `atol + rtol * |reference|`, element by element.
    """

    files: str
    arrays: tuple[str, ...]
    exact: bool = False
    mismatch_fraction: float | None = None
    max_abs: float | None = None
    rtol_of_max: float | None = None
    atol_times_sum_lr: float | None = None
    atol: float | None = None
    rtol: float | None = None

    def matches(self, stem: str, array: str) -> bool:
        """Whether the rule is for this array of this file (name without suffix)."""
        return fnmatchcase(stem, self.files) and any(fnmatchcase(array, pattern) for pattern in self.arrays)

    def excess(self, ours: np.ndarray, reference: np.ndarray, factor: float = 1.0, sum_lr: float = 0.0) -> float:
        """Error over tolerance: at most 1 when the array passes.

        Args:
            ours, reference: arrays of any kind; NaN equals NaN, texts have to be equal.
            factor: multiplies every tolerance but `exact`.
            sum_lr: sum of learning rates, for `atol_times_sum_lr`.
        """
        if ours.shape != reference.shape:
            return float("inf")
        if ours.size == 0:
            return 0.0
        if self.exact or "U" in (ours.dtype.kind, reference.dtype.kind):
            return 0.0 if np.array_equal(ours, reference) else float("inf")
        ours, reference = ours.astype(np.float64), reference.astype(np.float64)
        if self.mismatch_fraction is not None:
            return float((ours != reference).mean()) / (factor * self.mismatch_fraction)
        if self.max_abs is not None:
            return _largest_ratio(ours, np.zeros_like(ours), np.full_like(ours, factor * self.max_abs))
        finite = np.where(np.isfinite(reference), np.abs(reference), 0.0)
        allowed = np.zeros_like(finite)
        if self.atol_times_sum_lr is not None:
            allowed += self.atol_times_sum_lr * sum_lr
        if self.rtol_of_max is not None:
            allowed += self.rtol_of_max * finite.max()
        allowed += (self.atol or 0.0) + (self.rtol or 0.0) * finite
        return _largest_ratio(ours, reference, factor * allowed)


def _largest_ratio(ours: np.ndarray, reference: np.ndarray, allowed: np.ndarray) -> float:
    """Largest |ours - reference| / allowed; equal values (two NaN, two equal infinities) count 0, one NaN infinite."""
    equal = (ours == reference) | (np.isnan(ours) & np.isnan(reference))
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.abs(ours - reference) / allowed
    ratio = np.where(equal, 0.0, np.where(np.isnan(ratio), np.inf, ratio))
    return float(ratio.max())


# Kinds of file that tolerances.json leaves to the README beside it.
TORCH_RELEASE_RULES = (
    Rule("train_*", ("trainable_live_json",), exact=True),
    Rule("train_*", ("extra.*",), exact=True),
    Rule("trajectory_*", ("extra.*",), exact=True),
    Rule("trajectory_*", ("lr_*", "base_lr", "weight_decay"), rtol=1e-6),
    Rule("lr_schedule*", ("*",), rtol=1e-6),
    Rule("param_groups*", ("*shape", "*names", "*params"), exact=True),
    Rule("param_groups*", ("*",), rtol=1e-12),
    Rule("*_bf16", ("*",), atol=1e-2, rtol=1e-2),  # bfloat16 keeps 8 bits
    Rule("convert/*", ("*",), exact=True),
)

JSEG_RELEASE_RULES = (
    Rule("seg_*", ("*labels*",), mismatch_fraction=1e-3),
    Rule("vision_*", ("*attn_mask*",), exact=True),
    Rule("text_*", ("*causal_mask*",), exact=True),
    Rule("attn_masks*", ("*",), exact=True),
    Rule("labels_*", ("*",), exact=True),
    Rule("tokenizer*", ("*",), exact=True),
    Rule("state_dict_full*", ("*",), exact=True),
    Rule("loss_*", ("*grad*",), rtol=1e-4, atol=1e-7),
    Rule("loss_*", ("*",), rtol=1e-5),
    Rule("metrics_*", ("*area*",), exact=True),
    Rule("metrics_*", ("*",), atol=1e-9),
    Rule("polylr*", ("*",), rtol=1e-9),
    Rule("data*", ("*normalized*", "*scale_factor*"), atol=1e-5),
    Rule("data*", ("*",), exact=True),
    Rule("*", ("*",), atol=1e-4, rtol=1e-4),
)


def read_tolerances(path: Path) -> tuple[Rule, ...]:
    """Rules of a tolerances.json, in order: the first one that matches wins.

    Raises:
        UserError: no such file, or a rule of an unknown kind.
    """
    try:
        rules = json.loads(path.read_text())["rules"]
    except FileNotFoundError:
        raise UserError(f"{path} is missing: a golden set states its tolerances there") from None
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    known = set(Rule.__dataclass_fields__)
    result = []
    for rule in rules:
        numbers = {key: value for key, value in rule.items() if key != "note"}
        if not numbers.keys() <= known or not numbers.keys() - {"files", "arrays"}:
            raise UserError(f"{path}: rule {json.dumps(rule)}: expected some of {', '.join(sorted(known))}")
        result.append(Rule(**numbers | {"arrays": tuple(rule["arrays"])}))
    return tuple(result)


def find_rule(rules: tuple[Rule, ...], stem: str, array: str) -> Rule | None:
    """The first rule for an array; None when there is none."""
    return next((rule for rule in rules if rule.matches(stem, array)), None)
