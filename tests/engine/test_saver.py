"""Files of a run that belong together stay together when the disk is full."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jseg.clip.class_embeddings import TextFeatures
from jseg.data.class_names import class_list
from jseg.engine import checkpoint
from jseg.engine.saver import BEST_METRICS_NAME, BEST_NAME, Saver
from jseg.errors import CannotWrite
from tests.engine.tiny_training import tiny_config, tiny_trainer


def test_best_weights_and_their_metrics_are_of_one_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config(iterations=9)
    text = TextFeatures(np.eye(20, 16, dtype=np.float32), None)
    saver = Saver(tmp_path, config, class_list("shapes"), text, tiny_trainer(config))

    def iterations() -> tuple[int, int]:
        written = json.loads((tmp_path / BEST_METRICS_NAME).read_text())["iteration"]
        return written, checkpoint.iteration_of(checkpoint.read_whole(tmp_path / BEST_NAME))

    saver.best(2, {"pAcc": 10.0})
    assert iterations() == (2, 2)

    def full(*_: Any) -> None:
        raise CannotWrite("cannot write best.safetensors (No space left on device)")

    with monkeypatch.context() as patch:
        patch.setattr("jseg.engine.checkpoint.write_safetensors", full)
        with pytest.raises(CannotWrite):
            saver.best(3, {"pAcc": 20.0})
    assert iterations() == (2, 2)
    with pytest.raises(ValueError, match="JSON"):
        saver.best(4, {"pAcc": float("nan")})
    assert iterations() == (2, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([BEST_METRICS_NAME, BEST_NAME])
