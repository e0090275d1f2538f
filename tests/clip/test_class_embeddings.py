"""Class embeddings: ensembles against the release, the cache, files of embeddings, and where a run takes them from."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from jseg.clip.class_embeddings import (
    COCO_TEMPLATES,
    VOC_TEMPLATES,
    TextFeatures,
    class_embeddings,
    embed_class_names,
    random_text_model,
    read_embedding_file,
    read_embeddings,
    text_model_of_checkpoint,
    text_model_of_clip,
    write_embeddings,
)
from jseg.clip.tokenizer import VOCABULARY_NAME, Tokenizer, generate_vocabulary
from jseg.clip.weights import read_clip_weights
from jseg.config import Config
from jseg.data.class_names import class_list
from jseg.engine import checkpoint
from jseg.errors import UserError
from jseg.weights.reader import WeightFile, read_weight_file, write_safetensors

VOC, COCO, SHAPES = class_list("voc12"), class_list("coco_stuff"), class_list("shapes")
NAMES = ["cat", "dog", "traffic light"]
TEMPLATES = ["a photo of a {}.", "the {} in the scene"]


class CountingTower:
    """A text tower that is a table of random vectors; counts its calls."""

    context_length = 24

    def __init__(self, seed: int = 0) -> None:
        self.table = np.random.default_rng(seed).standard_normal((2000, 8)).astype(np.float32)
        self.calls = 0

    def __call__(self, token_ids: np.ndarray) -> SimpleNamespace:
        assert token_ids.dtype == np.int32 and token_ids.shape[1] == self.context_length
        self.calls += 1
        rows = self.table[token_ids].sum(axis=1) * np.arange(1, len(token_ids) + 1)[:, None]  # lengths of all kinds
        return SimpleNamespace(numpy=lambda: rows)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(generate_vocabulary(NAMES, 30))


@pytest.mark.parity
def test_ensembles_equal_the_release(golden: Path, test_data: Path) -> None:
    """Tolerance 5e-5, as tolerances.json says for text*."""
    from jseg.clip.text_tower import TextTower
    from jseg.weights.state import strict_load

    for path in sorted((golden / "torch_release").glob("text*.npz")):
        data = np.load(path)
        config = json.loads(str(data["config_json"]))
        tower = TextTower(
            config["width"], config["layers"], config["heads"], config["embed"], config["context_length"],
            config["vocab_size"],
        )  # fmt: skip
        weights = {name.removeprefix("weight."): data[name] for name in data.files if name.startswith("weight.")}
        weights["token_embedding.weight"] = np.zeros((config["vocab_size"], config["width"]), np.float32)
        weights["token_embedding.weight"][data["token_rows_idx"]] = data["token_rows"]
        strict_load(tower, weights)
        tokenizer = Tokenizer(test_data / VOCABULARY_NAME)
        classes, templates = json.loads(str(data["classes_json"])), json.loads(str(data["templates_json"]))
        assert tuple(templates) == COCO_TEMPLATES
        for expected, used in (("ensemble15", COCO_TEMPLATES), ("single", VOC_TEMPLATES)):
            rows = embed_class_names(classes, used, tokenizer, tower, "hash")
            assert rows.dtype == np.float32
            wanted = data[expected] / np.linalg.norm(data[expected], axis=1, keepdims=True)
            np.testing.assert_allclose(rows, wanted, atol=5e-5)


def test_mean_of_unit_vectors(tokenizer: Tokenizer) -> None:
    rows = embed_class_names(NAMES, TEMPLATES, tokenizer, CountingTower(), "hash")
    assert rows.shape == (3, 8)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    tower = CountingTower()
    texts = [template.format(NAMES[1]) for template in TEMPLATES]
    each = np.stack([tower(tokenizer(text, 24)).numpy()[0] for text in texts])
    each /= np.linalg.norm(each, axis=1, keepdims=True)
    mean = each.mean(axis=0)
    np.testing.assert_allclose(rows[1], mean / np.linalg.norm(mean), atol=1e-6)


def test_many_texts_go_in_batches(tokenizer: Tokenizer) -> None:
    tower = CountingTower()
    many = [f"cat {number}" for number in range(100)]
    assert embed_class_names(many, TEMPLATES, tokenizer, tower, "hash").shape == (100, 8)
    assert tower.calls == 4


def test_cache_is_keyed_by_everything_that_matters(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tower = CountingTower()

    def embed(**changes: object) -> np.ndarray:
        arguments = {"names": NAMES, "templates": TEMPLATES, "tokenizer": tokenizer, "text_tower": tower,
                     "weights_hash": "a", "cache_folder": tmp_path / "cache"}  # fmt: skip
        return embed_class_names(**{**arguments, **changes})

    first = embed()
    assert tower.calls == 1 and np.array_equal(embed(), first) and tower.calls == 1
    changes = (
        {"names": NAMES[::-1]},
        {"templates": TEMPLATES[:1]},
        {"weights_hash": "b"},
        {"tokenizer": Tokenizer(tokenizer.merges[:-1])},
    )
    for number, change in enumerate(changes, start=2):
        embed(**change)
        assert tower.calls == number, change
    assert np.array_equal(embed(), first) and tower.calls == 5
    assert len(list((tmp_path / "cache").iterdir())) == 5


def test_a_damaged_cache_is_made_again(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tower = CountingTower()
    first = embed_class_names(NAMES, TEMPLATES, tokenizer, tower, "a", tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for content in (b"", whole[:-3], whole[:-4] + np.float32(np.nan).tobytes()):
        path.write_bytes(content)
        again = embed_class_names(NAMES, TEMPLATES, tokenizer, tower, "a", tmp_path)
        assert np.array_equal(again, first)
    assert tower.calls == 4


def test_wrong_prompts_are_user_errors(tokenizer: Tokenizer) -> None:
    for names, templates, match in (
        ([], TEMPLATES, "at least one"),
        (NAMES, [], "at least one"),
        (NAMES, ["a photo"], "must hold"),
        (NAMES, ["{} and {}"], "must hold"),
        (["zebra " * 30], TEMPLATES, "tokens where 24 fit"),
    ):
        with pytest.raises(UserError, match=match):
            embed_class_names(names, templates, tokenizer, CountingTower(), "hash")


def test_a_tower_of_zeros_is_a_user_error(tokenizer: Tokenizer) -> None:
    tower = CountingTower()
    tower.table[:] = 0
    with pytest.raises(UserError, match="not finite"):
        embed_class_names(NAMES, TEMPLATES, tokenizer, tower, "hash")


def test_braces_in_a_class_name_are_no_format(tokenizer: Tokenizer) -> None:
    assert embed_class_names(["{0.x}", "100%"], TEMPLATES, tokenizer, CountingTower(), "hash").shape == (2, 8)


# --- files of embeddings ---


def rows(count: int = 20, length: int = 8) -> np.ndarray:
    return (np.random.default_rng(0).standard_normal((count, length)) * 3).astype(np.float16)


def test_files_are_used_as_they_are(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", rows())
    write_embeddings(tmp_path / "a.safetensors", rows(), VOC.names, VOC_TEMPLATES, "ab" * 32, VOC)
    for name in ("a.npy", "a.safetensors"):
        found, warnings = read_embeddings(tmp_path / name, VOC, 8, VOC_TEMPLATES)
        assert found.dtype == np.float32 and np.array_equal(found, rows().astype(np.float32))
        assert [name in line and "taken to be voc12's" in line for line in warnings] == [True] * (name == "a.npy")


def test_what_a_file_of_ours_says(tmp_path: Path) -> None:
    write_embeddings(tmp_path / "a.safetensors", rows(), VOC.names, VOC_TEMPLATES, "ab" * 32, VOC)
    meta = read_weight_file(tmp_path / "a.safetensors").meta
    assert meta["names"] == list(VOC.names) and meta["templates"] == list(VOC_TEMPLATES)
    assert meta["weights_sha256"] == "ab" * 32 and meta["dataset"] == "voc12"
    write_embeddings(tmp_path / "own.safetensors", rows(2), ["cat", "dog"], VOC_TEMPLATES, "ab" * 32)
    file = read_embedding_file(tmp_path / "own.safetensors")
    assert file.names == ("cat", "dog") and file.dataset == ""


def test_embeddings_of_another_data_set_of_the_same_size(tmp_path: Path) -> None:
    write_embeddings(tmp_path / "a.safetensors", rows(), VOC.names, VOC_TEMPLATES, "ab" * 32, VOC)
    with pytest.raises(UserError, match=r"other classes of voc12: row 0 is 'aeroplane', class 0 of shapes is 'red str"):
        read_embeddings(tmp_path / "a.safetensors", SHAPES, 8)
    swapped = dataclasses.replace(VOC, names=(*VOC.names[:18], VOC.names[19], VOC.names[18]))
    with pytest.raises(UserError, match="row 18 is 'train'"):
        read_embeddings(tmp_path / "a.safetensors", swapped, 8)


def test_other_templates(tmp_path: Path) -> None:
    write_embeddings(tmp_path / "a.safetensors", rows(), VOC.names, VOC_TEMPLATES, "ab" * 32, VOC)
    with pytest.raises(UserError, match=r"other templates \(1, first 'a photo of a \{\}'\) than text.templates \(15"):
        read_embeddings(tmp_path / "a.safetensors", VOC, 8, COCO_TEMPLATES)


def test_released_files_are_known_by_their_checksum(test_data: Path) -> None:
    for name, classes, templates in (("voc12_single", VOC, VOC_TEMPLATES), ("coco_multi", COCO, COCO_TEMPLATES)):
        found, warnings = read_embeddings(test_data / f"{name}.npy", classes, 512, templates)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=2e-3)  # float16 rows of unit length
        assert warnings == []
    with pytest.raises(UserError, match="for 171 classes of coco_stuff, the class list of voc12 has 20"):
        read_embeddings(test_data / "coco_multi.npy", VOC, 512)
    with pytest.raises(UserError, match="for other classes of voc12: row 0"):
        read_embeddings(test_data / "voc12_single.npy", SHAPES, 512)
    with pytest.raises(UserError, match="other templates"):
        read_embeddings(test_data / "voc12_single.npy", VOC, 512, COCO_TEMPLATES)


def test_damaged_files_are_user_errors(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"

    def refused(match: str) -> None:
        with pytest.raises(UserError, match=match):
            read_embeddings(path, VOC, 8)

    refused("do not exist")
    np.save(path, rows(19))
    refused("for 19 classes, the class list of voc12 has 20")
    np.save(path, rows())
    content = path.read_bytes()
    for length in (0, 5, 60, len(content) - 4):
        path.write_bytes(content[:length])
        refused("truncated or no .npy")
    path.write_bytes(content.replace(b"(20, 8)", b"(20, 8" + b"0" * 12 + b")"))
    refused("truncated or no .npy")
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    refused("truncated or no .npy")
    for array, match in (
        (np.ones((20, 9), np.float32), "length 9"),
        (np.ones((20, 8), np.int64), "expected floats"),
        (np.ones(20, np.float32), "expected floats"),
        (np.full((20, 8), np.nan, np.float32), "not finite"),
    ):
        np.save(path, array)
        refused(match)


def test_metadata_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for arrays, meta, match in (
        ({"embeddings": rows()}, {"names": ["cat"]}, "20 rows for 1 names"),
        ({"embeddings": rows(), "more": rows()}, {}, "hold 2 arrays"),
    ):
        write_safetensors(path, arrays, meta)
        with pytest.raises(UserError, match=match):
            read_embedding_file(path)


# --- of a run ---


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
