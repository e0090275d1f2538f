"""The commands that the documents show: README's first ones run as they are, the options of all others are known."""

from jseg.runtime.command_line import ArgumentParser

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jseg import command

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "examples/README.md", ROOT / "pretrained/README.md"]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def code_lines(document: Path) -> list[str]:
    """The lines of fenced and indented code, and what README and docs/commands.md show between backticks."""
    text = re.sub(r" *\\\n *", " ", document.read_text(encoding="utf-8"))
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in fenced for line in block.splitlines()] + re.findall(r"^    (\w.*)", text, re.MULTILINE)
    plain = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    inline = re.findall(r"`([^`\n]+)`", plain) if document.name in ("README.md", "commands.md") else []
    return lines + [line for line in inline if "{" not in line and not line.endswith("…")]


COMMAND = re.compile(r"(^|\s)(?<!from )(jseg \w|python tools/\w+\.|python -m jseg)")
COMMANDS = {line: document.name for document in DOCUMENTS for line in code_lines(document)
            if COMMAND.search(line.partition("#")[0])}  # fmt: skip


class Parsed(Exception):
    """The options were understood."""


@pytest.mark.parametrize("line", COMMANDS, ids=lambda line: f"{COMMANDS[line]}: {line[:60]}")
def test_options_of_all_commands_are_known(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "TOOL_WORDS", {})
    for name in ("names.txt", "examples/names.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("cat\n")
    for name in ("parse_args", "parse_intermixed_args"):
        parse = getattr(ArgumentParser, name)

        def parse_only(self: ArgumentParser, *arguments: object, parse=parse) -> None:  # noqa: ANN001
            parse(self, *arguments)
            raise Parsed

        monkeypatch.setattr(ArgumentParser, name, parse_only)
    words = shlex.split(line, comments=True)
    words = words[min(words.index(word) for word in ("jseg", "python") if word in words) :]
    if words[0] == "jseg":
        monkeypatch.setattr(sys, "argv", words)
        main = command.call
    else:
        name = "jseg.runtime.__main__" if words[1] == "-m" else words[1].removesuffix(".py").replace("/", ".")
        monkeypatch.setattr(sys, "argv", words[2 if words[1] == "-m" else 1 :])
        main = importlib.import_module(name).main
    with pytest.raises((Parsed, SystemExit)) as ended:
        main()
    assert ended.type is Parsed or ended.value.code == 0  # --help


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a newcomer has: the examples, a photograph, and a CLIP, here the small one."""
    folder = tmp_path_factory.mktemp("newcomer")
    (folder / "examples").symlink_to(ROOT / "examples")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)).save(folder / "photo.jpg")
    (folder / "pretrained").mkdir()
    (folder / "pretrained" / "ViT-B-16.pt").symlink_to(ROOT / "pretrained" / "shapes_clip.safetensors")
    return folder


def shell(folder: Path, line: str) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    variables = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "JSEG_DEBUG": "1"}
    done = subprocess.run(line, shell=True, cwd=folder, env=variables, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_segmenting_as_readme_says(folder: Path) -> None:
    first, second = re.findall(r"^jseg segment .*--weights (?:shapes|pretrained).*", README, flags=re.MULTILINE)
    jseg = f"{shlex.quote(sys.executable)} -c 'from jseg.command import main; main()'"  # the command jseg
    assert shell(folder, first.replace("jseg", jseg, 1)).count("none of these") == 3
    assert "photo.jpg: " in shell(folder, second.replace("jseg", jseg, 1))
    overlays = {f"{name}_overlay.png" for name in ("photo", "scene_1", "scene_2", "scene_3")}
    assert overlays <= {path.name for path in (folder / "segmented").iterdir()}


def test_python_as_readme_says(folder: Path) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    (folder / "code.py").write_text(code)
    shares = shell(folder, f"{shlex.quote(sys.executable)} code.py")
    assert "'yellow striped square': 0." in shares and "'none of these': 0." in shares
    assert (folder / "segmented" / "scene_1.json").is_file()


def test_the_script_that_times_the_first_start(tmp_path: Path) -> None:
    """With a `make` that does nothing but write a Python and a jseg that are slow with an empty cache."""
    slow = "#!/bin/sh\n[ -e $JSEG_CACHE/$1 ] || sleep 0.5\nmkdir -p $JSEG_CACHE && touch $JSEG_CACHE/$1\n"
    (tmp_path / "slow").write_text(slow)
    (tmp_path / "make").write_text(
        f"#!/bin/sh\n[ $1 = demo ] && exec sh {tmp_path}/slow demo\nmkdir -p .venv/bin\n"
        f"for name in python jseg; do install {tmp_path}/slow .venv/bin/$name; done\n"
    )
    (tmp_path / "make").chmod(0o755)
    variables = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash", ROOT / "tests/first_start.sh"], env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seconds = dict(re.findall(r"^(.*?) +([\d.]+) s$", done.stdout, flags=re.MULTILINE))
    for name in ("demo", "segment"):
        assert 0.4 <= float(seconds[f"{name}: kernels"]) < 5 and float(seconds[f"{name}: work"]) < 5
        assert 0.9 <= float(seconds[f"{name}: first start without the environment"]) < 10
    assert "environment" in seconds


def test_make_does_not_empty_an_environment_that_it_did_not_make(tmp_path: Path) -> None:
    (tmp_path / "pyvenv.cfg").touch()
    done = subprocess.run(["make", "test", f"VENV={tmp_path}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "is not of make" in done.stderr and (tmp_path / "pyvenv.cfg").exists()
