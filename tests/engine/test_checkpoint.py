"""Tests of jseg/engine/checkpoint.py: whole files, refusals, what belongs to which classes."""

import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jseg.clip.class_embeddings import TextFeatures
from jseg.config import Config
from jseg.data.class_names import class_list
from jseg.engine import checkpoint
from jseg.engine.checkpoint import lock_work_dir
from jseg.errors import UserError
from jseg.files import whole_files
from jseg.weights import record
from jseg.weights.reader import WeightFile

SHAPES = class_list("shapes")


def arrays(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"backbone.proj": rng.normal(size=(4, 3)).astype(np.float32), "decode_head.q": np.ones(2, np.float32)}


def description(**changes: Any) -> dict[str, Any]:
    text = TextFeatures(np.eye(2, dtype=np.float32), None)
    return {**checkpoint.describe(Config(), SHAPES, text), "iteration": 5, **changes}


def write(folder: Path, iteration: int) -> Path:
    path = checkpoint.checkpoint_path(folder, iteration)
    checkpoint.save(path, arrays(iteration), description(iteration=iteration, optimizer_steps=7))
    return path


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def test_a_checkpoint_gives_back_what_was_saved(tmp_path: Path) -> None:
    file = checkpoint.read_whole(write(tmp_path, 5), is_resumed=True)
    stored = record.model_tensors(file)
    assert stored.keys() == arrays().keys()
    assert all(np.array_equal(stored[name], array) for name, array in arrays(5).items())
    assert file.meta["iteration"] == 5 and file.meta["optimizer_steps"] == 7
    assert record.recorded_classes(file) == SHAPES.names and record.recorded_unseen(file) == SHAPES.unseen
    assert list(tmp_path.iterdir()) == [file.path]  # no temporary file stays
    checkpoint.save(tmp_path / checkpoint.WEIGHTS_NAME, arrays(), description())
    with pytest.raises(UserError, match=r"holds no optimiser state.* use --weights"):
        checkpoint.read_whole(tmp_path / checkpoint.WEIGHTS_NAME, is_resumed=True)


def test_the_newest_whole_checkpoint_is_found_and_refused_ones_are_named(tmp_path: Path) -> None:
    for iteration in (5, 10, 15, 12000000):
        write(tmp_path, iteration)
    checkpoint.prune(tmp_path, keep=1, milestones=(5, 10, 15))
    checkpoint.checkpoint_path(tmp_path, 12000000).unlink()
    damage(checkpoint.checkpoint_path(tmp_path, 15))
    truncated = checkpoint.checkpoint_path(tmp_path, 10)
    truncated.write_bytes(truncated.read_bytes()[:-10])
    file, refused = checkpoint.newest_whole(tmp_path)
    assert file.meta["iteration"] == 5
    assert "checkpoint_0000015" in refused[0] and "checkpoint_0000010" in refused[1] and len(refused) == 2
    mine = tmp_path / "checkpoint_2.safetensors"  # we write seven digits
    mine.touch()
    checkpoint.prune(tmp_path, keep=2)
    assert mine.exists()
    with pytest.raises(UserError, match=r"holds no whole checkpoint \(.*checkpoint_0000015.*damaged"):
        checkpoint.newest_whole(tmp_path)


def ours(**changes: Any) -> WeightFile:
    return WeightFile(arrays(), description(**changes), "safetensors", "", Path("ours.safetensors"))


@pytest.mark.parametrize("changes, words", [
    ({"classes": [*SHAPES.names[:-1], "sheep"]}, ("20, among them sheep", "--other-classes")),
    ({"classes": list(SHAPES.names[::-1])}, ("20, in reverse order",)),
    ({"classes": [*SHAPES.names[1:], SHAPES.names[0]]}, ("20, fewer, or in another order",)),
    ({"classes": ["cat"], "unseen": []}, ("1, among them cat")),
    ({"unseen": [0, 1]}, ("other unseen classes", SHAPES.names[0], "data.split")),
])  # fmt: skip
def test_weights_of_other_classes_are_refused(changes: dict[str, Any], words: tuple[str, ...]) -> None:
    assert checkpoint.check_classes(ours(), SHAPES, other_classes=False) == ""
    with pytest.raises(UserError) as caught:
        checkpoint.check_classes(ours(**changes), SHAPES, other_classes=False)
    assert all(word in str(caught.value) for word in ("ours.safetensors", *words)), str(caught.value)
    assert checkpoint.check_classes(ours(**changes), SHAPES, other_classes=True) == ""


def test_later_checkpoints_are_refused_or_set_aside(tmp_path: Path) -> None:
    """A run that goes on from an older one would lose its own to them."""
    for iteration in (400, 800):
        write(tmp_path, iteration)
    checkpoint.clear_later(tmp_path, 800, damaged=False)
    with pytest.raises(UserError, match=r"later than iteration 400, .*0000800"):
        checkpoint.clear_later(tmp_path, 400, damaged=False)
    checkpoint.clear_later(tmp_path, 400, damaged=True)
    assert checkpoint.checkpoints_in(tmp_path) == [checkpoint.checkpoint_path(tmp_path, 400)]
    write(tmp_path, 800)  # damaged once more
    checkpoint.clear_later(tmp_path, 400, damaged=True)
    assert len(list(tmp_path.glob("checkpoint_0000800.*.damaged"))) == 2


def test_one_process_at_a_time_and_no_half_written_files(tmp_path: Path) -> None:
    mine = {".mine.tmp", ".notes.json.old.tmp", ".checkpoint_1.safetensors.copy.tmp", ".jseg.mine.tmp", "log.jsonl"}
    for name in mine:
        (tmp_path / name).touch()
    with suppress(ZeroDivisionError), whole_files(tmp_path / "metrics.json") as (file,):
        shutil.copy(file.name, tmp_path / "copy")
        left = Path(file.name)
        raise ZeroDivisionError
    (tmp_path / "copy").rename(left)  # as if the process had been killed
    script = (
        "import sys; from pathlib import Path; from jseg.engine.checkpoint import lock_work_dir\n"
        "try:\n    with lock_work_dir(Path(sys.argv[1]), []): print('held')\nexcept Exception as error: print(error)"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with lock_work_dir(tmp_path, []):
        assert {path.name for path in tmp_path.iterdir()} == mine
        assert "a process is training in" in subprocess.run(command, capture_output=True, text=True).stdout
    assert subprocess.run(command, capture_output=True, text=True).stdout == "held\n"


def test_files_that_name_no_classes_are_warned_of() -> None:
    released = WeightFile(arrays(), {}, "torch archive", "", Path("released.pth"))
    assert "does not say which classes" in checkpoint.check_classes(released, SHAPES, False)
