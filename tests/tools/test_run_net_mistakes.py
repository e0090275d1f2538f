"""Every mistake of a user of tools/run_net.py ends in one line with exit code 2, before Jittor starts."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tools.tiny_runs import TOOL, command, refused, run_net


def test_a_mistake_is_told_by_the_program_in_one_line(tiny: Path) -> None:
    arguments = [sys.executable, str(TOOL), *command(tiny, "trian.seed=1")]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=tiny.parent)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: unknown key 'trian': did you mean 'train'?\n"
    assert not (tiny.parent / "run").exists()


@pytest.mark.parametrize("rest, words", [
    (["--task", "trian"], ("--task", "invalid choice")),
    (["train.ema=0.9"], ("train.ema=0.9 was removed from jseg: leave it out",)),
    (["--task", "val"], ("--task val needs weights", "--weights", "--resume")),
    (["cross_dataset=True"], ("cross_dataset", "--task val --weights")),
    (["--resume"], ("holds no whole checkpoint",)),
    (["--resume", "nowhere.safetensors"], ("nowhere.safetensors does not exist",)),
    (["--resume", "--weights", "a"], ("exclude each other",)),
    (["model.init="], ("nothing to start from", "fetch_pretrained.py ViT-B-16", "model.init=random")),
    (["model.init=nowhere.pt"], ("nowhere.pt does not exist",)),
    (["train.expected_weights=the inductive run"], ("starts from the inductive run", "--weights")),
    (["model.region_grid=5"], ("region_grid=5 does not fit", "4 patches")),
    (["data.dataset=voc13"], ("voc13", "choose from")),
    (["text.embeddings=nowhere.npy"], ("nowhere.npy do not exist",)),
])  # fmt: skip
def test_mistakes_are_one_line_and_leave_nothing_behind(
    tiny: Path, rest: list[str], words: tuple[str, ...], capsys: pytest.CaptureFixture
) -> None:
    refused(command(tiny, *rest), capsys, *words)
    left = tiny.parent / "run"
    assert not left.exists() or not list(left.iterdir())


def test_weights_that_do_not_fit_are_refused(voc: Path, trained: Path, capsys: pytest.CaptureFixture) -> None:
    tiny, cut, weights = voc.with_name("tiny.py"), voc.with_name("cut.safetensors"), trained / "weights.safetensors"
    cut.write_bytes((trained / "checkpoint_0000004.safetensors").read_bytes()[:-100])
    for task in ("train", "val"):
        refused(command(tiny, "--task", task, "--resume", str(cut)), capsys, "cut.safetensors")
    refused(command(trained.parent / "tiny.py"), capsys, "already holds checkpoint_0000004", "--resume", "--work-dir")
    arguments = command(tiny, "--task", "val", "--weights", str(weights), "model.prompts=3")
    refused(arguments, capsys, "backbone.prompt_embeddings is (1, 2, 32), expected (1, 3, 32)")
    arguments = command(voc, "--task", "val", "--weights", str(weights))
    refused(arguments, capsys, "made for other classes", "20, among them red striped circle", "--other-classes")
    assert run_net.main([*arguments, "--other-classes"]) == 0
    assert run_net.main([*arguments, "cross_dataset=True"]) == 0


@pytest.mark.parametrize("task", ["train", "val", "test"])
def test_what_jseg_did_not_write_is_kept(voc: Path, trained: Path, task: str, capsys: pytest.CaptureFixture) -> None:
    """Masks, photos and files in the work folder, until `--overwrite` makes them ours."""
    folder, weights = voc.parent, str(trained / "weights.safetensors")
    arguments = command(voc, "--task", task, "--other-classes", "--weights", weights)
    put(folder / "images", "b.png", np.zeros((2, 2), np.uint8))
    places = {"labels": "itself would be overwritten", "images": "was not written by jseg", "": "a path is empty"}
    for place, words in places.items() if task != "train" else ():
        refused([*arguments, "--save-dir", place and str(folder / place)], capsys, words)
    names = {"train": ("config.json", "record.json", "log.jsonl", "metrics.json"), "test": ()}
    names["val"] = ("metrics.json", "confusion.png", "confusion.csv")
    for path in (folder / "run" / name for name in names[task]):
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}")
        refused(arguments, capsys, f"{path.name} was not written by jseg", "--overwrite")
        assert path.read_text() == "{}"
        path.rename(folder / path.name)
    for name in names[task]:
        (folder / name).rename(folder / "run" / name)
    assert run_net.main([*arguments, "--overwrite"]) == 0
    assert task == "train" or run_net.main(arguments) == 0


@pytest.mark.parametrize("name", ["log.jsonl", "record.json"])
def test_a_resumed_run_keeps_another_log(tiny: Path, trained: Path, name: str, capsys: pytest.CaptureFixture) -> None:
    shutil.copytree(trained, tiny.parent / "run")
    path = tiny.parent / "run" / name
    path.write_text("{")
    arguments = command(tiny, "--resume", "train.iterations=5")
    refused(arguments, capsys, f"{name} was not written by jseg", "--overwrite")
    assert path.read_text() == "{"
    assert run_net.main([*arguments, "--overwrite"]) == 0 and '"jseg"' in path.read_text()


def put(folder: Path, name: str, labels: np.ndarray) -> None:
    Image.fromarray(labels).save(folder / name)


@pytest.mark.parametrize("spoil, words", [
    (lambda folder: (folder / "images" / "b.jpg").write_bytes(b"\xff\xd8\xff"), ("b.jpg",)),
    (lambda folder: put(folder / "labels", "b.png", np.zeros((70, 80), np.uint8)), ("b.png", "80x70", "90x70")),
    (lambda folder: put(folder / "labels", "b.png", np.full((70, 90), 77, np.uint8)), ("b.png", "77", "voc12")),
    (lambda folder: (folder / "val.txt").write_text("\n"), (".txt names no image",)),
    (lambda folder: (folder / "images" / "b.jpg").unlink(), ("b.jpg", "missing")),
])  # fmt: skip
def test_bad_data(
    voc: Path, trained: Path, spoil: Callable, words: tuple[str, ...], capsys: pytest.CaptureFixture
) -> None:
    spoil(voc.parent)
    weights = str(trained / "weights.safetensors")
    refused(command(voc, "--task", "val", "--other-classes", "--weights", weights), capsys, *words)


def test_tools_do_not_import_jittor() -> None:
    """`start` has to prepare the process first: signals, MPI, the pool of compile processes."""
    names = ", ".join(f"tools.{path.stem}" for path in sorted(TOOL.parent.glob("*.py")))
    code = f"import sys, {names}; print('jittor' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=TOOL.parents[1], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
