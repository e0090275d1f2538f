"""Trains and evaluates the rows of a suite, each in a process of its own; goes on where an earlier call stopped.

Training goes on from the newest checkpoint of its folder. An evaluation that is on record for the same weights (by
checksum) and the same configuration is not repeated.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jseg.config import Config, to_dict
from jseg.engine.checkpoint import METRICS_NAME, WEIGHTS_NAME, checkpoints_in, newest_whole, read_whole
from jseg.errors import UserError
from jseg.files import write_json
from jseg.reproduction.needs import PLAIN_CLIP, FoundWeights, Places, run_folder, start_weights
from jseg.reproduction.suites import Row, Suite
from jseg.weights.reader import sha256_of_file

REPOSITORY = Path(__file__).resolve().parents[2]
RUN_NET = REPOSITORY / "tools" / "run_net.py"
RECORD_NAME = "record.json"
EXPECTED_MISSED, INTERRUPTED = 1, 130  # exit codes of run_net


@dataclass(frozen=True)
class Measurement:
    """The metrics of one weight file in one row."""

    row: str
    source: str
    metrics: dict[str, float | None]  # pAcc, mIoU(S), mIoU(U), hIoU in percent; None = undefined
    weights_sha256: str


def _run(arguments: list[str]) -> int:
    """Runs run_net with its output shown; its exit code.

    Raises:
        KeyboardInterrupt: it was interrupted.
    """
    print(f"$ python tools/run_net.py {' '.join(arguments)}", flush=True)
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}  # the jseg of this repository, installed or not
    process = subprocess.Popen([sys.executable, str(RUN_NET), *arguments], env=environment)
    try:
        code = process.wait()
    except KeyboardInterrupt:  # it got the signal too: it saves before it ends
        try:
            process.wait()
        except KeyboardInterrupt:
            process.kill()
        raise
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    return code


def _recipe(values: dict[str, Any]) -> dict[str, Any]:
    """What of a configuration's values shapes the training, by dotted key."""
    told = {f"{section}.{key}": value for section in ("data", "model", "loss", "optimizer") if section in values
            for key, value in values[section].items()}  # fmt: skip
    told |= {f"train.{key}": values["train"][key] for key in ("iterations", "batch_size") if "train" in values}
    places = {"data.root", "data.workers", "data.train", "data.val", "model.init"}
    return {key: json.loads(json.dumps(value)) for key, value in told.items() if key not in places}


def check_recipe(row: Row, seed: int, places: Places) -> None:
    """Checks that what lies in the folder of a row's seed, weights or checkpoints, is trained as the row says.

    Raises:
        UserError: it is not, and would be taken for the row's.
    """
    folder = run_folder(row, seed, places)
    if (folder / WEIGHTS_NAME).is_file():
        file = read_whole(folder / WEIGHTS_NAME)
    elif checkpoints_in(folder):
        try:
            file, _ = newest_whole(folder)
        except UserError:  # none is whole: the training that is to go on from them says so
            return
    else:
        return
    then, now = _recipe(file.meta.get("config", {})), _recipe(to_dict(row.read(places.data_root)))
    other = [key for key, value in then.items() if now.get(key, value) != value]
    if other:
        first = f"{other[0]}={then[other[0]]}, not {now[other[0]]}"
        raise UserError(
            f"{file.path} was trained by another recipe than {row.name} is now ({first}): pass another --checkpoints, "
            "or move that folder away"
        )


def train(row: Row, seed: int, suite: Suite, places: Places, device: str) -> bool:
    """Trains one seed of a row, or goes on with it; False when the run failed (its error is shown)."""
    folder = run_folder(row, seed, places)
    arguments = ["--config-file", str(row.config_path), "--task", "train", "--work-dir", str(folder)]
    start = start_weights(row, seed, suite, places)
    if checkpoints_in(folder):
        arguments.append("--resume")
    elif start is not None:
        arguments += ["--weights", str(start)]
    overrides = [*row.all_overrides(places.data_root), f"train.seed={seed}"]
    return _run([*arguments, "--device", device, *overrides]) == 0 and (folder / WEIGHTS_NAME).is_file()


def _shaping(config: Config) -> dict[str, Any]:
    """What of a configuration shapes an evaluation."""
    values = to_dict(config)
    for section, key in (("data", "root"), ("data", "workers"), ("model", "init"), ("test", "window_batch")):
        del values[section][key]
    return {key: values[key] for key in ("data", "model", "text", "test", "cross_dataset")}


def recorded(folder: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The metrics on record for this identity; None when there are none."""
    try:
        record = json.loads((folder / RECORD_NAME).read_text())
        return record["metrics"] if record["identity"] == identity else None
    except (OSError, ValueError, KeyError, TypeError):  # never measured, or the record was cut off: measure again
        return None


def measure(row: Row, weights: FoundWeights, places: Places, results: Path, device: str) -> Measurement | None:
    """Evaluates one weight file of a row, or takes the metrics on record; None when the evaluation failed."""
    folder = results / row.name / weights.source
    config, sha256 = row.read(places.data_root), sha256_of_file(weights.path)
    identity = {"weights_sha256": sha256, "config": _shaping(config)}
    metrics = recorded(folder, identity)
    if metrics is not None:
        print(f"{row.name}, {weights.source}: on record in {folder}")
        return Measurement(row.name, weights.source, metrics, sha256)
    arguments = ["--config-file", str(row.config_path), "--task", "val"]
    arguments += [] if weights.source == PLAIN_CLIP else ["--weights", str(weights.path)]
    arguments += ["--work-dir", str(folder), "--device", device, *row.all_overrides(places.data_root)]
    start = time.time()
    code = _run(arguments)
    if code not in (0, EXPECTED_MISSED):
        return None
    found = json.loads((folder / METRICS_NAME).read_text())
    metrics = {key: value for key, value in found.items() if key != "IoU"}
    record = {
        "identity": identity, "metrics": metrics, "weights": str(weights.path), "command": arguments,
        "seconds": round(time.time() - start, 1),
    }  # fmt: skip
    write_json(folder / RECORD_NAME, record)
    return Measurement(row.name, weights.source, metrics, sha256)
