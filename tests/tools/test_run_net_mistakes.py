"""Every mistake of a user of tools/run_net.py ends in one line with exit code 2."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jseg.clip.class_embeddings import write_embeddings
from jseg.data.class_names import class_list
from jseg.weights.reader import write_safetensors
from tests.tools.tiny_runs import TOOL, command, refused, run_net


def test_a_mistake_is_told_by_the_program_in_one_line(tiny: Path) -> None:
    arguments = [sys.executable, str(TOOL), *command(tiny, "trian.seed=1")]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=tiny.parent)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: unknown key 'trian': did you mean 'train'?\n"
    assert not (tiny.parent / "run").exists()


@pytest.mark.parametrize(
    "rest, words",
    [
        (["trian.seed=1"], ("did you mean 'train'",)),
        (["train.seed=abc"], ("train.seed='abc'", "expected int")),
        (["--task", "trian"], ("--task", "invalid choice")),
        (["--nothing"], ("--nothing",)),
        (["--task", "val"], ("--task val needs weights", "--weights", "--resume")),
        (["--task", "test"], ("--task test needs weights",)),
        (["--resume"], ("holds no whole checkpoint",)),
        (["--task", "val", "--resume"], ("holds no whole checkpoint",)),
        (["--resume", "nowhere.safetensors"], ("nowhere.safetensors does not exist",)),
        (["--weights", "nowhere.safetensors"], ("nowhere.safetensors does not exist",)),
        (["--resume", "--weights", "a"], ("exclude each other",)),
        (["model.init="], ("nothing to start from", "fetch_pretrained.py ViT-B-16", "model.init=random")),
        (["model.init=nowhere.pt"], ("nowhere.pt does not exist",)),
        (["train.expected_weights=the inductive run"], ("starts from the inductive run", "--weights")),
        (["model.region_grid=5"], ("region_grid=5 does not fit", "4 patches")),
        (["data.dataset=voc13"], ("voc13", "choose from")),
        (["text.embeddings=nowhere.npy"], ("nowhere.npy do not exist",)),
        (["data.shapes.train_scenes=0"], ("train_scenes=0",)),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing_behind(
    tiny: Path, rest: list[str], words: tuple[str, ...], capsys: pytest.CaptureFixture
) -> None:
    refused(command(tiny, *rest), capsys, *words)
    left = tiny.parent / "run"
    assert not left.exists() or not list(left.iterdir())


def test_embeddings_of_another_class_count(tiny: Path, capsys: pytest.CaptureFixture) -> None:
    np.save(tiny.parent / "rows.npy", np.ones((19, 16), np.float32))
    refused(command(tiny, f"text.embeddings={tiny.parent / 'rows.npy'}"), capsys, "19 classes", "has 20")


def test_a_used_work_folder_is_not_written_over(trained: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = command(trained.parent / "tiny.py")
    refused(arguments, capsys, "already holds checkpoint_0000004.safetensors", "--resume", "--work-dir")


def test_a_folder_that_cannot_be_written(tiny: Path, capsys: pytest.CaptureFixture) -> None:
    (tiny.parent / "file").touch()
    arguments = ["--config-file", str(tiny), "--work-dir", str(tiny.parent / "file" / "run"), "--no-cuda"]
    refused(arguments, capsys, "cannot be written")


@pytest.mark.parametrize("task", ["train", "val"])
def test_a_truncated_checkpoint(tiny: Path, trained: Path, task: str, capsys: pytest.CaptureFixture) -> None:
    content = (trained / "checkpoint_0000004.safetensors").read_bytes()
    for cut in (len(content) - 100, 1000, 10, 0):
        (tiny.parent / "cut.safetensors").write_bytes(content[:cut])
        arguments = command(tiny, "--task", task, "--resume", str(tiny.parent / "cut.safetensors"))
        refused(arguments, capsys, "cut.safetensors")


def test_a_checkpoint_of_another_class_list(voc: Path, trained: Path, capsys: pytest.CaptureFixture) -> None:
    weights = str(trained / "weights.safetensors")
    arguments = command(voc, "--task", "val", "--weights", weights)
    refused(arguments, capsys, "made for other classes", "20, among them red striped circle", "--other-classes")
    assert run_net.main([*arguments, "--other-classes"]) == 0
    assert run_net.main([*arguments, "cross_dataset=True"]) == 0


def test_a_checkpoint_of_another_split(voc: Path, trained: Path, capsys: pytest.CaptureFixture) -> None:
    """Weights of ours for PASCAL Context's split A, used for split B: named for what it is."""
    context = voc.parent / "context.py"
    context.write_text('base = "voc.py"\ndata = dict(dataset="context")\ntrain = dict(iterations=1)\n')
    assert run_net.main(command(context)) == 0
    weights = str(context.parent / "run" / "weights.safetensors")
    arguments = command(context, "--task", "val", "--weights", weights)
    capsys.readouterr()
    assert run_net.main(arguments) == 0
    assert "context (split A), inductive" in capsys.readouterr().out
    refused([*arguments, "data.split=B"], capsys, "other unseen classes (aeroplane, bird,", "set data.split")


def test_embeddings_of_another_data_set(voc: Path, capsys: pytest.CaptureFixture) -> None:
    """As many classes, as long rows, but not these classes: the file says whose they are."""
    shapes, path = class_list("shapes"), voc.parent / "shapes.safetensors"
    write_embeddings(path, np.ones((20, 16), np.float32), shapes.names, ("a photo of a {}",), "0" * 64)
    refused(command(voc, f"text.embeddings={path}"), capsys, "other classes", "red striped", "of voc12")


def test_a_cross_data_set_config_is_not_trained(tiny: Path, capsys: pytest.CaptureFixture) -> None:
    refused(command(tiny, "cross_dataset=True"), capsys, "another data set", "--task val --weights")


def test_a_checkpoint_of_another_model(trained: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = command(trained.parent / "tiny.py", "--task", "val", "--resume", "model.prompts=3")
    refused(arguments, capsys, "backbone.prompt_embeddings is (1, 2, 32), expected (1, 3, 32)")


def test_clip_weights_are_no_checkpoint(tiny: Path, capsys: pytest.CaptureFixture) -> None:
    write_safetensors(tiny.parent / "clip.safetensors", {"visual.proj": np.ones((3, 2), np.float32)}, {})
    arguments = command(tiny, "--weights", str(tiny.parent / "clip.safetensors"))
    refused(arguments, capsys, "no CLIP-RC weights", "model.init")


def truncate_image(folder: Path) -> None:
    path = folder / "images" / "b.jpg"
    path.write_bytes(path.read_bytes()[:-200])


def other_size(folder: Path) -> None:
    Image.fromarray(np.zeros((70, 80), np.uint8)).save(folder / "labels" / "b.png")


def other_value(folder: Path) -> None:
    labels = np.zeros((70, 90), np.uint8)
    labels[:20] = 77
    Image.fromarray(labels).save(folder / "labels" / "b.png")


def missing_split(folder: Path) -> None:
    (folder / "val.txt").unlink()
    (folder / "train.txt").unlink()


def empty_split(folder: Path) -> None:
    (folder / "val.txt").write_text("\n")
    (folder / "train.txt").write_text("\n")


def missing_image(folder: Path) -> None:
    (folder / "images" / "b.jpg").unlink()


@pytest.mark.parametrize("task", ["train", "val"])
@pytest.mark.parametrize(
    "spoil, words",
    [
        (truncate_image, ("b.jpg",)),
        (other_size, ("b.png", "80x70", "90x70")),
        (other_value, ("b.png", "77", "voc12")),
        (missing_split, (".txt does not exist",)),
        (empty_split, (".txt names no image",)),
        (missing_image, ("b.jpg", "missing")),
    ],
)
def test_bad_data(
    voc: Path, trained: Path, task: str, spoil: Callable, words: tuple[str, ...], capsys: pytest.CaptureFixture
) -> None:
    spoil(voc.parent)
    rest = ["--other-classes", "--weights", str(trained / "weights.safetensors")] if task == "val" else []
    refused(command(voc, "--task", task, *rest), capsys, *words)
