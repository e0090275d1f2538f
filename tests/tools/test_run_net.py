"""Tests of tools/run_net.py: the tasks, exact resume, real photos."""

import json
import re
import shlex
import shutil
from pathlib import Path

import jittor as jt
import numpy as np
import pytest

from jseg.baselines import PlainClip
from jseg.clip.class_embeddings import text_model_of
from jseg.clip.weights import read_clip_weights
from jseg.config import read_config
from jseg.data.class_names import class_list
from jseg.data.dataset import open_dataset
from jseg.engine.log import read_log
from jseg.metrics import ConfusionMatrix
from jseg.ops.bilinear import resize_bilinear
from jseg.ops.device import normalise
from jseg.weights.reader import read_weight_file
from tests.tools.tiny_runs import REPOSITORY, TINY, command, refused, run_net
from tools import plot_log, segment


def test_evaluation_with_the_original_release_s_spellings(trained: Path, capsys: pytest.CaptureFixture) -> None:
    weights = str(trained / "checkpoint_0000002.safetensors")
    arguments = ["--config-file", str(trained.parent / "tiny.py"), "--work-dir", str(trained), "--no_cuda"]
    assert run_net.main([*arguments, "--task=val", "--efficient_val", "--resume", weights]) == 0
    shown = capsys.readouterr().out
    assert "checkpoint_0000002" in shown and "pAcc / mIoU(S) / mIoU(U) / hIoU: " in shown
    metrics = json.loads((trained / "metrics.json").read_text())
    groups = {name + group for name in ("pAcc", "mIoU", "mAcc") for group in ("", "(S)", "(U)")}
    assert (
        set(metrics) == {"jseg", "run", *groups, "hIoU", "IoU", "Acc"}
        and len(metrics["IoU"]) == len(metrics["Acc"]) == 20
    )
    assert metrics["run"]["gamma"] == 0.1 and metrics["run"]["weights"] == weights and "date" in metrics["run"]
    assert any(line.split()[:1] == ["unseen"] and len(line.split()) == 4 for line in shown.splitlines())
    assert run_net.main([*arguments, "--task", "val", "--resume", "data.shapes.val_scenes=2"]) == 0
    shown = capsys.readouterr().out
    assert "newest whole checkpoint is" in shown and "checkpoint_0000004" in shown and "inductive, 2 " in shown


def test_the_written_config_repeats_the_run_and_another_seed_does_not(trained: Path, tmp_path: Path) -> None:
    """The same weights, bit for bit, with evaluations on the way too; the seed decides initial weights and order."""
    runs = [read_weight_file(trained / "weights.safetensors").tensors]
    for name, changes in (("again", ["train.eval_every=1"]), ("other", ["train.seed=4"])):
        arguments = ["--config-file", str(trained / "config.json"), "--work-dir", str(tmp_path / name), "--no-cuda"]
        assert run_net.main([*arguments, *changes]) == 0
        runs.append(read_weight_file(tmp_path / name / "weights.safetensors").tensors)
    first, again, other = runs
    assert all(np.array_equal(array, again[name]) for name, array in first.items())
    events = [line["event"] for line in read_log(tmp_path / "again" / "log.jsonl")]
    assert events.count("evaluation") == events.count("train") == 4
    name = "decode_head.q_proj.weight"
    assert np.abs(first[name] - other[name]).max() > 0.01  # far more than one step changes


def test_a_training_ends_with_commands_that_work(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert run_net.main(command(tiny, "--work-dir", str(tmp_path / "run"))) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("data: shapes, inductive: ") and "5 of them unseen" in line for line in lines)
    assert f"log: {tmp_path / 'run' / 'log.jsonl'}" in lines
    assert any(re.fullmatch(r"model: [\d.]+ million weights, of which [\d.]+ million .* are trained", x) for x in lines)
    commands = {line.split(":")[0]: shlex.split(line.partition(":")[2]) for line in lines[-4:]}
    assert list(commands) == ["evaluate", "draw", "segment", "plot"]
    for what in ("evaluate", "draw"):
        assert run_net.main([*commands[what][2:], "--no-cuda"]) == 0, capsys.readouterr()
    assert len(list((tmp_path / "run" / "images").glob("*_overlay.png"))) > 0
    arguments = [str(REPOSITORY / "examples" / "scene_1.jpg"), *commands["segment"][3:]]
    assert segment.main([*arguments, "--no-cuda", "--save-dir", str(tmp_path / "segmented")]) == 0
    assert plot_log.main([*commands["plot"][2:], "--output", str(tmp_path / "curves.png")]) == 0


def test_missed_expectations_end_with_code_1(trained: Path, capsys: pytest.CaptureFixture) -> None:
    config = trained.parent / "expecting.py"
    config.write_text('base = "tiny.py"\nexpected = {"pAcc": [99.0, 0.5], "mIoU(S)": [0, 100]}')
    arguments = command(config, "--task", "val", "--weights", str(trained / "weights.safetensors"))
    assert run_net.main(arguments) == 1
    shown = capsys.readouterr().out
    assert "check failed: pAcc is" in shown and "expected 99.0 within 0.5" in shown and "mIoU(S) is" not in shown
    assert run_net.main([*arguments, "expected={'pAcc': [50, 50]}"]) == 0


@pytest.mark.parametrize("setting", ["inductive", "transductive"])
def test_resuming_is_exact(tiny: Path, tmp_path: Path, setting: str, capsys: pytest.CaptureFixture) -> None:
    """10 steps = 5 steps + a break + 5 steps: weights, moments and logged losses, with dropout and worker processes."""
    changes = ["train.iterations=10", "train.save_every=5", f"data.setting={setting}", "data.workers=2"]
    straight, broken = tiny.parent / "run", tmp_path / "broken"
    assert run_net.main(command(tiny, *changes)) == 0
    broken.mkdir()
    for name in ("checkpoint_0000005.safetensors", "log.jsonl"):
        shutil.copy(straight / name, broken / name)
    (broken / "checkpoint_0000009.safetensors").write_bytes(b"cut off")  # what a crash would leave elsewhere
    arguments = ["--config-file", str(tiny), "--work-dir", str(broken), "--no-cuda", *changes, "--resume"]
    assert run_net.main(arguments) == 0
    shown = capsys.readouterr().out
    assert "checkpoint_0000009.safetensors is refused" in shown and "resuming after iteration 5 of 10" in shown
    for name in ("checkpoint_0000010.safetensors", "weights.safetensors"):
        first, second = (read_weight_file(folder / name) for folder in (straight, broken))
        assert first.tensors.keys() == second.tensors.keys()
        assert all(np.array_equal(array, second.tensors[key]) for key, array in first.tensors.items())
    first, second = (
        [(line["iteration"], line["losses"]) for line in read_log(folder / "log.jsonl") if line["event"] == "train"]
        for folder in (straight, broken)
    )
    assert first == second


def test_a_checkpoint_of_earlier_code_goes_on_with_equal_numbers(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Written after 3 of 6 iterations by commit 879c49f, whose own run gave the expected numbers of the other 3."""
    folder = REPOSITORY / "tests" / "engine" / "data"
    arguments = ["--config-file", str(folder / "config.json"), "--work-dir", str(tmp_path), "--no-cuda"]
    assert run_net.main([*arguments, "--resume", str(folder / "checkpoint_0000003.safetensors")]) == 0
    shown = capsys.readouterr().out
    assert "resuming after iteration 3 of 6" in shown and "the config has changed" not in shown
    expected = json.loads((folder / "expected.json").read_text())
    lines = {str(line["iteration"]): line for line in read_log(tmp_path / "log.jsonl") if line["event"] == "train"}
    assert lines.keys() == expected["losses"].keys()
    for iteration, line in lines.items():
        assert line["losses"] == pytest.approx(expected["losses"][iteration], rel=1e-5)
        assert line["gradient_norm"] == pytest.approx(expected["gradient_norm"][iteration], rel=1e-5)
    tensors = read_weight_file(tmp_path / "checkpoint_0000006.safetensors").tensors
    norms = {name: float(np.linalg.norm(tensors[name].astype(np.float64))) for name in expected["norms"]}
    for name, norm in norms.items():  # the true gradient of key biases is 0: rounding decides their steps
        rel, least = (1e-3, 1e-7) if name.endswith("multihead_attn.k.bias") else (1e-4, 1e-8)
        assert norm == pytest.approx(expected["norms"][name], rel=rel, abs=least), name
    for name, values in expected["weights"].items():
        np.testing.assert_allclose(tensors[name].ravel(), values, rtol=1e-4, atol=1e-7)


def test_clip_as_it_is_is_evaluated_and_drawn_but_not_trained(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """`test.training_free`: metrics as of a plain loop."""
    config = REPOSITORY / "configs" / "shapes_class_token.py"
    few = ["data.shapes.val_scenes=3", "data.workers=0", "expected={}"]
    arguments = ["--config-file", str(config), "--work-dir", str(tmp_path), "--no-cuda"]
    assert run_net.main([*arguments, "--task", "val", *few]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    read = read_config(config)
    clip, classes = read_clip_weights(read.model.init), class_list("shapes")
    text = text_model_of(clip, read.text).embed(classes.names, read.text.templates)
    model = PlainClip(read.model, clip.tensors, "class_token")
    dataset, matrix = open_dataset(read_config(config, few).data, "val"), ConfusionMatrix(20)
    for image, labels, _ in map(dataset.read, range(3)):
        pixels = normalise(image.transpose(2, 0, 1)[None], read.data)
        scores = resize_bilinear(model(pixels, jt.array(text)), labels.shape)
        matrix.update(scores.numpy()[0].argmax(0), labels)
    expected = matrix.summary(classes.seen, classes.unseen, classes.names)["pAcc"]
    assert metrics["pAcc"] == pytest.approx(expected, abs=1e-6) and metrics["pAcc"] > 20
    refused([*arguments, "--task", "val", "precision=bf16"], capsys, "precision=bf16", "in fp32 only")
    assert run_net.main([*arguments, "--task", "test", "--save-dir", str(tmp_path / "drawn"), *few]) == 0
    assert (tmp_path / "drawn" / "sheet.png").is_file()
    refused([*arguments, "--task", "train"], capsys, "test.training_free", "nothing is trained")
    refused([*arguments, "--task", "val", "model.init=random"], capsys, "set model.init")


def photo_config(folder: Path, photos: Path, body: str) -> Path:
    path = folder / "photos.py"
    path.write_text(
        f"{body}\ndata |= dict(dataset='voc12', root={str(photos / 'voc_samples')!r}, workers=1,\n"
        "    train=dict(images='JPEGImages', labels='SegmentationClass', names='ImageSets/Segmentation/train.txt'),\n"
        "    val=dict(images='JPEGImages', labels='SegmentationClass', names='ImageSets/Segmentation/val.txt'))\n"
    )
    return path


def test_real_photos_in_small(tmp_path: Path, test_data: Path, capsys: pytest.CaptureFixture) -> None:
    config = photo_config(tmp_path, test_data, TINY + "\ntrain |= dict(iterations=8, batch_size=1)")
    assert run_net.main(command(config)) == 0
    assert run_net.main(command(config, "--task", "val", "--resume")) == 0
    shown = capsys.readouterr().out
    headline = next(line for line in shown.splitlines() if line.startswith("pAcc / mIoU(S) / mIoU(U) / hIoU: "))
    assert headline.split(": ")[1].split(" / ")[2:] == ["-", "-"]  # the one photo of val has no unseen class
    assert json.loads((config.parent / "run" / "metrics.json").read_text())["mIoU(U)"] is None
    assert run_net.main(command(config, "--task", "test", "--resume")) == 0
    assert list((config.parent / "run" / "images").glob("*_overlay.png"))
    log = read_log(config.parent / "run" / "log.jsonl")
    losses = [line["losses"]["total"] for line in log if line["event"] == "train"]
    assert len(losses) == 8 and np.mean(losses[-3:]) < np.mean(losses[:3])
