"""Tests of jseg/engine/train.py: what the loop does when; bad numbers, full disks and signals."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from jseg.data.loader import Batch
from jseg.engine import checkpoint
from jseg.engine.checkpoint import Progress
from jseg.engine.log import RunLog, read_log
from jseg.engine.signals import StopRequest
from jseg.engine.train import Training
from jseg.engine.trainer import Trainer
from jseg.errors import CannotWrite, UserError
from jseg.weights.record import FORMAT
from tests.engine.tiny_training import tiny_batch, tiny_config, tiny_trainer, weights

Breaks = Callable[[], AbstractContextManager]


class NotedSaver:
    """Remembers what `checkpoint.save` should have written; the disk is full after the iterations in `full`."""

    def __init__(self, full: tuple[int, ...] = ()) -> None:
        self.full, self.checkpoints, self.bests = full, [], []
        self.progress: list[dict[str, Any]] = []

    def save(self, path: Path, _: Any, meta: dict[str, Any], moments: Any = None) -> None:
        if meta["iteration"] in self.full:
            raise CannotWrite("cannot write x (No space left on device): free some space there")
        if moments is None:
            assert path.name == checkpoint.BEST_NAME
            self.bests.append(meta["iteration"])
        else:
            self.checkpoints.append(meta["iteration"])
            self.progress.append(meta["progress"])


def batches(bad: tuple[int, ...] = (), first: int = 0, each: Callable[[int], None] = lambda i: None) -> Iterator[Batch]:
    """Batches from iteration `first` on; those of iterations `bad` hold a NaN."""
    iteration = first
    while True:
        images, labels = tiny_batch(iteration)
        if iteration in bad:
            images[0, 0, 0, 0] = np.nan
        each(iteration)
        yield Batch(images, labels, [f"image_{iteration}"], iteration)
        iteration += 1


def run(
    folder: Path, trainer: Trainer, source: Iterator[Batch], saver: NotedSaver, progress: Progress | None = None,
    evaluate: Callable[..., dict[str, Any]] | None = None,
) -> tuple[str, list[tuple[str, int]]]:  # fmt: skip
    """Why the run ended, and (event, iteration) of every line of the log."""
    progress = progress or Progress()
    log = RunLog(folder, trainer.config.train.iterations, progress.iteration, progress.log)
    with StopRequest() as stop, patch.object(checkpoint, "save", saver.save):
        ending = Training(trainer, log, folder, progress, stop, {}, {}, evaluate).loop(source)
    return ending, [(line["event"], line["iteration"]) for line in read_log(log.path)]


def test_the_loop_logs_evaluates_and_saves_at_its_intervals(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    config = tiny_config(iterations=5, log_every=2, save_every=2, eval_every=4, best_metric="pAcc")
    saver = NotedSaver()
    ending, events = run(tmp_path, tiny_trainer(config), batches(), saver, evaluate=lambda **_: {"pAcc": 50.0})
    assert ending == "finished" and saver.checkpoints == [2, 4, 5] and saver.bests == [4]
    assert events == [
        ("train", 2), ("saved", 2), ("train", 4), ("evaluation", 4), ("saved", 4), ("train", 5), ("saved", 5),
        ("finished", 5),
    ]  # fmt: skip
    shown = capsys.readouterr().out
    assert "iteration 5/5" in shown and "lr " in shown and "memory" in shown and "left 0:00:00" in shown
    first = read_log(tmp_path / "log.jsonl")[0]
    assert first["losses"]["total"] == pytest.approx(sum(v for k, v in first["losses"].items() if k != "total"))
    assert first["gradient_norm"] > 0


def test_a_bad_step_is_skipped_counted_and_logged_with_its_images(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The weights are those of a run that never saw the bad batches; the moments' step count too."""
    results = []
    for bad in ((1, 2), (1, 2, 4)):
        trainer, saver = tiny_trainer(tiny_config(iterations=5, log_every=5, max_bad_steps=3)), NotedSaver()
        run(tmp_path, trainer, batches(bad), saver)
        results.append((weights(trainer), trainer.optimizer.steps))
    assert [steps for _, steps in results] == [3, 2]
    assert saver.progress[-1]["bad_steps"] == 3 and saver.progress[-1]["bad_in_a_row"] == 1
    lines = [line for line in read_log(tmp_path / "log.jsonl") if line["event"] == "bad step"]
    assert [(line["iteration"], line["names"]) for line in lines] == [(i + 1, [f"image_{i}"]) for i in (1, 2, 4)]
    assert all("loss is nan" in line["problem"] for line in lines) and lines[0]["losses"]["total"] == "nan"
    assert "iteration 2 is skipped (image_1): the loss is nan" in capsys.readouterr().out
    trained = next(line for line in read_log(tmp_path / "log.jsonl") if line["event"] == "train")
    assert np.isfinite(list(trained["losses"].values())).all()
    assert any(not np.array_equal(array, results[1][0][name]) for name, array in results[0][0].items())


def test_too_many_bad_steps_in_a_row_end_the_run_with_the_names_of_their_images(tmp_path: Path) -> None:
    trainer = tiny_trainer(tiny_config(iterations=9, max_bad_steps=2))
    before = weights(trainer)
    with pytest.raises(UserError, match=r"2 steps in a row.*iteration 2 \(image_1\).*look at these images"):
        run(tmp_path, trainer, batches((0, 1, 3)), NotedSaver())
    assert all(np.array_equal(array, weights(trainer)[name]) for name, array in before.items())
    every_other = tiny_trainer(tiny_config(iterations=4, max_bad_steps=2))
    assert run(tmp_path, every_other, batches((0, 2)), NotedSaver())[0] == "finished"
    with pytest.raises(UserError, match="nothing was trained"):
        run(tmp_path, tiny_trainer(tiny_config(iterations=1)), batches((0,)), NotedSaver())


def test_a_full_disk_does_not_end_the_run_but_the_last_checkpoint_must_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    config = tiny_config(iterations=5, save_every=1)
    saver = NotedSaver(full=(2, 3))
    _, events = run(tmp_path, tiny_trainer(config), batches(), saver)
    assert saver.checkpoints == [1, 4, 5] and ("not saved", 2) in events and ("not saved", 3) in events
    assert "No space left on device" in capsys.readouterr().out
    with pytest.raises(CannotWrite, match="No space left"):
        run(tmp_path, tiny_trainer(config), batches(), NotedSaver(full=(5,)))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_the_run_after_its_step_with_a_checkpoint(tmp_path: Path, number: int) -> None:
    """Open means of the log go on in the resumed run: its logged losses are those of the undisturbed one."""
    config = tiny_config(iterations=6, log_every=4, save_every=100)
    whole = tiny_trainer(config)
    (tmp_path / "whole").mkdir()
    run(tmp_path / "whole", whole, batches(), NotedSaver())
    (tmp_path / "halves").mkdir()
    trainer, saver = tiny_trainer(config), NotedSaver()
    source = batches(each=lambda i: os.kill(os.getpid(), number) if i == 2 else None)
    ending, events = run(tmp_path / "halves", trainer, source, saver)
    assert ending == "stopped" and saver.checkpoints == [3] and events == [("saved", 3), ("stopped", 3)]
    progress = Progress(**saver.progress[-1])
    assert run(tmp_path / "halves", trainer, batches(first=3), saver, progress)[0] == "finished"
    first, second = (
        [(line["iteration"], line["losses"], line["gradient_norm"]) for line in read_log(folder / "log.jsonl")
         if line["event"] == "train"] for folder in (tmp_path / "whole", tmp_path / "halves")
    )  # fmt: skip
    assert first == second and len(first) == 2
    assert all(np.array_equal(array, weights(trainer)[name]) for name, array in weights(whole).items())


def test_a_signal_breaks_an_evaluation_off_and_the_resumed_run_makes_it_up(tmp_path: Path) -> None:
    config = tiny_config(iterations=4, eval_every=2, save_every=100, best_metric="pAcc")
    trainer, saver = tiny_trainer(config), NotedSaver()

    def broken(breaks: Breaks, drawing_may_fail: bool) -> dict[str, Any]:
        with breaks():
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("the evaluation went on")

    ending, events = run(tmp_path, trainer, batches(), saver, evaluate=broken)
    assert ending == "stopped" and events == [("saved", 2), ("stopped", 2)]
    progress = Progress(**saver.progress[-1])
    _, events = run(tmp_path, trainer, batches(first=2), saver, progress, evaluate=lambda **_: {"pAcc": 1.0})
    assert [event for event in events if event[0] == "evaluation"] == [("evaluation", 2), ("evaluation", 4)]


def test_the_best_is_kept(tmp_path: Path) -> None:
    values = iter([None, 10.0, 10.0, 5.0, 30.0, 20.0])
    saver = NotedSaver()
    config = tiny_config(iterations=6, eval_every=1)
    run(tmp_path, tiny_trainer(config), batches(), saver, evaluate=lambda **_: {"hIoU": next(values)})
    assert saver.bests == [2, 5] and saver.progress[-1]["best"] == 30.0 and saver.progress[-1]["best_iteration"] == 5


def test_best_weights_and_their_metrics_are_of_one_evaluation(tmp_path: Path) -> None:
    trainer, progress = tiny_trainer(tiny_config(iterations=9)), Progress(iteration=2)
    training = Training(trainer, RunLog(tmp_path, 9), tmp_path, progress, StopRequest(), {"format": FORMAT}, {})

    def iterations() -> tuple[int, int]:
        written = json.loads((tmp_path / checkpoint.BEST_METRICS_NAME).read_text())["iteration"]
        return written, checkpoint.read_whole(tmp_path / checkpoint.BEST_NAME).meta["iteration"]

    training.save_best({"pAcc": 10.0})
    assert iterations() == (2, 2)
    progress.iteration = 3
    with patch.object(checkpoint, "save", NotedSaver(full=(3,)).save), pytest.raises(CannotWrite):
        training.save_best({"pAcc": 20.0})
    assert iterations() == (2, 2)
    assert not list(tmp_path.glob(".*.tmp"))


def test_an_image_that_vanishes_costs_no_finished_step(tmp_path: Path) -> None:
    def vanishing() -> Iterator[Batch]:
        yield from (batch for batch, _ in zip(batches(), range(2), strict=False))
        raise UserError("a.jpg is missing")

    saver = NotedSaver()
    with pytest.raises(UserError, match="is missing"):
        run(tmp_path, tiny_trainer(tiny_config(iterations=9)), vanishing(), saver)
    assert saver.checkpoints == [2]
