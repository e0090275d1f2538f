"""Tests of tools/embed_class_names.py: the file says what it is, and its mistakes are one line."""

from pathlib import Path

import numpy as np
import pytest

from jseg.clip.class_embeddings import read_embeddings
from jseg.data.class_names import class_list
from jseg.errors import UserError
from jseg.files import digest_of
from jseg.weights.reader import read_weight_file
from tests.small_weights import write_clip, write_ours
from tools.embed_class_names import main


def embed(*arguments: object) -> None:
    main([str(argument) for argument in arguments])


def test_a_data_set_with_the_tower_of_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    weights, output = tmp_path / "ours.safetensors", tmp_path / "shapes.safetensors"
    config = write_ours(weights)
    arguments = ["--dataset", "shapes", "--weights", weights, "--output", output, "--no-cuda"]
    embed(*arguments)
    found = read_embeddings(output, class_list("shapes"), config.text.templates)
    np.testing.assert_allclose(found, read_weight_file(weights).tensors["text_features"], atol=1e-6)
    assert read_weight_file(output).meta["weights_sha256"] == digest_of(weights)
    assert f"text.embeddings={output}" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"shapes\.safetensors exists.*--overwrite"):
        embed(*arguments)


def test_own_names_and_templates_with_clip_weights(tmp_path: Path) -> None:
    weights, output = tmp_path / "clip.safetensors", tmp_path / "own.safetensors"
    write_clip(weights)
    embed("--names", "cat,, dog ", "--template", "a {}", "--template", "the {}", "--weights", weights,
          "--output", output, "--device", "cpu")  # fmt: skip
    file = read_weight_file(output)
    assert file.meta["names"] == ["cat", "dog"] and file.meta["templates"] == ["a {}", "the {}"]
    assert file.tensors["embeddings"].shape == (2, 16)


def test_rows_of_a_plain_file(test_data: Path, tmp_path: Path) -> None:
    output = tmp_path / "voc12.safetensors"
    embed("--dataset", "voc12", "--npy", test_data / "voc12_single.npy", "--output", output)
    expected = np.load(test_data / "voc12_single.npy").astype(np.float32)
    np.testing.assert_array_equal(read_embeddings(output, class_list("voc12")), expected)


@pytest.mark.parametrize(("rest", "match"), [
    ("--dataset voc13 --weights a", "voc13"),
    ("--names cat,dog,cat --weights a", "each one once"),
    ("--names cat --npy a.npy", "--npy goes with --dataset"),
    ("--names cat --weights nowhere.pt", "nowhere.pt does not exist"),
])  # fmt: skip
def test_mistakes(rest: str, match: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=match):
        embed(*rest.split(), "--output", tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())
