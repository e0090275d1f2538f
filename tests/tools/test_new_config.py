"""Own data: what tools/new_config.py finds in folders, docs/own_data.md from its first command to the last."""

import importlib
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jseg import reproduction
from jseg.config import read_config
from jseg.data.dataset import open_dataset
from jseg.errors import UserError
from jseg.weights.reader import read_weight_file
from tests.replicas import make_own, save_image, save_list, save_palette_png
from tests.tools.test_real_configs import SIZES
from tests.tools.tiny_runs import REPOSITORY, TINY
from tools import calibrate_gamma, check_dataset, new_config, reproduce, run_net, segment

CLASSES = ["road", "car", "bus", "tree"]
SMALL = [text for text in SIZES if not text.startswith("expected")]


@pytest.fixture(params=["voc", "cityscapes"])
def own(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with classes.txt, and data in `streets`."""
    make_own(tmp_path, request.param)
    save_list(tmp_path / "classes.txt", CLASSES)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def five_commands() -> list[list[str]]:
    text = (REPOSITORY / "docs" / "own_data.md").read_text()
    lines = re.search(r"```\n(.*?)```", text, re.DOTALL)[1].replace("/data/streets", "streets").splitlines()
    return [shlex.split(line) for line in lines]


def test_the_five_commands_of_the_docs(own: Path, capsys: pytest.CaptureFixture) -> None:
    commands = five_commands()
    assert len(commands) == 5
    voc = (own / "streets" / "JPEGImages").is_dir()
    for python, tool, *rest in commands:
        name = tool.removeprefix("tools/").removesuffix(".py")
        assert python == "python" and tool == f"tools/{name}.py"
        if name == "fetch_pretrained":
            continue  # a download; random weights stand in
        extra = ["--labels", "SegmentationClass"] * voc if name == "new_config" else []
        extra += [*SMALL, "train.iterations=2", "train.milestones=(1,)", "--no-cuda"] if name == "run_net" else []
        assert not importlib.import_module(f"tools.{name}").main([*rest, *extra])
    shown = capsys.readouterr().out
    assert ("not taken: 14 *_gtFine_labelIds.png" in shown) == (not voc) and "nothing wrong was found" in shown
    config = read_config("streets.py")
    train, val = (open_dataset(config.data, name) for name in ("train", "val"))
    assert (len(train), len(val)) == (10, 4) and train.class_list.stored == ((1, 2, 3, 4) if voc else (0, 1, 2, 3))
    assert train.class_list.stored_ignored == ((0, 255) if voc else (255,)) and train.class_list.unseen == (2, 3)
    assert "streets, inductive, 4 images" in shown
    metrics = json.loads(Path("work_dirs/streets/metrics.json").read_text())
    assert list(metrics["IoU"]) == CLASSES and metrics["hIoU"] is not None
    assert read_weight_file("work_dirs/streets/weights.safetensors").meta["classes"] == CLASSES


def run(config: str, task: str, folder: str, *rest: str) -> int:
    return run_net.main(["--config-file", config, "--task", task, "--work-dir", folder, "--no-cuda", *rest])


def test_every_task_on_own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    make_own(tmp_path, "voc")
    monkeypatch.chdir(tmp_path)
    names = ["--labels", "SegmentationClass", "--names", ",".join(CLASSES), "--unseen", "bus, tree"]
    new_config.main(["streets", "streets.py", *names])
    Path("small.py").write_text('base = "streets.py"\n' + TINY.replace('dataset="shapes", ', ""))
    assert run("small.py", "train", "run") == 0
    weights = "run/weights.safetensors"
    Path("streets.py").rename("elsewhere.py")  # the run's record is enough
    assert run("run/config.json", "val", "run", "--resume") == run("run/config.json", "test", "run", "--resume") == 0
    drawn = [np.unique(Image.open(path)) for path in Path("run/images").glob("b_*[0-9].png")]
    assert len(drawn) == 4 and {*np.concatenate(drawn).tolist()} <= {1, 2, 3, 4}  # values as in `stored`
    with pytest.raises(UserError, match=r"made for other classes .4, in reverse order. than streets"):
        run("run/config.json", "val", "run", "--resume", f"data.names={CLASSES[::-1]}")
    with pytest.raises(UserError, match=r"other unseen classes .bus, tree.: set data.split or data.unseen"):
        run("run/config.json", "val", "run", "--resume", "data.unseen=('bus',)")
    with pytest.raises(UserError, match=r"label values 1 are not in the class list of streets; add them"):
        run("run/config.json", "val", "run", "--resume", "data.stored=(5, 2, 3, 4)")
    Path("elsewhere.py").rename("streets.py")

    Path("more.py").write_text('base = "small.py"\ndata = dict(setting="transductive")\ntrain = dict(iterations=1)\n')
    assert run("more.py", "train", "more", "--weights", weights) == 0
    held_out = ["data.held_out=('car',)", "data.workers=0"]
    assert run("small.py", "train", "held_out", *held_out) == 0
    gamma = ["--config-file", "small.py", "--weights", "held_out/weights.safetensors", "--no-cuda"]
    assert not calibrate_gamma.main(gamma)
    with pytest.raises(UserError, match=r"train with, for example, data.held_out="):
        calibrate_gamma.main([*gamma[:3], weights])
    image = "streets/JPEGImages/b_000001.jpg"
    assert segment.main([image, "--classes", "bus, car", "--weights", weights, "--no-cuda"]) == 0
    monkeypatch.setattr(reproduction, "run_tool", lambda tool, arguments, *_: run_net.main(arguments))
    capsys.readouterr()
    options = ["--suite", "small.py,more.py", "--checkpoints", "runs", "--no-cuda"]
    assert reproduce.main(options) == 0
    assert "| streets, transductive | 1 |" in capsys.readouterr().out and Path("runs/results/small.md").is_file()


def test_a_config_that_is_not_decided_says_what_is_missing(own: Path, capsys: pytest.CaptureFixture) -> None:
    if (own / "streets" / "SegmentationObject").is_dir():
        with pytest.raises(
            UserError, match=r"a_000001.jpg has several label maps, .*Class/.* and .*name a folder by --labels"
        ):
            new_config.main(["streets", "own.py"])
    new_config.main(["streets", "own.py", *["--labels", "SegmentationClass"] * (own / "streets/JPEGImages").is_dir()])
    shown = capsys.readouterr().out
    assert "images of 96-96 x 72-72 pixels" in shown and "streets: 14 pairs, images *" in shown
    labels = [np.array(Image.open(path)) for path in (own / "streets").rglob("*.png") if path.parent.name in (
        "SegmentationClass", "aachen", "bonn") and not path.stem.endswith(("elIds", "color", "Img8bit"))]  # fmt: skip
    assert len(labels) == 14
    share, maps = 100 * np.mean([found == 2 for found in labels]), sum((found == 2).any() for found in labels)
    assert f"    2  {share:8.3f}  {maps} of 14\n" in shown and "255" in shown and "14 of 14  likely: ignore" in shown
    assert (own / "own.py").read_text().count("DECIDE: ") == 5
    with pytest.raises(UserError, match=r"write names in place of those that begin with"):
        check_dataset.main(["--config-file", "own.py"])
    with pytest.raises(UserError, match=r"own.py exists .--overwrite replaces it"):
        new_config.main(["streets", "own.py"])


def test_lists_are_written_where_nothing_says_what_to_train_on(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    labels = np.arange(48).reshape(6, 8) % 3
    for index in range(10):
        save_image(tmp_path / "data" / f"{index}.png", labels, index)
        Image.fromarray(labels.astype(np.uint8)).save(tmp_path / "data" / f"{index}_mask.png")
    target = tmp_path / "flat.py"
    new_config.main([str(tmp_path / "data"), str(target), "--names", "sky, cat, dog", "--unseen", "dog"])
    data = read_config(target).data
    assert [open_dataset(data, name).names for name in ("train", "val")] == [list("01235678"), ["4", "9"]]
    assert open_dataset(data, "val").labels_path(0).name == "4_mask.png"
    assert "nothing says what is for training: every fifth pair is for val" in capsys.readouterr().out
    changed = ["data.names=('sky', 'cat', 'dog', 'moon')", "data.stored=(0, 1, 2, 9)"]
    assert check_dataset.main(["--config-file", str(target)]) == 0
    assert check_dataset.main(["--config-file", str(target), *changed]) == 1
    assert "found: train: no label map holds moon: correct data.names and data.stored" in capsys.readouterr().out
    arguments = [str(tmp_path / "data"), str(target), "--overwrite", "--names"]
    with pytest.raises(UserError, match="--names: 5 for 3 pixel values: name 0, 1, 2 alone, or"):
        new_config.main([*arguments, "a, b, c, d, e"])
    new_config.main([*arguments, "cat, dog"])  # one less: value 0 is a background
    assert (read_config(target).data.stored, read_config(target).data.ignored) == ((1, 2), (0,))
    save_palette_png(tmp_path / "data" / "x.png", labels)
    (tmp_path / "data" / "x.png").rename(tmp_path / "x.png")
    for folder, words in ((tmp_path / "data", "no two names"), (tmp_path, "no images there")):
        for path in (tmp_path / "data").glob("*_mask.png"):
            path.rename(path.with_name(f"mask{path.name}"))
        with pytest.raises(UserError, match=words):
            new_config.main([str(folder), str(tmp_path / "other.py")])
        for path in (tmp_path / "data").glob("*[0-9].png"):
            path.unlink()
    save_image(tmp_path / "masks" / "0.png", labels, 0)
    save_image(tmp_path / "masks" / "0.jpg", labels, 0)
    with pytest.raises(UserError, match=r"2 images, 0 label maps: no label maps .* but masks drawn in colours or"):
        new_config.main([str(tmp_path / "masks"), str(tmp_path / "other.py")])
