"""Runs every golden file of a folder through the check for its kind."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from jseg.errors import UserError
from jseg.parity import (
    forward,
    full_size,
    jittor_release,
    losses,
    metrics,
    optimisation,
    pictures_and_labels,
    text,
    towers,
    training,
)
from jseg.parity.golden_file import GoldenFile, NotRun
from jseg.parity.report import FileReport, compare
from jseg.parity.tolerances import CUDA_FACTOR, JSEG_RELEASE_RULES, TORCH_RELEASE_RULES, Rule, read_tolerances

Check = Callable[[GoldenFile], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Kind:
    """A kind of golden file: a pattern of names (relative to the folder), its check, arrays left out with reasons."""

    pattern: str
    check: Check
    excluded: dict[str, str] = field(default_factory=dict)


TORCH_RELEASE_KINDS = (
    Kind("forward_eval_*.npz", forward.check_forward_eval, forward.EVAL_EXCLUDED),
    Kind("forward_eps_*.npz", forward.check_forward_eps),
    *(Kind(f"train_{setting}_*.npz", training.check_train, training.TRAIN_EXCLUDED) for setting in training.SETTINGS),
    Kind("trajectory_*.lr.json", training.check_trajectory_rates),
    Kind("trajectory_*.npz", training.check_trajectory),
    Kind("param_groups*.json", optimisation.check_parameter_groups, optimisation.GROUPS_EXCLUDED),
    Kind("lr_schedule*.json", optimisation.check_schedule),
    Kind("losses_only*.npz", losses.check_losses_only),
    Kind("metrics*.npz", metrics.check_metrics),
    Kind("text*.npz", text.check_text, text.TEXT_EXCLUDED),
    Kind("clip_towers*.npz", towers.check_towers, towers.TOWERS_EXCLUDED),
    Kind("convert/*.pt", towers.check_conversion),
    Kind("convert/*.pth", towers.check_conversion),
    Kind("convert/*.safetensors", towers.check_conversion),
    Kind("init_from_clip*.npz", towers.check_taken_over),
)
JSEG_RELEASE_KINDS = (
    Kind("vision_*.npz", jittor_release.check_encoder),
    Kind("head_*.npz", jittor_release.check_head),
    Kind("seg_*.npz", jittor_release.check_segmentor, jittor_release.SEGMENTOR_EXCLUDED),
    Kind("attn_masks*.npz", jittor_release.check_masks),
    Kind("labels_*.npz", pictures_and_labels.check_labels, pictures_and_labels.LABELS_EXCLUDED),
    Kind("data*.npz", pictures_and_labels.check_data, pictures_and_labels.DATA_EXCLUDED),
    Kind("tokenizer*.npz", text.check_tokenizer),
    Kind("text_*.npz", text.check_text_tower, text.TOWER_EXCLUDED),
    Kind("metrics_*.npz", metrics.check_released_metrics, metrics.RELEASED_EXCLUDED),
    Kind("posembed_resize*.npz", towers.check_resized_positions),
    Kind("state_dict_full*.json", full_size.check_state_names, full_size.NAMES_EXCLUDED),
    Kind("loss_*.npz", losses.check_weighted_losses),
)
# Files that other checks read, and files that describe something we do differently on purpose.
COMPANIONS = (
    "weights_*.npz",
    "train_batch_*.npz",
    "tolerances.json",
    "fp32_vs_fp64.json",
    "convert/*.json",
    "tokenizer*.json",
    "*.md",
)
NOT_OURS = {
    "optim_*.npz": "the Jittor release's optimiser was never used in training; ours follows the PyTorch release",
    "polylr*.npz": "the Jittor release's schedule was never used in training; ours follows the PyTorch release",
    "param_multipliers*.json": "parameter groups of the Jittor release; ours follow the PyTorch release",
}
RELEASES = {
    "torch_release": TORCH_RELEASE_KINDS,
    "jseg_release": JSEG_RELEASE_KINDS,
}


@dataclass(frozen=True)
class GoldenFolder:
    """One release's folder."""

    path: Path
    kinds: tuple[Kind, ...]
    rules: tuple[Rule, ...]

    def files(self) -> Iterator[Path]:
        """Files directly in it and in its folder convert/, in the order of their names."""
        for path in sorted(self.path.iterdir()) + sorted(self.path.glob("convert/*")):
            if path.is_file() and not path.name.startswith("."):
                yield path

    def name(self, path: Path) -> str:
        """Name of a file relative to the folder."""
        return path.relative_to(self.path).as_posix()


def golden_folders(folder: Path) -> list[GoldenFolder]:
    """The releases' folders in a golden set: its folders torch_release and jseg_release, where they are.

    Without a folder torch_release the set itself is taken for one (unless it is called jseg_release).

    Raises:
        UserError: no such folder, no tolerances.json, or nothing in it that can be checked.
    """
    if not folder.is_dir():
        raise UserError(f"golden folder {folder} does not exist: pass the folder with --golden")
    named = {path.name: path for path in (folder, *folder.iterdir()) if path.is_dir() and path.name in RELEASES}
    if "torch_release" not in named and folder.name != "jseg_release":
        named["torch_release"] = folder
    found = []
    for release, path in sorted(named.items(), reverse=True):
        kinds = RELEASES[release]
        if release == "torch_release":
            rules = read_tolerances(path / "tolerances.json") + TORCH_RELEASE_RULES
        else:
            rules = JSEG_RELEASE_RULES
        found.append(GoldenFolder(path, kinds, rules))
    if not any(kind_of(item, path) for item in found for path in item.files()):
        raise UserError(f"golden folder {folder} holds no file of a known kind (forward_eval_*.npz, train_*.npz, …)")
    return found


def kind_of(folder: GoldenFolder, path: Path) -> Kind | None:
    """The kind of a file; None when there is no check for it."""
    return next((kind for kind in folder.kinds if fnmatchcase(folder.name(path), kind.pattern)), None)


def check_file(folder: GoldenFolder, path: Path, factor: float = 1.0) -> FileReport | None:
    """Checks one file.

    Args:
        factor: multiplies the tolerances.

    Returns:
        The report; None for companions of other files.
    """
    name = folder.name(path)
    report = FileReport(f"{folder.path.name}/{name}")
    kind = kind_of(folder, path)
    if kind is None:
        if any(fnmatchcase(name, pattern) for pattern in COMPANIONS):
            return None
        reason = next((why for pattern, why in NOT_OURS.items() if fnmatchcase(name, pattern)), "")
        report.not_run = reason or "no check for this kind of file"
        return report
    try:
        file = GoldenFile(path)
        computed = kind.check(file)
        compare(report, file, computed, kind.excluded, folder.rules, factor)
    except NotRun as reason:
        report.not_run = str(reason)
    except UserError as error:
        report.failure = str(error)
    except Exception as error:  # a broken part must not hide the other files
        traceback.print_exc()
        report.failure = f"{type(error).__name__}: {error}"
    return report


def check_folders(folders: list[GoldenFolder], device: str) -> Iterator[FileReport]:
    """Reports of all files of all folders, one by one; `device` is cpu or cuda."""
    factor = CUDA_FACTOR if device == "cuda" else 1.0
    for folder in folders:
        for path in folder.files():
            if (report := check_file(folder, path, factor)) is not None:
                yield report
