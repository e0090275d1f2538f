"""Checkpoints of a run and weight files as starting points: written whole, read without running code, checked.

A file holds the model (`backbone.*`, `decode_head.*`), the text tower if it is known (`text_encoder.*`), the class
embeddings (`text_features`) and, in checkpoints, the state of AdamW (`optimizer.m.*`, `optimizer.v.*`).
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jseg.clip.class_embeddings import TextFeatures
from jseg.config import Config, to_dict
from jseg.data.class_names import ClassList
from jseg.errors import UserError
from jseg.files import TEMPORARY, locked
from jseg.weights import record
from jseg.weights.reader import WeightFile, read_weight_file, write_safetensors

WEIGHTS_NAME = "weights.safetensors"
BEST_NAME = "best.safetensors"
METRICS_NAME = "metrics.json"
BEST_METRICS_NAME = "best_metrics.json"
VAL_FILES = (METRICS_NAME, "confusion.png", "confusion.csv", "images.csv", "best_and_worst.png")
RUN_FILES = ("log.jsonl", "record.json", METRICS_NAME, "config.json", BEST_NAME, BEST_METRICS_NAME)
CHECKPOINT_NAME = re.compile(r"checkpoint_(\d{7,})\.safetensors")
UNFINISHED = re.compile(rf"{re.escape(TEMPORARY)}\d+_\d{{19}}_\d\..+\.tmp")


@dataclass
class Progress:
    """How far a run is; every checkpoint holds it."""

    iteration: int = 0  # finished steps, skipped ones among them
    evaluated: int = 0  # iteration of the last evaluation
    best: float | None = None  # highest value of train.best_metric in percent, whose weights were kept
    best_iteration: int = 0
    bad_steps: int = 0  # skipped because the loss or the gradient was not finite
    bad_in_a_row: int = 0
    log: dict[str, Any] = field(default_factory=dict)  # RunLog.means


def describe(config: Config, classes: ClassList, text: TextFeatures) -> dict[str, Any]:
    """Metadata of a run's weight files: what the weights are made for; None = unknown, or CLIP's own."""
    tower = text.text_model
    return {
        "format": record.FORMAT, "dataset": classes.dataset, "split": classes.split, "setting": config.data.setting,
        "classes": list(classes.names), "unseen": list(classes.unseen), "templates": list(config.text.templates),
        "vocabulary": [list(merge) for merge in tower.merges] if tower and tower.merges is not None else None,
        "text_heads": tower.heads if tower else None, "config": to_dict(config),
    }  # fmt: skip


def text_arrays(text: TextFeatures) -> dict[str, np.ndarray]:
    """Class embeddings and, where it is known, the text tower, by their names in a weight file."""
    tower = text.text_model.tensors if text.text_model else {}
    return {record.FEATURES_NAME: text.matrix, **{record.TEXT_PREFIX + name: array for name, array in tower.items()}}


def save(path: Path, tensors: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    """Writes a checkpoint or a weight file, whole or not at all (CannotWrite)."""
    write_safetensors(path, tensors, {**meta, "tensors_sha256": record.tensors_sha256(tensors)})


def checkpoint_path(work_dir: Path, iteration: int) -> Path:
    """Path of the checkpoint after `iteration` finished steps."""
    return work_dir / f"checkpoint_{iteration:07d}.safetensors"


def checkpoints_in(work_dir: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    found = [(CHECKPOINT_NAME.fullmatch(path.name), path) for path in work_dir.glob("checkpoint_*")]
    return [path for _, path in sorted((int(name.group(1)), path) for name, path in found if name)]


def results_in(work_dir: Path) -> list[Path]:
    """Weights and checkpoints that a run has left."""
    return [*work_dir.glob(WEIGHTS_NAME), *checkpoints_in(work_dir)]


def prune(work_dir: Path, keep: int, milestones: Iterable[int] = ()) -> None:
    """Removes all checkpoints but the `keep` newest and those of the `milestones`."""
    for path in {*checkpoints_in(work_dir)[:-keep]} - {checkpoint_path(work_dir, number) for number in milestones}:
        with suppress(OSError):  # one that cannot be removed is in nobody's way
            path.unlink()


def clear_later(work_dir: Path, iteration: int, damaged: bool) -> None:
    """Refuses to go on from `iteration` beside later checkpoints; those that are known to be damaged are renamed."""
    for path in checkpoints_in(work_dir):
        if int(CHECKPOINT_NAME.fullmatch(path.name)[1]) > iteration:
            if not damaged:
                problem = f"{work_dir} holds a checkpoint later than iteration {iteration}, {path.name}"
                raise UserError(f"{problem}: delete it, or choose another --work-dir")
            path.rename(path.with_suffix(f".{time.time_ns()}.damaged"))  # one of this name may be there


@contextmanager
def lock_work_dir(work_dir: Path, results: list[Path]) -> Iterator[None]:
    """Keeps other processes from training in `work_dir`, and removes files that a killed run left half-written.

    UserError unless `results_in` are still `results`: another run may have ended since they were looked at.
    """
    with locked(work_dir, f"a process is training in {work_dir}: wait for it, or choose another --work-dir"):
        if results_in(work_dir) != results:
            raise UserError(f"another run has written into {work_dir} meanwhile: start again")
        for path in work_dir.iterdir():
            if UNFINISHED.fullmatch(path.name):
                path.unlink(missing_ok=True)
        yield


def read_whole(path: Path, is_resumed: bool = False) -> WeightFile:
    """A weight file of any kind, whole by its checksum if it is ours; to resume from, it must be a checkpoint."""
    file = read_weight_file(path)
    ours = record.is_jseg_file(file)
    if ours and record.tensors_sha256(file.tensors) != file.meta.get("tensors_sha256"):
        raise UserError(f"{path} is damaged (its checksum does not hold): take another checkpoint")
    if is_resumed and not (ours and "optimizer_steps" in file.meta):
        raise UserError(f"{path} holds no optimiser state, so no run can go on from it: use --weights {path}")
    return file


def newest_whole(work_dir: Path) -> tuple[WeightFile, list[str]]:
    """The newest whole checkpoint of a work folder, and why newer ones were refused, a line each."""
    refused = []
    for path in reversed(checkpoints_in(work_dir)):
        try:
            return read_whole(path, is_resumed=True), refused
        except UserError as error:
            refused.append(str(error))
    why = f" ({'; '.join(refused)})" if refused else ""
    raise UserError(f"--resume: {work_dir} holds no whole checkpoint{why}: pass --weights PATH, or leave --resume out")


def check_classes(file: WeightFile, class_list: ClassList, other_classes: bool) -> str:
    """Refuses weights made for other classes or another split, unless `other_classes`; returns a warning, or ""."""
    if other_classes:
        return ""
    names, unseen = record.recorded_classes(file), record.recorded_unseen(file)
    remedy = "use its own config, or pass --other-classes"
    if not names:
        return f"{file.path} does not say which classes it was made for: taken to be {class_list.title}'s"
    if names != class_list.names:
        odd = [name for name in names if name not in class_list.names][:3]
        order = "in reverse order" if names == class_list.names[::-1] else "fewer, or in another order"
        difference = f"among them {', '.join(odd)}" if odd else order
        raise UserError(
            f"{file.path} was made for other classes ({len(names)}, {difference}) than {class_list.title}: {remedy}"
        )
    if unseen is not None and unseen != class_list.unseen:
        hidden = ", ".join(names[index] for index in unseen)
        raise UserError(
            f"{file.path} was made with other unseen classes ({hidden}): set data.split or data.unseen, or {remedy}"
        )
    return ""
