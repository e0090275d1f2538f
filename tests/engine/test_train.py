"""Tests of jseg/engine/train.py: the loop, bad numbers, full disks, signals; recorded trajectories, micro-batches."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jittor as jt
import numpy as np
import pytest

from jseg.config import Config, ModelConfig
from jseg.data.loader import Batch
from jseg.engine import checkpoint
from jseg.engine.checkpoint import Progress
from jseg.engine.log import RunLog, read_log
from jseg.engine.optimizer import LossScale
from jseg.engine.signals import StopRequest
from jseg.engine.train import Trainer, Training
from jseg.errors import CannotWrite, CheckFailed, UserError
from jseg.model.clip_rc import build_clip_rc
from jseg.model.released_weights import load_released
from tests.engine.rank_gradients import SETTINGS, batch_gradients
from tests.engine.tiny_training import tiny_batch, tiny_config, tiny_trainer, weights

Breaks = Callable[[], AbstractContextManager]


class NotedSaver:
    """Remembers what `checkpoint.save` should have written; the disk is full after the iterations in `full`."""

    def __init__(self, full: tuple[int, ...] = ()) -> None:
        self.full, self.checkpoints, self.bests = full, [], []
        self.progress: list[dict[str, Any]] = []

    def save(self, path: Path, _: Any, meta: dict[str, Any]) -> None:
        if meta["iteration"] in self.full:
            raise CannotWrite("cannot write x (No space left on device): free some space there")
        if "optimizer_steps" not in meta:
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
        training = Training(trainer, log, folder, progress, stop, {}, {}, evaluate)
        ending = training.loop(source)
    if training.problem:
        raise training.problem
    return ending, [(line["event"], line["iteration"]) for line in read_log(log.path)]


def test_the_loop_logs_evaluates_and_saves_at_its_intervals(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    config = tiny_config(iterations=5, log_every=2, save_every=2, eval_every=4, best_metric="pAcc")
    saver = NotedSaver()
    ending, events = run(tmp_path, tiny_trainer(config), batches(), saver, evaluate=lambda **_: {"pAcc": 50.0})
    assert ending == "finished" and saver.checkpoints == [2, 4, 5] and saver.bests == [4]
    assert events == [
        ("train", 1), ("train", 2), ("saved", 2), ("train", 4), ("evaluation", 4), ("saved", 4), ("train", 5),
        ("saved", 5), ("finished", 5),
    ]  # fmt: skip
    shown = capsys.readouterr().out
    assert "iteration 5/5" in shown and "lr " in shown and "memory" in shown and "left 0:00:00" in shown
    first = read_log(tmp_path / "log.jsonl")[0]
    assert first["losses"]["total"] == pytest.approx(sum(v for k, v in first["losses"].items() if k != "total"))
    assert first["gradient_norm"] > 0


def test_a_bad_step_is_skipped_counted_and_logged_with_images(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    trainer, saver = tiny_trainer(tiny_config(iterations=5, log_every=5, max_bad_steps=3)), NotedSaver()
    run(tmp_path, trainer, batches((1, 2, 4)), saver)
    assert trainer.optimizer.steps == 2
    assert saver.progress[-1]["bad_steps"] == 3 and saver.progress[-1]["bad_in_a_row"] == 1
    lines = [line for line in read_log(tmp_path / "log.jsonl") if line["event"] == "bad step"]
    assert [(line["iteration"], line["names"]) for line in lines] == [(i + 1, [f"image_{i}"]) for i in (1, 2, 4)]
    assert all("loss is nan" in line["problem"] for line in lines) and lines[0]["losses"]["total"] == "nan"
    assert "iteration 2 is skipped (image_1): the loss is nan" in capsys.readouterr().out
    trained = next(line for line in read_log(tmp_path / "log.jsonl") if line["event"] == "train")
    assert np.isfinite(list(trained["losses"].values())).all()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_step_is_read_before_its_checkpoint_and_else_while_the_next_one_runs(tmp_path: Path, precision: str) -> None:
    config, saver, order = tiny_config(iterations=6, save_every=4, log_every=100), NotedSaver(), []
    config.precision = precision
    trainer = tiny_trainer(config)
    trainer.loss_scale = LossScale(2.0**8) if precision == "fp16" else None
    report, update = trainer.report, trainer.update
    trainer.update = lambda gradients, sums, i: order.append(f"begin {i}") or update(gradients, sums, i)
    trainer.report = lambda *arguments: order.append("read") or report(*arguments)
    run(tmp_path, trainer, batches((3,)), saver)
    assert order == ["begin 0", "read", "begin 1", "begin 2", "read", "begin 3", "read", "read", "begin 4", "begin 5",
                     "read", "read"]  # fmt: skip
    assert [progress["bad_steps"] for progress in saver.progress] == [1, 1]


def test_too_many_bad_steps_in_a_row_end_the_run_with_the_names_of_their_images(tmp_path: Path) -> None:
    trainer = tiny_trainer(tiny_config(iterations=9, max_bad_steps=2))
    before = weights(trainer)
    saver = NotedSaver()
    with pytest.raises(CheckFailed, match=r"2 steps in a row.*iteration 2 \(image_1\).*look at these images"):
        run(tmp_path, trainer, batches((0, 1, 3)), saver)
    assert saver.checkpoints == [2]
    assert all(np.array_equal(array, weights(trainer)[name]) for name, array in before.items())
    every_other = tiny_trainer(tiny_config(iterations=4, max_bad_steps=2))
    assert run(tmp_path, every_other, batches((0, 2)), NotedSaver())[0] == "finished"
    with pytest.raises(CheckFailed, match="nothing was trained"):
        run(tmp_path, tiny_trainer(tiny_config(iterations=1)), batches((0,)), NotedSaver())
    overflowing = tiny_trainer(tiny_config(iterations=2))  # float16: none of its steps counts as a bad one
    overflowing.loss_scale = LossScale()
    with (
        patch("jseg.engine.train.square_sums", lambda gradients: jt.array(np.full(len(gradients), np.inf, np.float32))),
        pytest.raises(CheckFailed, match="nothing was trained"),
    ):
        run(tmp_path, overflowing, batches(), NotedSaver())


def test_weights_that_are_not_finite_are_never_written(tmp_path: Path) -> None:
    """The last step makes them so: no later loss would tell."""
    trainer, saver = tiny_trainer(tiny_config(iterations=2)), NotedSaver()

    def spoil(iteration: int) -> None:
        if iteration == 1:
            trainer.optimizer.eps = np.nan

    with pytest.raises(CheckFailed, match=r"not finite after iteration 2 \(.*lower optimizer\.lr"):
        run(tmp_path, trainer, batches(each=spoil), saver)
    assert saver.checkpoints == []


@pytest.mark.parametrize("place", ["batch", "evaluation"])
@pytest.mark.parametrize("error", [UserError("image x does not exist"), PermissionError(13, "Permission denied", "x")])
def test_an_image_that_vanishes_ends_the_run_after_a_checkpoint(tmp_path: Path, place: str, error: Exception) -> None:
    saver, config = NotedSaver(), tiny_config(iterations=6, save_every=100, eval_every=3)

    def vanish(iteration: int = 3, **_: object) -> None:
        if iteration == 3:
            raise error

    with pytest.raises(type(error)) as caught:
        run(tmp_path, tiny_trainer(config), batches(each=vanish if place == "batch" else int), saver,
            evaluate=vanish if place == "evaluation" else lambda **_: {"hIoU": None})  # fmt: skip
    assert caught.value is error and saver.checkpoints == [3]
    assert [line["event"] for line in read_log(tmp_path / "log.jsonl")][-2:] == ["saved", "stopped"]
    assert saver.progress[-1]["evaluated"] == (3 if place == "batch" else 0)  # then it is made up for on resume


def test_a_full_disk_ends_no_run_but_for_the_last_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    config = tiny_config(iterations=5, save_every=1)
    saver = NotedSaver(full=(2, 3))
    _, events = run(tmp_path, tiny_trainer(config), batches(), saver)
    assert saver.checkpoints == [1, 4, 5] and ("not saved", 2) in events and ("not saved", 3) in events
    assert "No space left on device" in capsys.readouterr().out
    with pytest.raises(CannotWrite, match=r"some space there$"):
        run(tmp_path, tiny_trainer(config), batches(), NotedSaver(full=(5,)))


@pytest.mark.parametrize("refused", [1, 2])
def test_where_the_last_checkpoint_does_not_fit_the_weights_are_saved_alone(tmp_path: Path, refused: int) -> None:
    """In the work folder or, if they do not fit there either, beside it; never over a file."""
    written, folder = [], tmp_path / "run"
    folder.mkdir()
    places = [folder / "weights_0000002.safetensors", tmp_path / "run_weights_0000002.safetensors"]

    def save(path: Path, tensors: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
        written.append(path)
        if len(written) <= refused:
            raise CannotWrite("No space left on device")
        assert not any(name.startswith("optimizer") for name in tensors) and meta["iteration"] == 2

    with patch.object(NotedSaver, "save", lambda self, *arguments: save(*arguments)):
        for count, place in ((1, places[refused - 1]), (0, None)):
            words = f"No space left on device; the weights alone are in {place}$" if count else "on device$"
            with pytest.raises(CannotWrite, match=words):
                run(folder, tiny_trainer(tiny_config(iterations=2)), batches(), NotedSaver())
            assert written[1:] == places[:refused] * count
            written.clear()
            for path in places:
                path.touch()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_the_run_after_its_step_with_a_checkpoint(tmp_path: Path, number: int) -> None:
    """That the run then goes on exactly is shown with real processes: tests/tools/test_crash_safety.py."""
    saver = NotedSaver()
    source = batches(each=lambda i: os.kill(os.getpid(), number) if i == 2 else None)
    ending, events = run(tmp_path, tiny_trainer(tiny_config(iterations=6, save_every=100)), source, saver)
    assert ending == "stopped" and saver.checkpoints == [2] and events == [("train", 1), ("saved", 2), ("stopped", 2)]


def test_a_signal_breaks_an_evaluation_off_and_the_resumed_run_makes_it_up(tmp_path: Path) -> None:
    config = tiny_config(iterations=4, eval_every=2, save_every=100, best_metric="pAcc")
    trainer, saver = tiny_trainer(config), NotedSaver()

    def broken(breaks: Breaks) -> dict[str, Any]:
        with breaks():
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("the evaluation went on")

    ending, events = run(tmp_path, trainer, batches(), saver, evaluate=broken)
    assert ending == "stopped" and events == [("train", 1), ("saved", 2), ("stopped", 2)]
    progress = Progress(**saver.progress[-1])
    _, events = run(tmp_path, trainer, batches(first=2), saver, progress, evaluate=lambda **_: {"pAcc": 1.0})
    assert [event for event in events if event[0] == "evaluation"] == [("evaluation", 2), ("evaluation", 4)]


def test_the_best_is_kept(tmp_path: Path) -> None:
    values = iter([None, 10.0, 10.0, 5.0, 30.0, 20.0])
    saver = NotedSaver()
    config = tiny_config(iterations=6, eval_every=1)
    run(tmp_path, tiny_trainer(config), batches(), saver, evaluate=lambda **_: {"hIoU": next(values)})
    assert saver.bests == [2, 5] and saver.progress[-1]["best"] == 30.0 and saver.progress[-1]["best_iteration"] == 5


def test_an_image_that_vanishes_costs_no_finished_step(tmp_path: Path) -> None:
    def vanishing() -> Iterator[Batch]:
        yield from (batch for batch, _ in zip(batches(), range(2), strict=False))
        raise UserError("a.jpg is missing")

    saver = NotedSaver()
    with pytest.raises(UserError, match="is missing"):
        run(tmp_path, tiny_trainer(tiny_config(iterations=9)), vanishing(), saver)
    assert saver.checkpoints == [2]


def recorded_trainer(golden: Path, lr_file: Path) -> tuple[Trainer, np.lib.npyio.NpzFile, np.ndarray, np.ndarray]:
    """The trainer of a recorded trajectory, the recording, its images and training targets."""
    folder, letter = golden / "torch_release", lr_file.name.split(".")[0].split("_")[-1]
    run = json.loads(lr_file.read_text())
    recorded = np.load(lr_file.with_name(lr_file.name.replace(".lr.json", ".npz")))
    stored = dict(np.load(folder / f"weights_{letter}.npz"))
    sizes, text = json.loads(str(stored.pop("config_json"))), stored.pop("text_feat")
    config = Config()
    config.model = ModelConfig(
        image_size=sizes["img"], patch_size=sizes["patch"], width=sizes["width"], layers=sizes["layers"],
        heads=sizes["heads"], output_dim=sizes["dim"], prompts=sizes["K"], region_grid=round(sizes["M"] ** 0.5),
        decoder_layers=sizes["decoder_layers"], decoder_heads=sizes["head_heads"], ffn_factor=sizes["ffn_factor"],
        recovery_layers=sizes["recovery_layers"], prompt_dropout=0.0, decoder_dropout=0.0,
    )  # fmt: skip
    config.loss.mask, config.loss.dice, config.loss.recovery = (float(weight) for weight in recorded["weights"])
    config.optimizer.lr, config.optimizer.weight_decay = run["base_lr"], run["base_wd"]
    config.optimizer.warmup_iterations, config.train.iterations = run["warmup_iters"], run["max_iters"]
    config.optimizer.lr_factor = run["trainable_initial_lr"] / run["base_lr"]
    model = build_clip_rc(config.model)
    load_released(model, stored)
    batch = np.load(folder / f"train_batch_{letter}.npz")
    lookup = np.full(256, 255, np.int32)
    lookup[sizes["seen"]] = np.arange(len(sizes["seen"]))
    return Trainer(model, text[sizes["seen"]], (), config), recorded, batch["image"], lookup[batch["labels"][:, 0]]


@pytest.mark.parity
def test_ten_steps_follow_the_released_training(golden: Path) -> None:
    files = sorted((golden / "torch_release").glob("trajectory_*.lr.json"))
    assert files
    compared = 0
    for lr_file in files:
        if not lr_file.with_name(lr_file.name.replace(".lr.json", ".npz")).exists():
            continue
        compared += 1
        trainer, recorded, images, labels = recorded_trainer(golden, lr_file)
        before, rates = weights(trainer), []
        for iteration, expected in enumerate(recorded["losses"]):
            report = trainer.step(images, labels, iteration)
            ours = [report.losses[name] for name in ("mask", "dice", "recovery_q", "recovery_v", "total")]
            assert ours == pytest.approx(expected.tolist(), rel=1e-4), (lr_file.name, iteration)
            rates.append(trainer.optimizer.lr)
        assert rates == pytest.approx(recorded["lr_trainable"].tolist(), rel=1e-6)
        after = weights(trainer)
        tolerance = 2e-4 if "strong" in lr_file.name else 2e-5
        for name in (key.removeprefix("final.") for key in recorded.files if key.startswith("final.")):
            # the true gradient of a key bias is 0: Adam turns its rounding noise into steps of full size
            allowed = 2 * sum(rates) if name.endswith("multihead_attn.k.bias") else tolerance
            assert np.abs(after[name] - recorded[f"final.{name}"]).max() <= allowed, (lr_file.name, name)
        frozen = [name for name in before if f"final.{name}" not in recorded.files and "attn_mask" not in name]
        assert frozen and all(np.array_equal(before[name], after[name]) for name in frozen)
    assert compared


@pytest.mark.parametrize("setting", SETTINGS)
def test_micro_batches_add_up_to_the_batch(setting: str) -> None:
    """Gradients within 1e-5 of each tensor's largest value; key biases, whose true gradient is 0, within 1e-6."""
    whole, *others = (batch_gradients(setting, micro_batch) for micro_batch in (0, 2, 1))
    numbers = whole.pop("numbers")  # the last one: of masks
    largest = {name: np.abs(gradient).max() for name, gradient in whole.items()}
    assert max(largest.values()) > 1e-3 and numbers[-1] > 4
    if setting == "supervised":  # without recovery
        assert all(value == 0 for name, value in largest.items() if "recovery_decoder" in name)
    for other in others:
        assert other["numbers"] == pytest.approx(numbers, rel=1e-5) and other["numbers"][-1] == numbers[-1]
        for name, gradient in whole.items():
            allowed = 1e-6 if name.endswith("multihead_attn.k.bias") else 1e-5 * largest[name]
            assert np.abs(gradient - other[name]).max() <= allowed, name
