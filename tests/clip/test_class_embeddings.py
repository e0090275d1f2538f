"""Tests of jseg/clip/class_embeddings.py: where class embeddings come from, and what stays with the weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from jseg.clip.class_embeddings import (
    TextFeatures,
    class_embeddings,
    random_text_model,
    text_model_of_checkpoint,
    text_model_of_clip,
)
from jseg.clip.weights import read_clip_weights
from jseg.config import Config
from jseg.data.class_names import class_list
from jseg.engine import checkpoint
from jseg.errors import UserError
from jseg.weights.reader import WeightFile

SHAPES = class_list("shapes")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JSEG_CACHE", str(tmp_path / "cache"))


def random_config() -> Config:
    config = Config()
    config.model.init, config.model.output_dim = "random", 16
    config.text.vocabulary, config.text.width, config.text.layers, config.text.heads = "generated", 24, 2, 3
    config.text.context_length = 20
    return config


def saved(folder: Path, config: Config, text: TextFeatures) -> WeightFile:
    path = folder / "weights.safetensors"
    meta = checkpoint.describe(config, SHAPES, text)
    checkpoint.save(path, {"backbone.x": np.zeros(1), **checkpoint.text_arrays(text)}, meta)
    return checkpoint.read_whole(path)


def test_a_random_tower_depends_on_the_seed_alone() -> None:
    config = random_config()
    first, again = class_embeddings(config, SHAPES), class_embeddings(config, SHAPES)
    assert first.matrix.shape == (20, 16) and first.sha256 == again.sha256
    np.testing.assert_allclose(np.linalg.norm(first.matrix, axis=1), 1, atol=1e-5)
    assert np.abs(first.matrix[0] - first.matrix[1]).max() > 1e-3
    config.train.seed = 1
    assert class_embeddings(config, SHAPES).sha256 != first.sha256


def test_words_shared_by_class_names_make_embeddings_alike() -> None:
    """The generated vocabulary keeps whole words: every class name is a few tokens, none unknown."""
    tokenizer = random_text_model(random_config(), SHAPES).tokenizer()
    assert [len(tokenizer.encode(name)) for name in SHAPES.names] == [3] * 20
    assert tokenizer.encode("red star")[0] == tokenizer.encode("red circle")[0]


def test_a_checkpoint_is_enough_to_embed_new_class_names(tmp_path: Path) -> None:
    config = random_config()
    text = class_embeddings(config, SHAPES)
    side = text_model_of_checkpoint(saved(tmp_path, config, text), Config().text)  # another config: all from the file
    assert side.heads == 3 and side.merges == text.text_model.merges
    names = ["red circle", SHAPES.names[3]]
    rows = side.embed(names, config.text.templates)
    np.testing.assert_allclose(rows[1], text.matrix[3], atol=1e-6)
    np.testing.assert_allclose(rows, text.text_model.embed(names, config.text.templates), atol=1e-6)


def test_weights_bring_their_embeddings(tmp_path: Path) -> None:
    config = random_config()
    text = class_embeddings(config, SHAPES)
    file = saved(tmp_path, config, text)
    config.train.seed = 5  # would make another random tower
    again = class_embeddings(config, SHAPES, file)
    assert again.sha256 == text.sha256 and again.text_model is not None
    config.text.templates = ("one {}",)  # other templates: the tower of the file has to run
    assert np.abs(class_embeddings(config, SHAPES, file).matrix - text.matrix).max() > 1e-3


def test_embeddings_from_a_file(tmp_path: Path) -> None:
    config, rows = random_config(), np.random.default_rng(0).normal(size=(20, 16)).astype(np.float16)
    np.save(tmp_path / "rows.npy", rows)
    config.text.embeddings = str(tmp_path / "rows.npy")
    text = class_embeddings(config, SHAPES)
    assert np.array_equal(text.matrix, rows.astype(np.float32)) and text.text_model is None
    with pytest.raises(UserError, match=r"rows\.npy are for 20 classes, the class list of coco_stuff has 171"):
        class_embeddings(config, class_list("coco_stuff"))
    config.model.output_dim = 32
    with pytest.raises(UserError, match="length 16"):
        class_embeddings(config, SHAPES)


def test_weights_trained_with_other_embeddings_are_refused(tmp_path: Path) -> None:
    config = random_config()
    file = saved(tmp_path, config, class_embeddings(config, SHAPES))
    np.save(tmp_path / "rows.npy", np.eye(20, 16, dtype=np.float32))
    config.text.embeddings = str(tmp_path / "rows.npy")
    with pytest.raises(UserError, match="trained with other class embeddings"):
        class_embeddings(config, SHAPES, file)
    assert class_embeddings(config, SHAPES, file, other_classes=True).matrix[0, 0] == 1


def test_without_a_source_the_way_out_is_named() -> None:
    config = random_config()
    file = WeightFile({"backbone.x": np.zeros(1)}, {}, "", "", Path("released.pth"))
    with pytest.raises(UserError, match=r"text\.embeddings.*fetch_pretrained"):
        class_embeddings(config, SHAPES, file)


def test_a_broken_text_tower_is_refused_with_names() -> None:
    tensors = {"text_encoder.positional_embedding": np.zeros((77, 8), np.float32)}
    side = text_model_of_checkpoint(WeightFile(tensors, {}, "", "", Path("a.pth")), Config().text)
    with pytest.raises(UserError, match=r"a\.pth holds no whole text tower"):
        side.tower()


@pytest.mark.parity
def test_the_tower_of_clip_weights(golden: Path) -> None:
    """Built from a CLIP file, the tower gives the recorded embeddings (5e-5, as tolerances.json)."""
    folder = golden / "torch_release"
    recorded = np.load(folder / "clip_towers.npz")
    clip = read_clip_weights(sorted((folder / "convert").glob("hf_clip.safetensors"))[0])
    config = Config()
    config.text.heads = int(
        json.loads((folder / "convert" / "hf_config.json").read_text())["text_config"]["num_attention_heads"]
    )
    side = text_model_of_clip(clip, config.text)
    assert not any(name.startswith("visual.") for name in side.tensors)
    np.testing.assert_allclose(side.tower()(recorded["token_ids"]).numpy(), recorded["text_embeds"], atol=5e-5)


def test_a_vocabulary_of_another_size_is_refused(golden: Path) -> None:
    clip = read_clip_weights(sorted((golden / "torch_release" / "convert").glob("hf_clip.safetensors"))[0])
    config = Config()
    side = text_model_of_clip(clip, config.text)
    small = type(side)(side.tensors, side.heads, (("a", "b"),), side.source)
    with pytest.raises(UserError, match=r"tokens, the vocabulary has 515: correct text\.vocabulary"):
        small.tokenizer()
    config.text.vocabulary = "generated"
    assert text_model_of_clip(clip, config.text).merges is None  # never a generated one beside trained weights
