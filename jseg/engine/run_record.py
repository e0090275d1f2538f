"""The record of a run in its work folder: what is needed to repeat it, and under which circumstances it ran."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from jseg.engine.config import Config, to_dict
from jseg.engine.run_log import command_line, environment
from jseg.runtime.prepare import prepare
from jseg.runtime.report import findings
from jseg.weight_files import WeightFile
from jseg.whole_file import write_json

CONFIG_NAME = "config.json"
RECORD_NAME = "record.json"


def write_record(
    work_dir: Path, config: Config, device: str, iteration: int, file: WeightFile | None, ranks: int = 1
) -> dict[str, Any]:
    """Writes `config.json` (a config file again) and adds this start to those in `record.json`; returns its entry.

    Args:
        work_dir: the run's folder.
        config: of the run, as it is used.
        device: what it computes on.
        iteration: finished steps; 0 begins a new record.
        file: the weights that it starts from.
        ranks: how many processes train.
    """
    entry = {
        "command": command_line(),
        "ranks": ranks,
        "environment": environment(device),
        # every other seed follows from this one, the iteration and the stream position (seeds.py, sampling.py)
        "seed": config.train.seed,
        "weights": None if file is None else {"path": str(file.path), "sha256": file.sha256},
    }
    report = {finding.name: finding.found or "no" for finding in findings(prepare())}
    now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    earlier = _starts(work_dir) if iteration else []
    starts = [*earlier, {"time": now, "iteration": iteration, **entry, "report": report}]
    write_json(work_dir / CONFIG_NAME, to_dict(config))
    write_json(work_dir / RECORD_NAME, {"starts": starts})
    return entry


def _starts(work_dir: Path) -> list[Any]:
    """The starts recorded so far; [] when there is no record that can be read."""
    try:
        return list(json.loads((work_dir / RECORD_NAME).read_text())["starts"])
    except (OSError, ValueError, KeyError, TypeError):
        return []
