"""Checkpoints of a run and weight files as starting points: written whole, read without running code, checked.

One safetensors file holds the model under its released names (`backbone.*`, `decode_head.*`), the text tower when it is
known (`text_encoder.*`), the class embeddings (`text_features`) and, while training goes on, the state of AdamW
(`optimizer.m.*`, `optimizer.v.*`) and the averaged weights (`ema.*`). Its metadata record what the weights were made
for (see `describe`), how far the run was, and two checksums: over the tensors and over the rest of the metadata.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jseg.config import Config, to_dict
from jseg.data.class_names import ClassList
from jseg.errors import UserError
from jseg.weights.reader import WeightFile, read_weight_file, write_safetensors
from jseg.weights.record import (
    FEATURES_NAME,
    FORMAT,
    MOMENT_PREFIXES,
    TEXT_PREFIX,
    is_jseg_file,
    recorded_classes,
    recorded_unseen,
    tensors_sha256,
)

if TYPE_CHECKING:
    from jseg.clip.class_embeddings import TextFeatures

WEIGHTS_NAME = "weights.safetensors"
METRICS_NAME = "metrics.json"
CHECKPOINT_NAME = re.compile(r"checkpoint_(\d+)\.safetensors")
RECORD_KEY = "record_sha256"


@dataclass
class Moments:
    """State of AdamW by parameter name, each array of its parameter's shape."""

    steps: int = 0  # optimiser steps done
    m: dict[str, np.ndarray] = field(default_factory=dict)  # running mean of gradients
    v: dict[str, np.ndarray] = field(default_factory=dict)  # running mean of squared gradients


def describe(config: Config, class_list: ClassList, text: TextFeatures) -> dict[str, Any]:
    """What a checkpoint's metadata say about the run; `save` adds the checksum, the trainer the iteration."""
    merges = text.text_model.merges if text.text_model is not None else None
    return {
        "format": FORMAT,
        "dataset": class_list.dataset,
        "split": class_list.split,
        "setting": config.data.setting,
        "classes": list(class_list.names),
        "unseen": list(class_list.unseen),
        "templates": list(config.text.templates),
        "embeddings_sha256": text.sha256,
        "text_heads": text.text_model.heads if text.text_model is not None else None,
        "vocabulary": [list(merge) for merge in merges] if merges is not None else None,  # None = CLIP's own
        "config": to_dict(config),
    }


def record_sha256(meta: dict[str, Any]) -> str:
    """Checksum over everything that the metadata say but this checksum itself."""
    rest = {key: value for key, value in meta.items() if key != RECORD_KEY}
    return hashlib.sha256(json.dumps(json.loads(json.dumps(rest)), sort_keys=True).encode()).hexdigest()


def save(path: Path, tensors: dict[str, np.ndarray], meta: dict[str, Any], moments: Moments | None = None) -> None:
    """Writes a checkpoint, or a weight file when there are no `moments`; whole or not at all.

    Raises:
        CannotWrite: the disk is full or cannot be written; what was there before is left as it was.
    """
    meta = dict(meta)
    if moments is not None:
        tensors = dict(tensors)
        for key, prefix in MOMENT_PREFIXES.items():
            tensors |= {prefix + name: array for name, array in getattr(moments, key).items()}
        meta["optimizer_steps"] = moments.steps
    meta["tensors_sha256"] = tensors_sha256(tensors)
    meta[RECORD_KEY] = record_sha256(meta)
    write_safetensors(path, tensors, meta)


def checkpoint_path(work_dir: Path, iteration: int) -> Path:
    """Where the checkpoint after `iteration` finished steps lies."""
    return work_dir / f"checkpoint_{iteration:07d}.safetensors"


def checkpoints_in(work_dir: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    found = [path for path in work_dir.glob("checkpoint_*.safetensors") if CHECKPOINT_NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(CHECKPOINT_NAME.fullmatch(path.name).group(1)))


def prune(work_dir: Path, keep: int, milestones: Iterable[int] = ()) -> None:
    """Removes all checkpoints but the `keep` newest and those of the `milestones`."""
    spared = {checkpoint_path(work_dir, iteration) for iteration in milestones}
    for path in checkpoints_in(work_dir)[:-keep]:
        if path not in spared:
            path.unlink(missing_ok=True)


def clear_later(work_dir: Path, file: WeightFile, damaged: bool) -> None:
    """Makes sure that no later checkpoint of the folder is taken for one of the run that goes on from `file`.

    Args:
        damaged: those that are later are known to be damaged: they are renamed, not refused.

    Raises:
        UserError: there are later ones.
    """
    later = [path for path in checkpoints_in(work_dir) if path > checkpoint_path(work_dir, iteration_of(file))]
    if later and not damaged:
        raise UserError(
            f"{work_dir} holds checkpoints later than iteration {iteration_of(file)} ({later[-1].name}): delete them, "
            "or go on in another --work-dir"
        )
    for path in later:
        path.rename(path.with_suffix(".damaged"))


def read_whole(path: Path) -> WeightFile:
    """Reads a weight file of any kind; if it is ours, its checksums must hold.

    Raises:
        UserError: missing, truncated, damaged or of an unknown kind.
    """
    file = read_weight_file(path)
    if is_jseg_file(file):
        wanted = record_sha256(file.meta)  # older files have none of the record
        record_holds = file.meta.get(RECORD_KEY, wanted) == wanted
        if not record_holds or tensors_sha256(file.tensors) != file.meta.get("tensors_sha256"):
            raise UserError(f"{path} is damaged (its checksum does not hold): take another checkpoint")
    return file


def read_checkpoint(path: Path) -> WeightFile:
    """Reads a checkpoint to resume from.

    Raises:
        UserError: not whole, or no checkpoint of a training run.
    """
    file = read_whole(path)
    if not is_jseg_file(file) or not isinstance(file.meta.get("optimizer_steps"), int):
        raise UserError(f"{path} holds no optimiser state, so no run can go on from it: use --weights {path}")
    return file


def newest_whole(work_dir: Path) -> tuple[WeightFile, list[str]]:
    """The newest whole checkpoint of a work folder, and why newer ones were refused, a line each.

    Raises:
        UserError: there is none.
    """
    refused = []
    for path in reversed(checkpoints_in(work_dir)):
        try:
            return read_checkpoint(path), refused
        except UserError as error:
            refused.append(str(error))
    reasons = f" ({'; '.join(refused)})" if refused else ""
    raise UserError(f"--resume: {work_dir} holds no whole checkpoint{reasons}: leave --resume out to start a new run")


def moments_of(file: WeightFile) -> Moments:
    """The optimiser state of a checkpoint."""
    parts = {
        key: {name[len(prefix) :]: array for name, array in file.tensors.items() if name.startswith(prefix)}
        for key, prefix in MOMENT_PREFIXES.items()
    }
    return Moments(steps=file.meta["optimizer_steps"], **parts)


def check_classes(file: WeightFile, class_list: ClassList, other_classes: bool) -> list[str]:
    """Refuses weights that were made for another class list or another seen/unseen split.

    Args:
        file: the weights.
        class_list: of this run.
        other_classes: whether other classes are wanted (`--other-classes`, `cross_dataset`).

    Returns:
        Warnings, a line each.

    Raises:
        UserError: the lists differ and `other_classes` is false.
    """
    names, mend = recorded_classes(file), "use its own config, or pass --other-classes"
    if other_classes:
        return []
    if not names:
        return [f"{file.path} does not say which classes it was made for: taken to be {class_list.title}'s"]
    if names != class_list.names:
        difference = _difference(names, class_list.names)
        raise UserError(f"{file.path} was made for other classes ({difference}) than {class_list.title}: {mend}")
    unseen = recorded_unseen(file)
    if unseen is not None and unseen != class_list.unseen:
        hidden = ", ".join(names[index] for index in unseen)
        raise UserError(f"{file.path} was made with other unseen classes ({hidden}): set data.split, or {mend}")
    return []


def _difference(theirs: Iterable[str], ours: Iterable[str]) -> str:
    theirs, ours = list(theirs), list(ours)
    if sorted(theirs) == sorted(ours):
        return "the same names in another order"
    odd = [name for name in theirs if name not in ours][:3]
    return f"{len(theirs)} instead of {len(ours)}" + (f", among them {', '.join(odd)}" if odd else "")


def text_arrays(text: TextFeatures) -> dict[str, np.ndarray]:
    """Class embeddings and, where it is known, the text tower, under their names in a checkpoint."""
    tower = text.text_model.tensors if text.text_model is not None else {}
    return {FEATURES_NAME: text.matrix, **{TEXT_PREFIX + name: array for name, array in tower.items()}}


def iteration_of(file: WeightFile) -> int:
    """How many steps were finished when the checkpoint was written.

    Raises:
        UserError: the file does not say.
    """
    iteration = file.meta.get("iteration")
    if type(iteration) is not int or iteration < 0:
        raise UserError(f"{file.path} does not say at which iteration it was written: use --weights {file.path}")
    return iteration


def config_changes(file: WeightFile, config: Config) -> list[str]:
    """`train.iterations 20 -> 40` for each key that differs from the config of the checkpoint."""
    before, now = _flat(file.meta.get("config")), _flat(to_dict(config))
    keys = sorted(before.keys() | now.keys())
    return [f"{key} {before.get(key)!r} -> {now.get(key)!r}" for key in keys if before.get(key) != now.get(key)]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, keys joined by dots."""
    if not isinstance(value, dict):
        return {prefix: value} if prefix else {}
    parts = [_flat(item, f"{prefix}.{key}" if prefix else str(key)) for key, item in value.items()]
    return {key: item for part in parts for key, item in part.items()}
