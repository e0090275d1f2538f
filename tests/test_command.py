"""Tests of the console command `jseg`, most of them with what a wheel holds alone, from an empty folder."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from jseg import command
from jseg.errors import UserError
from jseg.released_configs import find_config

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what `pip install` makes of this checkout, without the packages it needs."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # the build leaves files beside the sources
    kept = shutil.ignore_patterns(".*", "work_dirs", "build", "*.egg-info", "__pycache__", "ViT*", "docs", "tests")
    shutil.copytree(ROOT, source, ignore=kept)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source)]
    subprocess.run(build, check=True)
    wheel = next(folder.glob("jseg_clip-*.whl"))
    held = set(zipfile.ZipFile(wheel).namelist())
    for part in ("jseg", "configs", "tools"):
        own = {path.relative_to(ROOT) for path in (ROOT / part).rglob("*.py")}
        assert {str(path if part == "jseg" else "jseg" / path) for path in own} <= held
    scenes = {str("jseg" / path.relative_to(ROOT)) for path in (ROOT / "examples").rglob("scene_*")}
    assert len(scenes) == 6 and scenes | {"jseg/pretrained/shapes_clip_rc.safetensors"} <= held
    subprocess.run([*pip, "install", "--no-deps", "--target", str(folder / "site"), str(wheel)], check=True)
    return folder / "site"


def run(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """What `jseg` does in an empty folder."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, str(installed / "bin" / "jseg"), *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_a_wheel_alone_has_the_tools_and_the_configs(installed: Path, tmp_path: Path) -> None:
    done = run(installed, tmp_path, "--help")
    assert done.returncode == 0 and done.stdout == run(installed, tmp_path).stdout
    words = [line.split()[0] for line in done.stdout.splitlines()[2:]]
    assert words == [*command.TASKS, "report", *command.TOOLS]
    done = run(installed, tmp_path, "segment", "--help")
    assert done.stdout.startswith("usage: jseg segment ") and done.returncode == 0, done.stderr
    assert "\n    jseg segment photo.jpg --classes " in done.stdout and "photo_overlay.png " in done.stdout
    done = run(installed, tmp_path, "val", "--help")
    assert "\n    jseg val --config-file shapes_demo --weights work_dirs/" in done.stdout
    assert "tools/" not in done.stdout and "metrics.json" in done.stdout
    done = run(installed, tmp_path, "val", "--config", "voc12_inductive", "--weights", "w.pth", "data.root=VOC2012")
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"error: folder {tmp_path}/VOC2012/JPEGImages does not exist: ")
    assert "which jseg prepare-voc12 makes" in done.stderr
    done = run(installed, tmp_path, "check", "--config-file", "shapes_demo", "data.shapes.val_scenes=2")
    assert done.returncode == 0, done.stderr
    done = run(installed, tmp_path, "val", "--config", "shapes_demo", "--weights", "w.pth")
    assert done.stderr == "error: weight file w.pth does not exist; see what there is by jseg fetch --list\n"
    done = run(installed, tmp_path, "train", "--config", "voc12_inductiv", "--work-dir", "run")
    assert done.returncode == 2 and "did you mean 'voc12_inductive'" in done.stderr and not list(tmp_path.iterdir())
    for folder, kind in (("images", ".jpg"), ("labels", ".png")):
        (tmp_path / folder).mkdir()
        for name in ("a", "b"):
            Image.new("L" if kind == ".png" else "RGB", (8, 8)).save(tmp_path / folder / (name + kind))
    done = run(installed, tmp_path, "new-config", ".", "own.py", "--names", "cat")
    config = (tmp_path / "own.py").read_text()
    assert "jseg check --config-file" in done.stdout and "    jseg train --config-file own.py\n" in config, done.stderr
    assert "tools/" not in done.stdout and Path(re.search(r"^base = '(.*)'", config, re.MULTILINE)[1]).is_file()
    done = run(installed, tmp_path, "segmnt")
    assert (done.returncode, done.stderr) == (2, "error: jseg segmnt: no such command: did you mean 'segment'?\n")


def test_every_tool_has_a_word_but_those_for_a_checkout() -> None:
    tools = {path.stem for path in (ROOT / "tools").glob("*.py")} - {"run_net", "gpu_report", "pack_wheels"}
    assert tools == set(command.TOOLS.values())
    assert all(callable(command.load(word).main) for word in (*command.TASKS, "report", *command.TOOLS))


@pytest.mark.parametrize("tool", sorted((ROOT / "tools").glob("*.py")), ids=lambda path: path.stem)
def test_help_of_every_tool_shows_an_example(tool: Path) -> None:
    done = subprocess.run([sys.executable, str(tool), "--help"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and f"\n    python tools/{tool.name} " in done.stdout, done.stderr


def test_configs_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config("shapes_demo") == ROOT / "configs" / "shapes_demo.py"
    assert find_config("shapes_demo.py") == tmp_path / "shapes_demo.py"  # a file, there or not
    (tmp_path / "shapes_demo").touch()
    assert find_config("shapes_demo") == tmp_path / "shapes_demo"
    with pytest.raises(UserError, match="config shape_demo: no such file, nor one of ours: did you mean 'shapes_demo'"):
        find_config("shape_demo")
