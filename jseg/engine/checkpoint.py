"""Checkpoints of a run and weight files as starting points: written whole, read without running code, checked.

One safetensors file holds the model under its released names (`backbone.*`, `decode_head.*`), the text tower when it is
known (`text_encoder.*`), the class embeddings (`text_features`) and, while training goes on, the state of AdamW
(`optimizer.m.*`, `optimizer.v.*`). Its metadata record what the weights were made for, how far the run was, and a
checksum over the tensors.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jseg.config import Config, to_dict, without_dropped
from jseg.data.class_names import ClassList
from jseg.errors import UserError
from jseg.weights import record
from jseg.weights.reader import WeightFile, read_weight_file, write_safetensors

WEIGHTS_NAME = "weights.safetensors"
BEST_NAME = "best.safetensors"
METRICS_NAME = "metrics.json"
BEST_METRICS_NAME = "best_metrics.json"
CHECKPOINT_NAME = re.compile(r"checkpoint_(\d+)\.safetensors")
UNFINISHED = re.compile(r"\.((checkpoint_\d+|weights|best)\.safetensors|\w+\.json|log\.jsonl)\.\w+\.tmp")


@dataclass
class Moments:
    """State of AdamW by parameter name, each array of its parameter's shape."""

    steps: int = 0  # optimiser steps done
    m: dict[str, np.ndarray] = field(default_factory=dict)  # running mean of gradients
    v: dict[str, np.ndarray] = field(default_factory=dict)  # running mean of squared gradients


@dataclass
class Progress:
    """How far a run is; every checkpoint holds it."""

    iteration: int = 0  # finished steps, skipped ones among them
    evaluated: int = 0  # iteration of the last evaluation
    best: float | None = None  # highest value of train.best_metric in percent, whose weights were kept
    best_iteration: int = 0
    bad_steps: int = 0  # skipped because the loss or the gradient was not finite
    bad_in_a_row: int = 0
    log: dict[str, Any] = field(default_factory=dict)  # see RunLog.open_means

    def meta(self) -> dict[str, Any]:
        """The progress as checkpoint metadata."""
        return {"iteration": self.iteration, "progress": dataclasses.asdict(self)}


def describe(config: Config, classes: ClassList, text: dict[str, Any]) -> dict[str, Any]:
    """Metadata of a run's weight files: what the weights are made for.

    Args:
        text: embeddings_sha256, text_heads and vocabulary of the class embeddings (`TextFeatures`).
    """
    return {
        "format": record.FORMAT,
        "dataset": classes.dataset,
        "split": classes.split,
        "setting": config.data.setting,
        "classes": list(classes.names),
        "unseen": list(classes.unseen),
        "templates": list(config.text.templates),
        **text,
        "config": to_dict(config),
    }


def save(path: Path, tensors: dict[str, np.ndarray], meta: dict[str, Any], moments: Moments | None = None) -> None:
    """Writes a checkpoint, or a weight file when there are no `moments`; whole or not at all.

    Raises:
        CannotWrite: the disk is full or cannot be written; what was there before is left as it was.
    """
    if moments is not None:
        meta = {**meta, "optimizer_steps": moments.steps}
        tensors = dict(tensors)
        for key, prefix in record.MOMENT_PREFIXES.items():
            tensors |= {prefix + name: array for name, array in getattr(moments, key).items()}
    write_safetensors(path, tensors, {**meta, "tensors_sha256": record.tensors_sha256(tensors)})


def checkpoint_path(work_dir: Path, iteration: int) -> Path:
    """Path of the checkpoint after `iteration` finished steps."""
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
    """Keeps later checkpoints of the folder from being mixed up with those of the run that goes on from `file`.

    Args:
        damaged: whether the later ones are known to be damaged: they are renamed, not refused.

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


@contextmanager
def lock_work_dir(work_dir: Path) -> Iterator[None]:
    """Keeps other processes from training in `work_dir`, and removes files that a killed run left half-written.

    Raises:
        UserError: another process trains there.
    """
    descriptor = os.open(work_dir, os.O_RDONLY)  # the folder itself is locked: no file is left behind
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise UserError(f"a process is training in {work_dir}: wait for it, or choose another --work-dir") from error
    except OSError:
        pass  # a network file system without locks: as if there were none
    try:
        for path in work_dir.iterdir():
            if UNFINISHED.fullmatch(path.name):
                path.unlink(missing_ok=True)
        yield
    finally:
        os.close(descriptor)


def read_whole(path: Path) -> WeightFile:
    """Reads a weight file of any kind; if it is ours, its checksum must hold.

    Raises:
        UserError: missing, truncated, damaged or of an unknown kind.
    """
    file = read_weight_file(path)
    if record.is_jseg_file(file) and record.tensors_sha256(file.tensors) != file.meta.get("tensors_sha256"):
        raise UserError(f"{path} is damaged (its checksum does not hold): take another checkpoint")
    return file


def read_checkpoint(path: Path) -> WeightFile:
    """Reads a checkpoint to resume from.

    Raises:
        UserError: not whole, or no checkpoint of a training run.
    """
    file = read_whole(path)
    if not record.is_jseg_file(file) or "optimizer_steps" not in file.meta:
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
        for key, prefix in record.MOMENT_PREFIXES.items()
    }
    return Moments(steps=file.meta["optimizer_steps"], **parts)


def progress_of(file: WeightFile) -> Progress:
    """How far the run of a checkpoint was.

    Raises:
        UserError: the file does not say, or its run needs what was dropped since.
    """
    recorded = file.meta.get("progress")
    if not isinstance(recorded, dict):
        raise UserError(f"{file.path} does not record how far its run was: use --weights {file.path}")
    if any(name.startswith(record.UNUSED_PREFIX) for name in file.tensors):
        raise UserError(
            f"{file.path} is of a run with averaged weights (train.ema), which was removed: no run can go on from it, "
            f"but --weights {file.path} starts one from its weights"
        )
    known = {item.name for item in dataclasses.fields(Progress)}
    return Progress(**{key: value for key, value in recorded.items() if key in known})


def iteration_of(file: WeightFile) -> int:
    """The number of steps that were finished when a checkpoint was written."""
    return file.meta["iteration"]


def check_classes(file: WeightFile, class_list: ClassList, other_classes: bool) -> list[str]:
    """Refuses weights that were made for another class list or another seen/unseen split.

    Args:
        class_list: of this run.
        other_classes: whether other classes are wanted (`--other-classes`, `cross_dataset`).

    Returns:
        Warnings, a line each.

    Raises:
        UserError: the lists differ and `other_classes` is false.
    """
    if other_classes:
        return []
    names, remedy = record.recorded_classes(file), "use its own config, or pass --other-classes"
    if not names:
        return [f"{file.path} does not say which classes it was made for: taken to be {class_list.title}'s"]
    if names != class_list.names:
        if sorted(names) == sorted(class_list.names):
            difference = "the same names in another order"
        else:
            odd = [name for name in names if name not in class_list.names][:3]
            difference = f"{len(names)}, among them {', '.join(odd)}" if odd else f"only {len(names)} of them"
        raise UserError(f"{file.path} was made for other classes ({difference}) than {class_list.title}: {remedy}")
    unseen = record.recorded_unseen(file)
    if unseen is not None and unseen != class_list.unseen:
        hidden = ", ".join(names[index] for index in unseen)
        raise UserError(f"{file.path} was made with other unseen classes ({hidden}): set data.split, or {remedy}")
    return []


def config_changes(file: WeightFile, config: Config) -> list[str]:
    """`train.iterations 20 -> 40` for each key that differs from the config of the checkpoint."""
    before, now = flatten(without_dropped(file.meta.get("config", {}))), flatten(to_dict(config))
    keys = sorted(before.keys() | now.keys())
    return [f"{key} {before.get(key)!r} -> {now.get(key)!r}" for key in keys if before.get(key) != now.get(key)]


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
