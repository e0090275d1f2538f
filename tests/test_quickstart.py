"""examples/quickstart.ipynb: its code runs, from the first cell to the last, and shows what it says."""

import ast
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import jseg.segmenter  # noqa: F401  # before the test changes where the notebook finds weights
from tests.small_weights import write_clip

ROOT = Path(__file__).parents[1]


def run_cell(source: str, names: dict[str, Any]) -> Any:
    """Runs a cell; its value is that of its last line, as in Jupyter. Lines for the shell (% and !) are left out."""
    tree = ast.parse("\n".join(line for line in source.splitlines() if line[:1] not in "%!"))
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names) if last else None


def test_all_cells_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a copy of the folder, with a small CLIP in place of the one that its cell fetches."""
    notebook = json.loads((ROOT / "examples" / "quickstart.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) == 10 and not any(cell.get("outputs") for cell in notebook["cells"])
    commands = ["%pip install --quiet ..", "!jseg fetch ViT-B-16 vocabulary"]
    assert [cell for cell in cells if cell[0] in "%!"] == commands
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    (tmp_path / "pretrained").mkdir()
    write_clip(tmp_path / "pretrained" / "ViT-B-16.pt")
    monkeypatch.setattr("jseg.files.shipped", tmp_path.joinpath)
    shutil.copy(ROOT / "examples" / "scene_2.jpg", tmp_path / "examples" / "photo.jpg")
    monkeypatch.chdir(tmp_path / "examples")
    monkeypatch.setenv("JSEG_CACHE", str(tmp_path / "cache"))
    names: dict[str, Any] = {}
    _, _, first, (labels, shares), mask, polygons, entries, files, _, photo = [run_cell(cell, names) for cell in cells]
    truth = np.asarray(Image.open("masks/scene_1.png"))
    assert (labels == 255)[truth == 255].mean() > 0.9 and abs(sum(shares.values()) - 1) < 1e-9
    assert first._repr_png_() and photo._repr_png_() and photo.names == ("cat", "dog", "grass")
    assert np.array_equal(np.asarray(mask), labels == 1) and len(polygons) and polygons[0].shape[1] == 2
    assert [area for _, _, area, _ in entries] == [(labels == index).sum() for index in range(3)]
    assert len(files) == 6 and all(file.is_file() for file in files)
