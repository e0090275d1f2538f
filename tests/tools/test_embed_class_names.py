"""Tests of tools/embed_class_names.py: the file says what it is, and its mistakes are one line."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from jseg.clip.class_embeddings import read_embedding_file, read_embeddings, text_model_of_checkpoint
from jseg.data.class_names import class_list
from jseg.errors import UserError
from jseg.weights.reader import read_weight_file, sha256_of_file
from tests.small_weights import OUTPUT_DIM, write_clip, write_ours

TOOL = Path(__file__).resolve().parents[2] / "tools" / "embed_class_names.py"


def load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("embed_class_names", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


embed_class_names = load_tool()


def test_a_data_set_with_the_tower_of_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    weights, output = tmp_path / "ours.safetensors", tmp_path / "shapes.safetensors"
    config = write_ours(weights)
    arguments = ["--dataset", "shapes", "--weights", str(weights), "--output", str(output), "--no-cuda"]
    embed_class_names.main(arguments)
    found, warnings = read_embeddings(output, class_list("shapes"), OUTPUT_DIM, config.text.templates)
    np.testing.assert_allclose(found, read_weight_file(weights).tensors["text_features"], atol=1e-6)
    assert warnings == [] and read_weight_file(output).meta["weights_sha256"] == sha256_of_file(weights)
    assert f"text.embeddings={output}" in capsys.readouterr().out
    with pytest.raises(UserError, match="--force"):
        embed_class_names.main(arguments)


def test_own_names_and_templates_with_clip_weights(tmp_path: Path) -> None:
    weights, output = tmp_path / "clip.safetensors", tmp_path / "own.safetensors"
    write_clip(weights)
    (tmp_path / "names.txt").write_text("cat\n\n dog \n")
    embed_class_names.main(
        ["--names-file", str(tmp_path / "names.txt"), "--template", "a {}", "--template", "the {}", "--weights"]
        + [str(weights), "--output", str(output), "--device", "cpu"]
    )
    file = read_embedding_file(output)
    assert file.names == ("cat", "dog") and file.templates == ("a {}", "the {}") and file.matrix.shape == (2, 16)
    assert text_model_of_checkpoint(read_weight_file(weights), write_ours(tmp_path / "o.safetensors").text) is None


def test_rows_of_a_plain_file(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rows = np.random.default_rng(0).standard_normal((20, 16)).astype(np.float16)
    np.save(tmp_path / "rows.npy", rows)
    output = tmp_path / "voc12.safetensors"
    embed_class_names.main(["--dataset", "voc12", "--npy", str(tmp_path / "rows.npy"), "--output", str(output)])
    np.testing.assert_array_equal(read_embedding_file(output).matrix, rows.astype(np.float32))
    assert read_embedding_file(output).names == class_list("voc12").names
    assert "warning:" in capsys.readouterr().out


@pytest.mark.parametrize(
    "rest, match",
    [
        (["--dataset", "voc13", "--weights", "a"], "voc13"),
        (["--names", " , ", "--weights", "a"], "no class names"),
        (["--names", "cat,dog,cat", "--weights", "a"], "'cat' is given twice"),
        (["--names", "cat", "--split", "B", "--weights", "a"], "--split goes with --dataset"),
        (["--names-file", "nowhere.txt", "--weights", "a"], "nowhere.txt does not exist"),
        (["--names", "cat", "--npy", "a.npy"], "--npy goes with --dataset"),
        (["--names", "cat", "--weights", "a", "--template", "a photo"], "must hold {} once"),
        (["--names", "cat", "--weights", "a", "--template", "a {}", "--templates", "voc"], "exclude each other"),
        (["--names", "cat", "--weights", "nowhere.pt"], "nowhere.pt does not exist"),
        (["--names", "cat", "--weights", "a", "--output", "a.npy"], "must end in .safetensors"),
    ],
)
def test_mistakes(rest: list[str], match: str, tmp_path: Path) -> None:
    output = [] if "--output" in rest else ["--output", str(tmp_path / "a.safetensors")]
    with pytest.raises(UserError, match=match):
        embed_class_names.main([*rest, *output])
    assert not list(tmp_path.iterdir())
