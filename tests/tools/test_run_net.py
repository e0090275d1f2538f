"""Tests of tools/run_net.py: the tasks, exact resume, and one line with exit code 2 for every mistake of a user."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
from PIL import Image

from jseg.clip.embedding_files import write_embeddings
from jseg.clip.weights import read_clip_weights
from jseg.data.class_names import class_list
from jseg.engine.run_log import read_log
from jseg.runtime.command_line import run
from jseg.weight_files import read_weight_file, write_safetensors

REPOSITORY = Path(__file__).resolve().parents[2]
TOOL = REPOSITORY / "tools" / "run_net.py"

TINY = """
data = dict(
    dataset="shapes", crop_size=(64, 64), resize_box=(256, 64), workers=0,
    shapes=dict(size=(64, 64), train_scenes=40, val_scenes=3),
)
model = dict(
    image_size=64, width=32, layers=2, heads=2, output_dim=16, prompts=2, region_grid=2, decoder_layers=2,
    decoder_heads=4, init="random",
)
text = dict(vocabulary="generated", width=32, layers=1, heads=2, context_length=16)
optimizer = dict(lr=1e-4, warmup_iterations=0)
train = dict(iterations=4, batch_size=2, log_every=1, save_every=2)
test = dict(short_side=64, crop_size=(64, 64), stride=(48, 48))
"""

VOC = """
base = "tiny.py"
data = dict(
    dataset="voc12", root=".",
    train=dict(images="pictures", labels="labels", names="train.txt"),
    val=dict(images="pictures", labels="labels", names="val.txt"),
)
"""


def load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_net", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


run_net = load_tool()


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A config that trains in seconds on drawn shapes."""
    (tmp_path / "tiny.py").write_text(TINY)
    return tmp_path / "tiny.py"


@pytest.fixture
def voc(tiny: Path) -> Path:
    """A config with two noise pictures and palette PNGs in PASCAL VOC's layout beside it."""
    folder = tiny.parent
    rng = np.random.default_rng(0)
    for kind in ("pictures", "labels"):
        (folder / kind).mkdir()
    for name in ("a", "b"):
        cv2.imwrite(str(folder / "pictures" / f"{name}.jpg"), rng.integers(0, 256, (70, 90, 3), dtype=np.uint8))
        labels = Image.fromarray(rng.integers(0, 21, (7, 9), dtype=np.uint8).repeat(10, 0).repeat(10, 1), "P")
        labels.putpalette(bytes(range(256)) * 3)
        labels.save(folder / "labels" / f"{name}.png")
    (folder / "train.txt").write_text("a\nb\n")
    (folder / "val.txt").write_text("b\n")
    (folder / "voc.py").write_text(VOC)
    return folder / "voc.py"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work folder of a finished run of the tiny config, beside the config."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.py").write_text(TINY)
    assert run_net.main(["--config-file", str(folder / "tiny.py"), "--work-dir", str(folder / "run"), "--no-cuda"]) == 0
    return folder / "run"


def command(config: Path, *rest: str) -> list[str]:
    return ["--config-file", str(config), "--work-dir", str(config.parent / "run"), "--device", "cpu", *rest]


def exit_of(arguments: list[str], capsys: pytest.CaptureFixture) -> tuple[int, str]:
    """Exit code and standard error of the tool, through the helper that every tool ends in."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run(lambda: run_net.main(arguments))
    return stop.value.code, capsys.readouterr().err


def refused(arguments: list[str], capsys: pytest.CaptureFixture, *words: str) -> None:
    """Checks exit code 2 and one line that holds `words`."""
    code, shown = exit_of(arguments, capsys)
    lines = [line for line in shown.splitlines() if line]
    assert code == 2 and lines and lines[-1].startswith("error: "), shown
    assert not any("Traceback" in line for line in lines)
    assert all(word in lines[-1] for word in words), lines[-1]


# --- the three tasks ---


def test_the_same_seed_gives_the_same_metrics_and_another_one_does_not(tiny: Path, tmp_path: Path) -> None:
    """Weights and metrics to the last digit; the seed decides the initial weights and the order of the pictures."""

    def result(name: str, seed: int) -> tuple[dict, dict, list]:
        folder, options = tmp_path / name, [f"train.seed={seed}", "train.save_every=1", "train.keep_checkpoints=9"]
        arguments = ["--config-file", str(tiny), "--work-dir", str(folder), "--no-cuda"]
        assert run_net.main([*arguments, "--task", "train", *options]) == 0
        assert run_net.main([*arguments, "--task", "val", "--resume"]) == 0
        first = read_weight_file(folder / "checkpoint_0000001.safetensors").tensors
        losses = [line["losses"] for line in read_log(folder / "log.jsonl") if line["event"] == "train"]
        return json.loads((folder / "metrics.json").read_text()), first, losses

    metrics, weights, losses = result("once", 3)
    again, same_weights, same_losses = result("again", 3)
    assert metrics == again and losses == same_losses
    assert all(np.array_equal(value, same_weights[name]) for name, value in weights.items())
    other, other_weights, _ = result("other", 4)
    assert other != metrics
    name = "decode_head.q_proj.weight"
    assert np.abs(weights[name] - other_weights[name]).max() > 0.01  # far more than one step changes


def test_training_leaves_a_whole_run_folder(trained: Path) -> None:
    assert {path.name for path in trained.iterdir()} >= {
        "checkpoint_0000002.safetensors", "checkpoint_0000004.safetensors", "weights.safetensors", "config.json",
        "log.jsonl",
    }  # fmt: skip
    lines = read_log(trained / "log.jsonl")
    start, losses = lines[0], [line["losses"]["total"] for line in lines if line["event"] == "train"]
    assert start["event"] == "start" and start["environment"]["device"] == "cpu" and start["command"]
    assert len(losses) == 4 and losses[-1] < losses[0]
    weights = read_weight_file(trained / "weights.safetensors")
    assert {
        "backbone.prompt_embeddings",
        "decode_head.q_proj.weight",
        "text_encoder.text_projection",
    } <= weights.tensors.keys()
    assert not any(name.startswith("optimizer.") for name in weights.tensors)
    assert weights.meta["classes"][0] == "red striped circle" and weights.meta["setting"] == "inductive"
    assert weights.meta["vocabulary"] and weights.meta["iteration"] == 4


def test_evaluation_prints_one_line_and_writes_metrics(trained: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = command(trained.parent / "tiny.py", "--task", "val", "--weights", str(trained / "weights.safetensors"))
    assert run_net.main(arguments) == 0
    assert "pAcc / mIoU(S) / mIoU(U) / hIoU: " in capsys.readouterr().out
    metrics = json.loads((trained / "metrics.json").read_text())
    assert set(metrics) == {"pAcc", "mIoU(S)", "mIoU(U)", "hIoU", "IoU"} and len(metrics["IoU"]) == 20


def test_the_original_release_s_spellings_are_accepted(trained: Path, capsys: pytest.CaptureFixture) -> None:
    weights = str(trained / "checkpoint_0000002.safetensors")
    arguments = ["--config-file", str(trained.parent / "tiny.py"), "--work-dir", str(trained), "--no_cuda"]
    assert run_net.main([*arguments, "--task=val", "--efficient_val", "--resume", weights]) == 0
    assert "checkpoint_0000002" in capsys.readouterr().out
    assert run_net.main([*arguments, "--task", "val", "--resume", "data.shapes.val_scenes=2"]) == 0
    shown = capsys.readouterr().out
    assert "newest whole checkpoint is" in shown and "checkpoint_0000004" in shown and "2 pictures" in shown


def test_pictures_are_drawn(trained: Path, tmp_path: Path) -> None:
    arguments = command(trained.parent / "tiny.py", "--task", "test", "--resume", "--save-dir", str(tmp_path / "drawn"))
    assert run_net.main(arguments) == 0
    assert len(list((tmp_path / "drawn").glob("*_overlay.png"))) == 3
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 3 + 3 + 1


def test_missed_expectations_end_with_code_1(trained: Path, capsys: pytest.CaptureFixture) -> None:
    config = trained.parent / "expecting.py"
    config.write_text('base = "tiny.py"\nexpected = {"pAcc": [99.0, 0.5], "mIoU(S)": [0, 100]}')
    arguments = command(config, "--task", "val", "--weights", str(trained / "weights.safetensors"))
    assert run_net.main(arguments) == 1
    shown = capsys.readouterr().out
    assert "check failed: pAcc is" in shown and "expected 99.0 within 0.5" in shown and "mIoU(S) is" not in shown
    assert run_net.main([*arguments, "expected={'pAcc': [50, 50]}"]) == 0


def test_the_written_config_repeats_the_run(trained: Path, tmp_path: Path) -> None:
    """Same config, same seed: the same weights, bit for bit."""
    arguments = ["--config-file", str(trained / "config.json"), "--work-dir", str(tmp_path / "again"), "--no-cuda"]
    assert run_net.main(arguments) == 0
    first, again = (read_weight_file(folder / "weights.safetensors") for folder in (trained, tmp_path / "again"))
    assert all(np.array_equal(array, again.tensors[name]) for name, array in first.tensors.items())


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
    logs = [
        [line for line in read_log(folder / "log.jsonl") if line["event"] == "train"] for folder in (straight, broken)
    ]
    assert [(line["iteration"], line["losses"]) for line in logs[0]] == [
        (line["iteration"], line["losses"]) for line in logs[1]
    ]


def test_weights_start_a_new_run_at_iteration_0(trained: Path, tmp_path: Path) -> None:
    """A transductive run starts from weights alone: optimiser, iteration and warm-up afresh."""
    config = trained.parent / "tiny.py"
    arguments = [
        "--config-file", str(config), "--work-dir", str(tmp_path / "new"), "--no-cuda", "--weights",
        str(trained / "weights.safetensors"), "data.setting=transductive", "train.iterations=1", "model.init=",
    ]  # fmt: skip
    assert run_net.main(arguments) == 0
    first, line = [line for line in read_log(tmp_path / "new" / "log.jsonl") if line["event"] in ("start", "train")]
    assert first["weights"]["path"].endswith("weights.safetensors") and line["iteration"] == 1
    assert read_weight_file(tmp_path / "new" / "checkpoint_0000001.safetensors").meta["optimizer_steps"] == 1


def test_as_a_program_with_worker_processes(tiny: Path) -> None:
    arguments = [
        sys.executable,
        str(TOOL),
        *command(tiny, "train.iterations=2", "data.workers=1", "train.batch_size=1"),
    ]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=tiny.parent)
    assert done.returncode == 0, done.stderr
    assert "iteration 2/2" in done.stdout and (tiny.parent / "run" / "weights.safetensors").exists()


def test_a_mistake_is_told_by_the_program_in_one_line(tiny: Path) -> None:
    arguments = [sys.executable, str(TOOL), *command(tiny, "trian.seed=1")]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=tiny.parent)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: unknown key 'trian': did you mean 'train'?\n"
    assert not (tiny.parent / "run").exists()


# --- mistakes ---


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
    refused(arguments, capsys, "made for other classes", "20 instead of 20", "red striped circle", "--other-classes")
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
    write_embeddings(path, np.ones((20, 16), np.float32), shapes.names, ("a photo of a {}",), "0" * 64, shapes)
    refused(command(voc, f"text.embeddings={path}"), capsys, "other classes of shapes", "red striped", "of voc12")


def test_a_batch_of_8_for_a_recipe_of_16_is_warned_of(trained: Path, capsys: pytest.CaptureFixture) -> None:
    """The tiny run has a batch of 2: in training and when its weights are evaluated, the recipe's 4 is missed."""
    config = trained.parent / "tiny.py"
    arguments = ["--config-file", str(config), "--no-cuda", "--work-dir", str(trained.parent / "batch")]
    assert run_net.main([*arguments, "train.recipe_batch=4", "train.iterations=1"]) == 0
    assert "warning: the effective batch is 2, the recipe's is 4" in capsys.readouterr().out
    weights = ["--task", "val", "--weights", str(trained.parent / "batch" / "weights.safetensors")]
    assert run_net.main([*arguments, *weights, "train.recipe_batch=4"]) == 0
    assert "trained with another batch: the effective batch is 2, the recipe's is 4" in capsys.readouterr().out
    assert run_net.main([*arguments, *weights, "train.recipe_batch=2"]) == 0
    assert "batch" not in capsys.readouterr().out.replace(str(trained.parent / "batch"), "")


def test_a_transductive_run_names_the_iteration_that_it_starts_from(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    start = ["--config-file", str(trained.parent / "tiny.py"), "--no-cuda", "--work-dir", str(tmp_path / "new")]
    changes = ["data.setting=transductive", "train.iterations=1", "train.expected_weights=x", "model.init="]
    wanted = [*changes, "train.expected_iteration=2"]
    refused([*start, *wanted], capsys, "starts from x")
    refused(
        [*start, *wanted, "--weights", str(trained / "weights.safetensors")], capsys, "after iteration 4", "iteration 2"
    )
    assert run_net.main([*start, *wanted, "--weights", str(trained / "checkpoint_0000002.safetensors")]) == 0


def test_milestones_are_kept(tiny: Path) -> None:
    changes = ["train.iterations=5", "train.save_every=2", "train.keep_checkpoints=1", "train.milestones=(1,)"]
    assert run_net.main(command(tiny, *changes)) == 0
    found = sorted(path.name for path in (tiny.parent / "run").glob("checkpoint_*"))
    assert found == ["checkpoint_0000001.safetensors", "checkpoint_0000005.safetensors"]


def test_clip_as_it_is_is_evaluated_and_drawn_but_not_trained(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """`test.training_free`: metrics as of the loop that pre-training uses."""
    config = REPOSITORY / "configs" / "shapes_class_token.py"
    few = ["data.shapes.val_scenes=3", "data.workers=0", "expected={}"]
    arguments = ["--config-file", str(config), "--work-dir", str(tmp_path), "--no-cuda"]
    assert run_net.main([*arguments, "--task", "val", *few]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["pAcc"] == pytest.approx(plain_clip_accuracy(3), abs=1e-6) and metrics["pAcc"] > 20
    assert run_net.main([*arguments, "--task", "test", "--save-dir", str(tmp_path / "drawn"), *few]) == 0
    assert (tmp_path / "drawn" / "sheet.png").is_file()
    refused([*arguments, "--task", "train"], capsys, "test.training_free", "nothing is trained")
    refused([*arguments, "--task", "val", "--resume"], capsys, "test.training_free")
    refused([*arguments, "--task", "val", "test.training_free=values"], capsys, "value_path")
    refused([*arguments, "--task", "val", "model.init=random"], capsys, "set model.init")


def plain_clip_accuracy(scenes: int) -> float:
    from jseg.engine.config import read_config
    from jseg.engine.text_features import side_of_clip
    from jseg.engine.training_free import PlainClip, training_free_metrics
    from jseg.pretraining.evaluation import validation_scenes

    config = read_config(REPOSITORY / "configs" / "shapes_class_token.py")
    clip, classes = read_clip_weights(config.model.init), class_list("shapes")
    text = side_of_clip(clip, config.text).embed(classes.names, config.text.templates)
    tower = PlainClip(config.model, clip.tensors, "class_token").backbone
    return training_free_metrics(tower, validation_scenes(scenes), text, classes, True, True)["pAcc"]


def test_a_cross_data_set_config_is_not_trained(tiny: Path, capsys: pytest.CaptureFixture) -> None:
    refused(command(tiny, "cross_dataset=True"), capsys, "another data set", "--task val --weights")


def test_a_checkpoint_of_another_model(trained: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = command(trained.parent / "tiny.py", "--task", "val", "--resume", "model.prompts=3")
    refused(arguments, capsys, "backbone.prompt_embeddings is (1, 2, 32), expected (1, 3, 32)")


def test_clip_weights_are_no_checkpoint(tiny: Path, capsys: pytest.CaptureFixture) -> None:
    write_safetensors(tiny.parent / "clip.safetensors", {"visual.proj": np.ones((3, 2), np.float32)}, {})
    arguments = command(tiny, "--weights", str(tiny.parent / "clip.safetensors"))
    refused(arguments, capsys, "no CLIP-RC weights", "model.init")


def truncate_picture(folder: Path) -> None:
    path = folder / "pictures" / "b.jpg"
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


def missing_picture(folder: Path) -> None:
    (folder / "pictures" / "b.jpg").unlink()


@pytest.mark.parametrize("task", ["train", "val"])
@pytest.mark.parametrize(
    "spoil, words",
    [
        (truncate_picture, ("b.jpg",)),
        (other_size, ("b.png", "80x70", "90x70")),
        (other_value, ("b.png", "77", "voc12")),
        (missing_split, (".txt does not exist",)),
        (empty_split, (".txt names no picture",)),
        (missing_picture, ("b.jpg", "missing")),
    ],
)
def test_bad_data(
    voc: Path, trained: Path, task: str, spoil: Callable, words: tuple[str, ...], capsys: pytest.CaptureFixture
) -> None:
    spoil(voc.parent)
    rest = ["--other-classes", "--weights", str(trained / "weights.safetensors")] if task == "val" else []
    refused(command(voc, "--task", task, *rest), capsys, *words)


# --- real photos ---


def photo_config(folder: Path, photos: Path, body: str) -> Path:
    path = folder / "photos.py"
    path.write_text(
        f"{body}\ndata |= dict(dataset='voc12', root={str(photos / 'voc_samples')!r}, workers=1,\n"
        "    train=dict(images='JPEGImages', labels='SegmentationClass', names='ImageSets/Segmentation/train.txt'),\n"
        "    val=dict(images='JPEGImages', labels='SegmentationClass', names='ImageSets/Segmentation/val.txt'))\n"
    )
    return path


def train_and_look(config: Path, iterations: int, capsys: pytest.CaptureFixture) -> list[float]:
    """Runs all three tasks; returns the logged losses."""
    assert run_net.main(command(config)) == 0
    assert run_net.main(command(config, "--task", "val", "--resume")) == 0
    shown = capsys.readouterr().out
    headline = next(line for line in shown.splitlines() if line.startswith("pAcc / mIoU(S) / mIoU(U) / hIoU: "))
    assert headline.split(": ")[1].split(" / ")[2:] == ["-", "-"]  # the one photo of val has no unseen class
    assert json.loads((config.parent / "run" / "metrics.json").read_text())["mIoU(U)"] is None
    assert run_net.main(command(config, "--task", "test", "--resume")) == 0
    assert list((config.parent / "run" / "pictures").glob("*_overlay.png"))
    losses = [
        line["losses"]["total"] for line in read_log(config.parent / "run" / "log.jsonl") if line["event"] == "train"
    ]
    assert len(losses) == iterations
    return losses


def test_real_photos_in_small(tmp_path: Path, test_data: Path, capsys: pytest.CaptureFixture) -> None:
    config = photo_config(tmp_path, test_data, TINY + "\ntrain |= dict(iterations=8, batch_size=1)")
    losses = train_and_look(config, 8, capsys)
    assert np.mean(losses[-3:]) < np.mean(losses[:3])


@pytest.mark.slow
def test_real_photos_at_full_size(tmp_path: Path, test_data: Path, capsys: pytest.CaptureFixture) -> None:
    """ViT-B/16 at 512 px with the paper's sizes, random weights, 20 iterations of one photo each."""
    body = (
        f"data = dict()\nmodel = dict(init='random')\ntext = dict(embeddings={str(test_data / 'voc12_single.npy')!r})\n"
        "optimizer = dict(warmup_iterations=2)\n"
        "train = dict(iterations=20, batch_size=1, log_every=1, save_every=20, keep_checkpoints=1)\n"
    )
    losses = train_and_look(photo_config(tmp_path, test_data, body), 20, capsys)
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert all(np.isfinite(losses))
